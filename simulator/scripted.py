"""Participants that nobody wrote: every command of a service is taken, and ends as chance has it.

Chance is a hash of seed and command id, so the same command ends the same way each time it is tried, in every run
of that seed. An effect is a row, written before the answer is decided: a refusal has to take it back.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from zlib import crc32

from sqlalchemy import Connection

from kompensate.outbox.writer import Row, driver_cursor, write
from kompensate.participants.outcome import Call, OutsideCall, Refused, Retry
from kompensate.participants.participant import Handler, Participant
from kompensate.schemas.formats import PayloadFormat
from kompensate.simulator.outside import Outside

Answer = Callable[[str, dict[str, Any], Call], object]
"""Makes the result of a command from its type, payload and what else is known of it."""


TELLS = 3_000
"""Of ten thousand commands, so many tell an event where their service publishes some."""
EVENT = "event"
"""The phase that stands with the effect of an event."""
_OFFERS = (("connection", "connection"), ("call", "call"))


@dataclass(frozen=True)
class Odds:
    """How commands end, in ten-thousandths; what is left is done. `late` ones are handled after a long while."""

    refused: int = 400
    failed: int = 200
    retried: int = 300
    late: int = 5
    late_seconds: tuple[float, ...] = (20.0, 60.0, 320.0)


class Scripted(Participant):
    """A participant named `name` that takes any command. `calm` lets everything end well from then on.

    `declared` says what it subscribes to, publishes and does outside of the transaction; `tell` makes the rows of what
    it tells with a command, `outside` is who it calls.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        odds: Odds,
        answer: Answer,
        payloads: PayloadFormat | None = None,
        declared: Participant | None = None,
    ) -> None:
        super().__init__(name, payloads=payloads, publishes=() if declared is None else declared.publishes)
        self.tell: Callable[[str, Call, Random], list[Row]] | None = None
        self.calm = False
        self._seed = seed
        self._odds = odds
        self._answer = answer
        self._known: dict[str, Handler] = {}
        self._tries: dict[str, int] = {}
        self.outside: Outside | None = None
        for handler in () if declared is None else declared.handlers:
            if handler.topic is not None:
                played = Handler(handler.contract, self._hear, Any, _OFFERS, None, topic=handler.topic)
                self._subscribers[handler.contract] = played
            elif handler.external is not None:
                options = replace(handler.external, reconcile=self._ask if handler.external.reconcile else None)
                played = Handler(handler.contract, self._call, Any, (("call", "call"),), None, options)
                self._known[handler.contract] = self._handlers[handler.contract] = played

    def handler(self, contract: str) -> Handler | None:
        """One for each contract that is asked for."""
        found = self._known.get(contract)
        if found is None:
            found = self._known[contract] = Handler(
                contract,
                lambda payload, connection, call: self._handle(contract, payload, connection, call),
                Any,
                _OFFERS,
                None,
            )
        return found

    def late(self, command_id: str) -> float:
        """Seconds for which this command lies about before it is looked at; mostly 0."""
        odds, roll = self._odds, self._roll(command_id, "late")
        return 0.0 if roll >= odds.late else odds.late_seconds[roll % len(odds.late_seconds)]

    def _roll(self, command_id: str, what: str) -> int:
        return crc32(f"{self._seed}/{what}/{command_id}".encode()) % 10_000

    def _handle(self, contract: str, payload: Any, connection: Connection, call: Call) -> object:
        _note(connection, call, call.phase)
        if not self.calm:
            if self.tell is not None and self._roll(call.id, "tell") < TELLS:
                write(connection, self.tell(self.name, call, Random(f"{self._seed}/tell/{call.id}")))
            self._perhaps_not(call)
        return self._answer(contract, payload if isinstance(payload, dict) else {}, call)

    def _call(self, payload: Any, call: OutsideCall) -> object:
        assert self.outside is not None
        return self.outside.call(payload, call)

    def _ask(self, payload: Any, call: OutsideCall) -> object:
        assert self.outside is not None
        return self.outside.find(payload, call)

    def _hear(self, _event: Any, connection: Connection, call: Call) -> None:
        _note(connection, call, EVENT)
        if not self.calm:
            self._perhaps_not(call)

    def _perhaps_not(self, call: Call) -> None:
        odds, roll = self._odds, self._roll(call.id, "outcome")
        if roll < odds.refused and call.phase == "forward":
            raise Refused("scripted")
        roll -= odds.refused
        if 0 <= roll < odds.failed:
            raise RuntimeError("scripted failure")
        roll -= odds.failed
        tries = self._tries[call.id] = self._tries.get(call.id, 0) + 1
        if 0 <= roll < odds.retried and tries <= 1 + roll % 2:
            raise Retry("scripted: not now")


def _note(connection: Connection, call: Call, phase: str) -> None:
    driver_cursor(connection).execute(
        "INSERT INTO effect (command_id, phase, compensates, saga) VALUES (?, ?, ?, ?)",
        (call.id, phase, call.compensates, call.saga_id),
    )
