"""The barrier: what becomes of a command, given what the inbox knows of it and of the command it undoes.

Commands arrive late, twice, or after their own compensation (architecture.md, section 6). Pure: the rows
were claimed before, in the transaction that asks, so nobody else can change them until it ends.

    what arrives                           what the inbox knows              verdict
    any command                            it was answered                   REPEAT the stored reply
    any command                            claimed or deferred, committed    IN_HAND: its answer comes
    forward                                cancelled                         LATE: refused
    forward                                nothing, and it has expired       EXPIRED
    forward                                nothing                           RUN
    compensation, itself unknown           its command is unknown            EMPTY: cancel the command, done
    compensation, itself unknown           its command was done              RUN
    compensation, itself unknown           its command ended otherwise       NOTHING to undo, done
    compensation, itself unknown           its command deferred: not called  CANCEL it, done; or WAIT if it just was
    compensation, itself unknown           its command claimed: a call is    WAIT for its end
                                           out, or was and is in doubt
"""

from enum import Enum, auto

from kompensate.outbox.inbox import Entry
from kompensate.schemas.messages import Command


class Verdict(Enum):
    """What to do with a command."""

    RUN = auto()
    REPEAT = auto()
    LATE = auto()
    EXPIRED = auto()
    EMPTY = auto()
    NOTHING = auto()
    IN_HAND = auto()
    CANCEL = auto()
    WAIT = auto()


def judge(command: Command, own: Entry | None, forward: Entry | None, now_ms: int) -> Verdict:
    """The verdict on `command`; None for what the inbox did not know. `forward` is of the command it compensates."""
    if own is not None:
        return {"answered": Verdict.REPEAT, "cancelled": Verdict.LATE}.get(own.state, Verdict.IN_HAND)
    if command.phase == "forward":
        expired = command.expires_at is not None and command.expires_at < now_ms
        return Verdict.EXPIRED if expired else Verdict.RUN
    if forward is None:
        return Verdict.EMPTY
    if forward.state == "answered":
        return Verdict.RUN if forward.outcome == "done" else Verdict.NOTHING
    return {"cancelled": Verdict.NOTHING, "deferred": Verdict.CANCEL}.get(forward.state, Verdict.WAIT)
