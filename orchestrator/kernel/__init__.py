"""Durable execution: the part that must never lie.

Theory of operation. A saga is a program: a coroutine that awaits what its `Context` hands out. The
kernel feeds it one *input* at a time (a start, a reply, a signal, a due timer, an operator's order) and
each input becomes a *decision*: events, which say what has happened, and effects, which the shell must
carry out in the same transaction that stores the events.

    input ─► decide(execution, input) ─► events ─► evolve(state, event) ─► state
                      │   ▲                └──────► history (journal)
                      ▼   │
                   program: coroutine stepped by hand with send()

Nothing in here reads a clock, draws a random number, does I/O, logs, or waits: time comes in with the
input, ids and jitter are derived by hashing. So the same inputs always give the same events, on every
machine and every supported Python; folding the events gives the same state, and feeding the recorded
outcomes to a fresh coroutine brings it to the same line.

That is also all that is asked of a program: given the same outcomes in the same order it must ask for
the same operations in the same order. Replay compares each operation with the recorded one; where they
differ the saga is held, with expected and got, and goes on once the code is mended.

Compensations belong to the engine, not to the program: a call registers its undo before the command is
sent; when the saga turns back the coroutine is closed and the undo commands run over exactly the done
and in-doubt calls, in reverse order of completion.

The state machines are the tables in `tables`; everything else is what no table can say.
Invariant: nothing below this package imports anything but the standard library and itself.
"""
