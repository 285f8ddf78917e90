"""One case's talk with a service: commands sent, answers awaited, and what differed from what was expected.

A talk may be of several sagas, told apart by a number. Whoever writes a case says what is sent and what must come of
it; ids, partitions and patience are seen to here. Replies are told apart by `ce_id`, so that one which a relay carried
twice counts once.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kompensate.orchestrator.conformance.subject import Subject
from kompensate.orchestrator.ports import HeaderList, OutRecord, Record
from kompensate.schemas.messages import BadMessage, Command, Headers, Trace
from kompensate.schemas.topics import Topics, partition_of

APP = "conform"
"""The application that the kit says it is: replies come to its topics."""
HOUR_MS = 3_600_000


class Wire(Protocol):
    """Kafka, as the kit needs it. The counts are of the partitions of the command topic and of the reply topic."""

    command_partitions: int
    reply_partitions: int

    def send(self, records: Sequence[OutRecord]) -> None:
        """Write `records`; return when Kafka has them all."""

    def send_aborted(self, records: Sequence[OutRecord]) -> None:
        """Write `records` in a transaction, and abort it."""

    def receive(self, seconds: float) -> Sequence[Record]:
        """Replies and dead letters that have come, or come within `seconds`."""


class Silence(Exception):
    """What must come did not: the case ends here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference."""

    what: str
    expected: str
    got: str


@dataclass(slots=True)
class Talk:
    """What one case says and hears. `heard` are replies, each with the command that it says it answers."""

    wire: Wire
    subject: Subject
    topics: Topics
    name: str
    patience: float
    findings: list[Finding] = field(default_factory=list)
    heard: list[tuple[Record, Command | None]] = field(default_factory=list)
    _due: dict[str, int] = field(default_factory=dict)
    _sent: dict[str, Command] = field(default_factory=dict)
    _answers: dict[str, dict[str, Record]] = field(default_factory=dict)
    _letters: dict[bytes, list[Record]] = field(default_factory=dict)

    # What is sent.

    def saga(self, number: int = 0) -> str:
        """The id of one of the talk's sagas."""
        return f"{self.name}-{number}"

    def command(self, kind: str = "done", *, saga: int = 0, of: Command | None = None, **others: Any) -> Command:
        """A new command of a saga, of one of the subject's samples; `of` is the one that it compensates.

        `others` are fields of Command.
        """
        saga_id, sample = self.saga(saga), self.subject.samples[kind]
        made = Command(
            id=secrets.token_hex(16),
            type=sample.type,
            source=f"kompensate:{APP}",
            saga_id=saga_id,
            saga_type="conformance",
            step=kind,
            phase="forward" if of is None else "compensate",
            attempt=1,
            reply_to=self.topics.replies(self.subject.service),
            # Not where a partitioner would put it: who leaves it to one is found out.
            reply_partition=(partition_of(saga_id, self.wire.reply_partitions) + 1) % self.wire.reply_partitions,
            payload=sample.value(saga_id),
            compensates=None if of is None else of.id,
            trace=Trace(f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01", "kompensate=conform"),
        )
        return replace(made, **others)

    def record(self, command: Command, headers: HeaderList = (), partition: int | None = None) -> OutRecord:
        """The command's record; `headers` are added, or stand for its own of the same name."""
        names = {name for name, _ in headers}
        kept = [header for header in command.headers() if header[0] not in names]
        return OutRecord(
            self.topics.commands(self.subject.service),
            self.home(command.saga_id) if partition is None else partition,
            command.saga_id.encode(),
            command.payload,
            [*kept, *headers],
        )

    def home(self, saga_id: str) -> int:
        """The partition of the command topic where a saga's commands go."""
        return partition_of(saga_id, self.wire.command_partitions)

    def send(self, *commands: Command, headers: HeaderList = ()) -> None:
        """Send commands at once, in this order, as `send_records` does."""
        self.send_records([(command, self.record(command, headers)) for command in commands])

    def send_records(self, records: Sequence[tuple[Command, OutRecord]]) -> None:
        """Send these records at once.

        A delivery of a command that was heard to be answered is owed an answer of its own. Those before share one, if
        their service likes: a duplicate of a command whose outside call is out is answered by that call's end.
        """
        for command, _ in records:
            self._sent[command.id] = command
            self._due.setdefault(command.id, 1)
        for id_, count in Counter(command.id for command, _ in records if self.heard_of(command)).items():
            self._due[id_] = len(self._answers[id_]) + count
        self.wire.send([record for _, record in records])

    def pass_by(self, sagas: Sequence[int], places: Sequence[int]) -> None:
        """Wait until all that was sent of `sagas` in the partitions `places` was taken in. Raises Silence.

        What shows it is a command behind it, of the same key, that has expired: it has no effect, and its answer comes
        after theirs. Those whose outside call is out have none yet.
        """
        past = time.time_ns() // 10**6 - HOUR_MS
        behind = [(self.command(saga=saga, expires_at=past), place) for saga in sagas for place in places]
        self.send_records([(one, self.record(one, partition=place)) for one, place in behind])
        for one, _ in behind:
            self.expect_outcome(one, "expired")

    def send_aborted(self, command: Command) -> None:
        """Send a command in a transaction that is aborted; no answer is owed."""
        self._sent[command.id] = command
        self.wire.send_aborted([self.record(command)])

    # What is heard.

    def answers(self, command: Command) -> list[Record]:
        """All that was answered to a command so far, once all that is owed has come. Raises Silence."""
        self._listen_until(self._all_answered)
        if not self._all_answered():
            self._say_silence()
        return list(self._answers[command.id].values())

    def outcomes(self, command: Command) -> set[str]:
        """The outcomes of all answers to a command, once all that is owed has come. Raises Silence.

        More may have come than is owed: a delivery that a rebalance repeated is answered again.
        """
        return {header(answer, "ce_replyoutcome") for answer in self.answers(command)}

    def letter(self, record: OutRecord) -> Record:
        """The dead letter of a record that was sent. Raises Silence."""

        def found() -> Record | None:
            return next((r for r in self._letters.get(record.key or b"", ()) if r.value == record.value), None)

        self._listen_until(lambda: found() is not None)
        letter = found()
        if letter is None:
            dead = self.topics.dead(self.subject.service)
            self.differ(f"a dead letter in {dead}", "the record's key and bytes", f"none in {self.patience:g} s")
            raise Silence
        return letter

    def heard_of(self, command: Command) -> list[Record]:
        """What was answered to a command so far, without waiting for more."""
        return list(self._answers.get(command.id, {}).values())

    def _all_answered(self) -> bool:
        return all(len(self._answers.get(id_, ())) >= count for id_, count in self._due.items())

    def _listen_until(self, enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            for record in self.wire.receive(0.0 if enough() else 0.1):
                self._hear(record)
            if enough() or time.monotonic() > deadline:
                return

    def _hear(self, record: Record) -> None:
        if not self._ours(record):
            return
        if record.topic == self.topics.dead(self.subject.service):
            self._letters.setdefault(record.key or b"", []).append(record)
            return
        self.heard.append((record, self._sent.get(header(record, "ce_causationid"))))
        row = header(record, "ce_id") or f"{record.partition}@{record.offset}"
        self._answers.setdefault(header(record, "ce_causationid"), {})[row] = record

    def _ours(self, record: Record) -> bool:
        begin = f"{self.name}-"
        named = (record.key or b"").startswith(begin.encode()) or header(record, "ce_correlationid").startswith(begin)
        return named or header(record, "ce_causationid") in self._sent

    def _say_silence(self) -> None:
        for id_, count in self._due.items():
            got = len(self._answers.get(id_, ()))
            if got < count:
                sent = self._sent[id_]
                self.differ(
                    f"answers to {sent.type} ({sent.phase}, {id_})",
                    f"{count}, one to each delivery after the first answer",
                    f"{got} in {self.patience:g} s",
                )
        raise Silence

    # What is judged.

    def expect(self, what: str, expected: object, got: object) -> None:
        """Note where they differ."""
        if expected != got:
            self.differ(what, str(expected), str(got))

    def differ(self, what: str, expected: str, got: str) -> None:
        """Note a difference."""
        self.findings.append(Finding(what, expected, got))

    def expect_outcome(self, command: Command, expected: str) -> None:
        """All answers that are owed have come, and say so. Raises Silence."""
        got = ", ".join(sorted(self.outcomes(command)))
        self.expect(f"outcome of {command.type} ({command.phase})", expected, got)

    def expect_alike(self, command: Command) -> None:
        """All answers to a command say the same."""
        for name in ("ce_replyoutcome", "ce_type", "content-type"):
            found = {header(answer, name) for answer in self.answers(command)}
            if len(found) > 1:
                self.differ(f"{name} of answers to one command", "the same in all", ", ".join(sorted(found)))
        values = {answer.value for answer in self.answers(command)}
        if len(values) > 1:
            self.differ("payloads of answers to one command", "the stored one in all", " and ".join(map(str, values)))

    def expect_effects(self, expected: int, saga: int = 0) -> None:
        """So many of the saga's commands took effect; where nobody counts, nothing is known. Raises CannotCount."""
        if self.subject.counter:
            self.expect(f"effects of saga {self.saga(saga)}", expected, self.subject.effects(self.saga(saga)))


def header(record: Record | OutRecord, name: str) -> str:
    """A header as text; empty where it is absent or no text."""
    try:
        return Headers(record.headers).optional(name) or ""
    except BadMessage:
        return ""
