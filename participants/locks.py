"""Semantic locks: a saga holds what it works on from one step to another, and other sagas wait or are refused.

    locks.take(session, call, f"account:{command.account}", expires=600, wait=10)      # in its first step
    locks.confirm(session, call, f"account:{command.account}")                         # in a later one
    locks.release(session, call)                                                       # in its last, and in the undo

All in the handler's own transaction: kept or undone with what it writes. A lock keeps out who asks for it, nobody else.
Whoever waits does so outside of the transaction: its command is run again when it may be its turn, and only its own
saga's later commands wait behind it.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from kompensate.outbox.locks import Held, Locks, Owner, Waiting, locks_of
from kompensate.participants.outcome import Call, Noted, Refused, Waits

WAIT_SECONDS_MAX: Final = 60.0
"""What waits keeps its offset, and its place in the participant's memory: who would wait longer is better refused."""
WAITERS_MAX: Final = 200
"""In one database. A participant keeps 1,000 commands back, then reads no more; the release that all wait for has to be
read, and each of them may have been sent again meanwhile."""
AGAIN_SECONDS: Final = 0.1
AGAIN_SECONDS_MAX: Final = 2.0
"""Who is next in line asks so often, who is further behind less, up to that."""
NAME_CHARACTERS_MAX: Final = 200


class Locked(Refused, Noted):
    """The lock cannot be had. `detail` has `lock`, and `holder`: the id of the saga that has it."""

    def __init__(self, reason: str, owner: Owner, **detail: object) -> None:
        super().__init__(reason, **detail)
        self._owner = owner

    def note(self, connection: Connection) -> None:
        """It waits no more, whatever becomes of its handler's writes."""
        locks_of(connection).leave(self._owner)


class InLine(Waits, Noted):
    """It stands in line; `names` are the locks that it lacks."""

    def __init__(self, reason: str, seconds: float, owner: Owner, names: Sequence[str]) -> None:
        super().__init__(reason, seconds)
        self._owner, self._names = owner, names

    def note(self, connection: Connection) -> None:
        """Its place in the line outlives the handler's writes, which are undone."""
        locks_of(connection).ask(self._owner, self._names)


def take(where: Any, call: Call, *names: str, expires: float | None, wait: float = 0.0) -> int:
    """Hold the locks `names`, all of them or none; what this saga holds already it goes on holding.

    `where` is what the handler was given: a session, connection or cursor. `expires` in seconds: from then on another
    may take them, although this saga is not done; None: never. `wait` up to so many seconds, at most 60, then refuse.
    Returns a token that is greater than that of every former holder. Raises Locked (a Refused) where another has one of
    them, or where waiting would be in a circle; ValueError for arguments that cannot be.
    """
    _check(names, expires, wait)
    locks, me = _locks(where), _owner(call)
    found = {name: locks.held(name) for name in sorted(set(names))}
    lacking = {name: whose for name, held in found.items() if (whose := _in_the_way(locks, me, name, held)) is not None}
    tokens = []
    for name, held in () if lacking else found.items():
        if held is not None and held.owner == me and not held.free:
            locks.extend(name, expires)
            tokens.append(held.token)
        elif (token := locks.take(name, me, call.id, expires)) is not None:
            tokens.append(token)
        else:  # somebody was faster, just now
            now = locks.held(name)
            lacking[name] = me if now is None else now.owner
            break
    if lacking:
        raise _not_now(locks, me, lacking, wait)
    locks.leave(me)
    return max(tokens)


def confirm(where: Any, call: Call, name: str) -> int:
    """This saga holds the lock, and until this transaction ends nobody takes it: its token. Raises Locked if not."""
    locks, me = _locks(where), _owner(call)
    held = locks.keep(name)
    if held is not None and held.owner == me and not held.free:
        return held.token
    raise Locked(f"lock {name}: expected {me} to hold it, got {_lost(held, me)}", me, lock=name, holder=_holder(held))


def release(where: Any, call: Call, *names: str) -> list[str]:
    """Give up `names`, or all that this saga holds in this database; returns which it held. Twice does no harm.

    A compensation also releases what the command that it undoes took, whichever saga had sent that (of a fork).
    """
    return _locks(where).release(_owner(call), call.compensates, sorted(set(names)))


def _check(names: Sequence[str], expires: float | None, wait: float) -> None:
    for name in names:
        if not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
            raise ValueError(f"lock: expected a name of 1 to {NAME_CHARACTERS_MAX} printable characters, got {name!r}")
    if not names:
        raise ValueError("locks: expected at least one name, got none")
    if expires is not None and not 0 < expires < math.inf:
        raise ValueError(f"locks {', '.join(names)}: expected expires in seconds, more than 0, or None, got {expires}")
    if not 0 <= wait <= WAIT_SECONDS_MAX:
        raise ValueError(f"locks {', '.join(names)}: expected wait of 0 to {WAIT_SECONDS_MAX:g} seconds, got {wait}")


def _owner(call: Call) -> Owner:
    return Owner(call.source, call.saga_id)


def _locks(where: Any) -> Locks:
    """By whatever a handler may have been given; psycopg's own is told by what it has not."""
    where = getattr(where, "sync_session", where)
    if isinstance(where, Session):
        where = where.connection()
    if isinstance(where, Connection):
        return locks_of(where)
    make: Callable[[], Any] = where.cursor if hasattr(where, "cursor") else where.connection.cursor
    return Locks(make, sqlite=False)


def _in_the_way(locks: Locks, me: Owner, name: str, held: Held | None) -> Owner | None:
    """Who has it, or waited for it before; None: it may be taken."""
    if held is not None and not held.free:
        return None if held.owner == me else held.owner
    line = [waiting for waiting in locks.waiters() if waiting.name == name]
    return None if not line or line[0].owner == me else line[0].owner


def _not_now(locks: Locks, me: Owner, lacking: Mapping[str, Owner], wait: float) -> Exception:
    """Wait, or why not."""
    waiters = locks.waiters()
    [(name, whose), *_] = lacking.items()
    told = f"lock {name} is held, or was asked for before, by {whose}"
    detail = {"lock": name, "holder": whose.saga_id}
    mine = [waiting for waiting in waiters if waiting.owner == me and waiting.name in lacking]
    waited = max((waiting.now - waiting.since for waiting in mine), default=0.0)
    if waited >= wait:
        return Locked(f"{told}; waited {waited:.1f} s" if wait else told, me, **detail)
    circle = _circle(me, lacking, waiters, locks.holders())
    if circle:
        around = " waits for ".join(map(str, circle))
        return Locked(f"{told}; waiting would be a deadlock: {around}", me, **detail, deadlock=True)
    if not mine and len({waiting.owner for waiting in waiters}) >= WAITERS_MAX:
        return Locked(f"{told}; {WAITERS_MAX} sagas wait in this database already", me, **detail)
    before = min(sum(_before(waiting, mine) for waiting in waiters if waiting.name == name), 100)
    seconds = min(AGAIN_SECONDS * (before + 1), AGAIN_SECONDS_MAX)
    return InLine(told, seconds, me, list(lacking))


def _before(waiting: Waiting, mine: Sequence[Waiting]) -> bool:
    return waiting not in mine and all(waiting.ticket < own.ticket for own in mine)


def _circle(
    me: Owner, lacking: Iterable[str], waiters: Sequence[Waiting], holders: Iterable[Held]
) -> list[Owner] | None:
    """The way from me over those I would wait for, and those they wait for, back to me; None: there is none."""
    holder = {held.name: held.owner for held in holders if not held.free}

    def awaited(name: str, ticket: float) -> Iterator[Owner]:
        if name in holder:
            yield holder[name]
        yield from (waiting.owner for waiting in waiters if waiting.name == name and waiting.ticket < ticket)

    def next_to(owner: Owner) -> Iterator[Owner]:
        own = {waiting.name: waiting.ticket for waiting in waiters if waiting.owner == owner}
        if owner == me:
            own = {name: own.get(name, 2**63) for name in lacking}
        return (each for name, ticket in own.items() for each in awaited(name, ticket) if each != owner)

    came: dict[Owner, Owner] = {}
    todo = deque([me])
    while todo:
        owner = todo.popleft()
        for each in next_to(owner):
            if each == me:
                way = [me, owner]
                while way[-1] != me:
                    way.append(came[way[-1]])
                return way[::-1]
            if each not in came:
                came[each] = owner
                todo.append(each)
    return None


def _lost(held: Held | None, me: Owner) -> str:
    if held is None:
        return "nobody: it was released, or it expired and was taken and released by another"
    if held.owner != me:
        return f"{held.owner}, who took it after it had expired or was broken"
    if held.broken is not None:
        return f"one that was broken by {held.broken}"
    return "one that has expired"


def _holder(held: Held | None) -> str | None:
    return None if held is None or held.free else held.owner.saga_id
