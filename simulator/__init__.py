"""A whole application in one thread: real loops, in-memory log and databases, virtual time; and the chaos around it.

The world (no faults in it):
`world` puts an application's topics, databases and processes together; `commands` and `database` are the ports
of participants and relays; `processes` are what can be stepped and killed; `scripted` are participants that
nobody wrote, `samples` the inputs that nobody typed; `reading` is the reader of its topics. `light` is a world in
real time: `kompensate dev --light`.

The chaos: `plan` is a run as data, `run` steps the processes by a seed, `load` starts sagas and sends signals,
`expected` are the types that programs want of answers, `schedules` the application's. `telling` makes up events,
`audience` brings them to who listens, `hearing` holds the invariants of both; `outside` are the providers that external
handlers call. `chaos` brings the faults, `mishaps` those of processes; `ledger` and `effects` hold the invariants
after every commit, `rest` those of a healed
system. `shrinking` makes a failure small, `campaign` runs seeds for as long as you like.
"""
