"""The payments service, twice: as one would write it first, and guarded. And the program that runs one of them.

    python -m examples.gateway.service first|guarded FOLDER

It works on FOLDER/payments.db and takes its commands from FOLDER/commands.jsonl; the provider is at $GATEWAY.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from examples.gateway import client
from examples.gateway.topic import FileGrave, FileTopic
from kompensate.outbox.tables import create_tables
from kompensate.participants import OutsideCall, Participant
from kompensate.participants.database import connect
from kompensate.participants.outside.desk import Desk
from kompensate.participants.runner import Runner
from kompensate.participants.settings import Settings
from kompensate.participants.unit import Unit
from kompensate.schemas.signals import when_told

TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Charge:
    cents: int


@dataclass(frozen=True)
class Charged:
    charge: str


def first(address: str) -> Participant:
    """Calls from within the transaction, without a key. Every repetition is a charge."""
    payments = Participant("payments")

    @payments.handles
    def charge(command: Charge) -> Charged:
        return Charged(client.charge(address, command.cents, None, TIMEOUT_SECONDS))

    return payments


def guarded(address: str, *, window: float = 86_400.0, timeout: float = TIMEOUT_SECONDS) -> Participant:
    """Calls outside of the transaction, under the command's id, and asks where it may not call again."""
    payments = Participant("payments")

    def find(_command: Charge, call: OutsideCall) -> Charged:
        return Charged(client.find(address, call.id, call.timeout))

    @payments.external(timeout=timeout, window=window, reconcile=find)
    def charge(command: Charge, call: OutsideCall) -> Charged:
        return Charged(client.charge(address, command.cents, call.id, call.timeout))

    return payments


def main(kind: str, folder: Path) -> None:
    """Run it until SIGTERM."""
    service = {"first": first, "guarded": guarded}[kind](os.environ["GATEWAY"])
    engine = connect(f"sqlite:///{folder}/payments.db", service.name)
    with engine.begin() as connection:
        create_tables(connection)
    grave = FileGrave(folder / "dead.jsonl")
    desk = Desk(service, engine, grave.bury) if service.calls_outside else None
    unit = Unit(service, engine, desk=desk)
    runner = Runner(FileTopic(folder / "commands.jsonl"), grave, unit.handle, Settings(), outside=desk)
    with when_told(runner.stop):
        runner.run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
