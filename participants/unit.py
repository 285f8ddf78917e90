"""The one database transaction for a group of commands: claims, handlers, answers and replies commit together.

Every command comes out as Settled (its answer is committed), Kept (the database has it, and its answer comes when
its outside call has ended) or Later (nothing of it is committed). Where the
transaction as a whole did not commit, or nobody knows whether it did, `Undone` says so: the same group again
is always right, because the inbox answers for what was committed after all. The transaction is READ COMMITTED: a
claim that waited for another one must see what that one answered.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine

from kompensate.outbox.tables import schema_of
from kompensate.participants import replies
from kompensate.participants.calling import Caller, check_suits
from kompensate.participants.causes import contended, of_tables, takes_no_writes
from kompensate.participants.group import Group
from kompensate.participants.orders import Bury, Later, Order, Result
from kompensate.participants.outside.desk import Desk
from kompensate.participants.outside.intake import Intake
from kompensate.participants.participant import Participant
from kompensate.participants.ports import Unburied
from kompensate.participants.scratch import guarded, watch
from kompensate.schemas.faults import fault
from kompensate.schemas.payloads import check_type


class Unreachable(Exception):
    """The database does not answer, or not for good, or its tables are not ours: wait, then the same group again.

    Nothing was done, or what was done may vanish when the server fails over: the inbox will tell.
    """


class Undone(Exception):
    """The transaction was rolled back, or its COMMIT's outcome is unknown: the same group again, then in parts."""

    def __init__(self, reason: str, *, contended: bool) -> None:
        super().__init__(reason)
        self.contended = contended


class Unit:
    """Handles groups of commands of one participant in one database. Use it, and close it, in one thread.

    Raises BadPayload for a type it cannot read, and BadHandler for a handler that this database does not suit.

    `desk` makes the outside calls: needed, else ValueError, where the participant has external handlers.
    """

    def __init__(
        self,
        participant: Participant,
        engine: Engine,
        clock: Callable[[], float] = time.time,
        desk: Desk | None = None,
        *,
        group_seconds: float = math.inf,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """`group_seconds`, by `timer`, are what the handlers of one group may take; `clock` is the time of day."""
        for handler in participant.handlers:
            check_type(handler.payload_type)
            check_suits(handler, engine)
            if handler.external is not None and desk is None:
                raise ValueError(f"{handler.contract} is external: expected a Desk, got none")
        watch(engine)
        self._desk = desk
        self._participant = participant
        self._engine = engine
        self._clock = clock
        # Whatever the engine's is: AUTOCOMMIT would be no transaction at all. (SQLite has one level only.)
        self._level = None if engine.dialect.name == "sqlite" else "READ COMMITTED"
        self._group_seconds = group_seconds
        self._timer = timer
        self._caller = Caller()

    def close(self) -> None:
        """End what handlers had running: the event loop of those that are async. The engine is the caller's."""
        self._caller.close()

    def handle(self, orders: Sequence[Order], bury: Bury) -> list[Result]:
        """Handle `orders` in one transaction; a result for each, in order.

        `bury` is called before the commit with (index, result) of those that are to be dead letters. Raises
        Unreachable, Undone, and what `bury` raises.
        """
        try:
            connection = self._engine.connect()
        except Exception as error:
            raise Unreachable(f"database {self._engine.url.render_as_string()}: {error}") from error
        with connection:
            claimed = False
            intake: Intake | None = None
            try:
                if self._level:
                    connection.execution_options(isolation_level=self._level)
                with _kept_for_good(connection), guarded(connection):
                    intake = self._desk.intake(connection) if self._desk is not None else None
                    now_ms = round(self._clock() * 1000)
                    group = Group(self._participant, connection, self._caller, now_ms, intake)
                    with _our_tables(connection):
                        group.claim(orders)
                    claimed = True
                    fault("participant.after_claim")
                    results = self._handle_each(group, orders)
                    with _our_tables(connection):
                        group.settle()
                    dead = [(n, r) for n, r in enumerate(results) if not isinstance(r, Later) and r.dead]
                    if dead:
                        bury(dead)
                    fault("participant.before_db_commit")
            except Exception as error:
                raise _reaction(error, connection, claimed) from error
        fault("participant.after_db_commit")
        if self._desk is not None and intake is not None:
            self._desk.committed(intake)
        return results

    def _handle_each(self, group: Group, orders: Sequence[Order]) -> list[Result]:
        """In order, the first one in any case, then while there is time."""
        until = self._timer() + self._group_seconds
        results: list[Result] = []
        for order in orders:
            if results and self._timer() >= until:
                break
            results.append(group.handle(order))
        left = Later("its group has taken its time", counts=False, full=True)
        return results + [left] * (len(orders) - len(results))


@contextmanager
def _kept_for_good(connection: Connection) -> Iterator[None]:
    """Raises Unreachable where a COMMIT was answered that no standby has, though the server was told to wait for one.

    Somebody cancelled that wait: the server says so in a warning alone. What others may see by now is lost if it fails
    over. The same group again waits once more, for a commit behind that one in the log.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name != "postgresql":
        yield
        return
    doubts: list[str] = []

    def notice(diagnostic: Any) -> None:
        # Of SQLSTATE 01000, as many others are; where the server speaks another language it goes unnoticed.
        if "synchronous replication" in (diagnostic.message_primary or ""):
            doubts.append(diagnostic.message_primary)

    driver.add_notice_handler(notice)
    try:
        yield
    finally:
        driver.remove_notice_handler(notice)
    if doubts:
        raise Unreachable(f"the commit is on this server alone: {doubts[0]}")


@contextmanager
def _our_tables(connection: Connection) -> Iterator[None]:
    """Raises Unreachable where inbox or outbox are not what they should be: no command is to blame, a person mends it.

    Were it Undone, every command that came meanwhile would end as a dead letter.
    """
    try:
        yield
    except Exception as error:
        if not of_tables(error):
            raise
        raise Unreachable(
            f"inbox and outbox: expected the tables of kompensate/outbox/{schema_of(connection)} and the right to "
            f"write them, got: {replies.said(error)}"
        ) from error


def _reaction(error: Exception, connection: Connection, claimed: bool) -> Exception:
    """What the runner is to do about an error that ended the transaction."""
    if isinstance(error, Unburied | Unreachable):
        return error
    driver = None if connection.invalidated else connection.connection.driver_connection
    lost = connection.invalidated or bool(getattr(driver, "closed", False)) or not getattr(driver, "open", True)
    if lost and not connection.invalidated:
        connection.invalidate()
    text = replies.said(error)
    if takes_no_writes(error):
        # The next connection may be to another server.
        connection.invalidate()
        return Unreachable(text)
    if lost and not claimed:
        return Unreachable(text)
    return Undone(text, contended=contended(error))
