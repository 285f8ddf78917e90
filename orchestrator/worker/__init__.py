"""The worker's loop and the order in which it deals with the log, on ports only: it runs on Kafka and in memory.

`loop` polls, handles, commits and reacts; `transactions` knows the order of a commit and when a producer is
replaced, `restore` that of a take-over, `slots` which worker has which transactional ids, `health` how it stands,
`aside` what waits on a thread of its own.
"""
