"""Looks after outbox and inbox: partitions for the days to come, none of those long gone, no old inbox rows.

A participant does it as it works, as far as its role may; `kompensate tables keep` does it as the tables' owner.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import ProgrammingError

from kompensate.outbox.retention import Retention, drop
from kompensate.outbox.tables import OUTBOX, ensure_partitions

log = logging.getLogger(__name__)

FORBIDDEN = "42501"
"""SQLSTATE insufficient_privilege."""

T = TypeVar("T")


class Housekeeping:
    """Keeps house in one database, a round at a time. What its role may not do it says once, and leaves.

    `outside`: its participant calls the outside world, whose calls are forgotten as inbox rows are.
    """

    def __init__(self, engine: Engine, retention: Retention, *, outside: bool = False) -> None:
        self._engine, self._retention, self._outside = engine, retention, outside
        self._said = False

    def keep(self) -> bool:
        """One round; True if there is more to forget. Raises what the database raises."""
        made: list[str] = self._allowed(ensure_partitions, [])
        for partition in made:
            log.info("made partition %s", partition)
        more = self._allowed(self._retention.forget_inbox, default=False)
        if self._outside:
            more = self._allowed(self._retention.forget_outside, default=False) or more
        gone: list[str] = self._allowed(self._retention.droppable, [])
        for partition in gone:
            if self._allowed(partial(_drop, partition), default=False):
                log.info("dropped partition %s: its rows are in Kafka", partition)
        return more

    def _allowed(self, work: Callable[[Connection], T], default: T) -> T:
        """What `work` gives in a transaction of its own; `default` where the role may not do it."""
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != FORBIDDEN:
                raise
            if not self._said:
                self._said = True
                log.warning(
                    "housekeeping: expected a role that owns %s, got: %s. Its partitions are left to "
                    "`kompensate tables keep`, run as their owner (who has to be able to read %s_relay)",
                    OUTBOX,
                    " ".join(str(error.orig).split()),
                    OUTBOX,
                )
            return default


def _drop(partition: str, connection: Connection) -> bool:
    drop(connection, partition)
    return True
