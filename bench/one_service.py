"""One service as it is, in a process of its own, taking what lies in its command topic; prints what a command cost.

Its handler updates one row, in one of the ways that a handler may ask for its database.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from sqlalchemy import Engine, bindparam, column, table, text, update
from sqlalchemy.orm import Session

from bench.marks import Mark
from bench.phases import Phases
from bench.sagas import Reserve
from bench.services import ROWS
from kompensate.participants import Participant
from kompensate.participants.database import connect
from kompensate.participants.kafka import KafkaSource
from kompensate.participants.main import Service
from kompensate.participants.orders import Bury, Order, Result, Settled
from kompensate.participants.runner import Runner
from kompensate.participants.unit import Unit

_SQL = "UPDATE booked SET amount = amount + {}, commands = commands + 1 WHERE id = {}"
_BOOKED = table("booked", column("id"), column("amount"), column("commands"))
_UPDATE = (
    update(_BOOKED)
    .where(_BOOKED.c.id == bindparam("row"))
    .values(amount=_BOOKED.c.amount + bindparam("more"), commands=_BOOKED.c.commands + 1)
)


def _row(command: Reserve) -> int:
    return int(command.order_id.rpartition("-")[2]) % ROWS


def by_psycopg(command: Reserve, cursor: psycopg.Cursor) -> None:
    cursor.execute(_SQL.format("%s", "%s"), (command.quantity, _row(command)))


def by_session(command: Reserve, session: Session) -> None:
    session.execute(_UPDATE, {"row": _row(command), "more": command.quantity})


WAYS: dict[str, Callable[..., None]] = {"psycopg": by_psycopg, "session": by_session}


class Counting:
    """Watches the runner's turns: marks where the warm-up ended, and stops the service where all is done."""

    def __init__(self, engine: Engine, commands: int, warm: int, stop: Callable[[], None]) -> None:
        self._engine, self._commands, self._warm, self._stop = engine, commands, warm, stop
        self._done = 0
        self._begun: tuple[int, Mark] | None = None
        self.cost: dict[str, Any] = {}
        self.phases = phases = Phases()
        phases.watch(KafkaSource, "poll", "poll")
        phases.watch(Unit, "handle", "unit")
        phases.watch(Runner, "turn", "else")
        inner = Unit.handle

        def counted(unit: Unit, orders: Sequence[Order], bury: Bury) -> list[Result]:
            results = inner(unit, orders, bury)
            self._count(sum(isinstance(result, Settled) for result in results))
            return results

        Unit.handle = counted  # type: ignore[method-assign]

    def _count(self, more: int) -> None:
        self._done += more
        if self._begun is None and self._done >= self._warm:
            self.phases.clear()
            self._begun = self._done, Mark.now(_backend(self._engine))
        elif self._begun is not None and self._done >= self._commands and not self.cost:
            warm, mark = self._begun
            counted = self._done - warm
            self.cost = Mark.now(_backend(self._engine)).since(mark, counted)
            self.cost["phases"] = {name: cpu / counted * 1e6 for name, cpu in self.phases.cpu.items()}
            self._stop()


def _backend(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def main() -> None:
    """Serve until all commands are answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=sorted(WAYS), required=True)
    for name in ("--dsn", "--bootstrap", "--prefix"):
        parser.add_argument(name, required=True)
    for name in ("--commands", "--warm"):
        parser.add_argument(name, type=int, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    participant = Participant("inventory")
    participant.handles(WAYS[args.way])
    engine = connect(args.dsn, "inventory")
    service = Service(participant, engine, args.bootstrap, prefix=args.prefix)
    counting = Counting(engine, args.commands, args.warm, service.ask_to_stop)
    service.run()
    print(json.dumps(counting.cost), flush=True)


if __name__ == "__main__":
    main()
