"""The worker's loop and the order in which it deals with the log, on ports only: it runs on Kafka and in memory.

`loop` polls, handles, commits and reacts; `portion` says how much at once, `places` has the partitions, from being
given to being taken away; `transactions` knows the order of a commit and when a producer is
replaced, `restore` that of a take-over, `slots` which worker has which transactional ids, `health` how it stands,
`aside` what waits on a thread of its own.
"""
