"""What became of a request, judged from what the topics hold. No Kafka in here: the client fetches.

A worker writes nothing for a duplicate, so its outcome is read by exclusion: the partition's watermark says
that the request was handled; then either the saga names it as its start, or the quarantine holds it, or the
saga was there before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kompensate.orchestrator.client_errors import AlreadyStarted, StartRejected
from kompensate.orchestrator.kernel.events import SagaStarted, StartDelayed
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.stored import Stored, read_summary
from kompensate.orchestrator.sagas.journal import Damaged, ReadPage, life_of, read_page
from kompensate.schemas import codec
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.formats import PLAIN, SagaPayloads, legible

Kind: TypeAlias = Literal["started", "duplicate", "conflict", "rejected", "handled"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request.

    `started`: this start began the saga. `duplicate`: the saga was there already, begun with the same
    definition and input. `conflict`: it was begun with others. `rejected`: the request is in the quarantine,
    for `reason`. `handled`: any other request than a start, taken by the saga (which may have ignored it).
    """

    kind: Kind
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Is the saga as the request wanted it? So a duplicate is as good as a start."""
        return self.kind not in ("conflict", "rejected")


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that Kafka has. `time` is its record's, ms since the epoch.

    `seen` is where the state partition ended before it was sent, where that is known; `outcome` what became
    of it, where that was waited for.
    """

    id: str
    type: str
    saga_id: str
    saga_type: str | None
    payload: bytes
    topic: str
    partition: int
    offset: int
    time: int
    seen: int | None = None
    outcome: Outcome | None = None

    def expect_same(self) -> None:
        """Raise StartRejected, AlreadyStarted where the saga of its id, which was waited for, is not this start's."""
        expect_accepted(self, "use_existing")
        assert self.outcome is not None
        if self.outcome.kind == "conflict":
            raise AlreadyStarted(f"saga {self.saga_id!r}: expected the same saga or none, got: {self.outcome.reason}")


ConflictPolicy: TypeAlias = Literal["fail", "use_existing"]
"""What a start wants where a saga of its id is there, or was within the dedup window."""


def check_policy(policy: ConflictPolicy | None) -> None:
    """Raise ValueError for what is no policy."""
    if policy not in (None, "fail", "use_existing"):
        raise ValueError(f"id_conflict_policy: expected 'fail' or 'use_existing', got {policy!r}")


def expect_accepted(sent: Sent, policy: ConflictPolicy | None) -> Sent:
    """`sent`, whose outcome is known. Raises AlreadyStarted, StartRejected, as the policy says; without one nothing."""
    outcome = sent.outcome
    assert outcome is not None
    if policy is not None and outcome.kind == "rejected":
        raise StartRejected(f"saga {sent.saga_id!r}: expected its start to be taken, got: {outcome.reason}")
    if policy == "fail" and outcome.kind in ("duplicate", "conflict"):
        raise AlreadyStarted(f"saga {sent.saga_id!r}: expected no saga of this id, got one: {outcome.reason}")
    return sent


def begun_by(record: Record, sent: Sent) -> bool:
    """Does this record of the state topic name `sent` as its saga's start? One that does not read names nobody."""
    value = record.value or b""
    try:
        if codec.schema_id(value) == codec.SUMMARY:
            return life_of(codec.decode(value, codec.SUMMARY)["run"]) == f"{sent.partition}.{sent.offset}"
        return _is_start(sent, [read_page(value)])
    except (Damaged, BadRecord):
        return False


def judged(sent: Sent, found: Stored, history: Sequence[ReadPage], payloads: SagaPayloads = PLAIN) -> Outcome:
    """The outcome of a start that was handled and is not in the quarantine. Raises BadRecord.

    `found` is the saga of its id as it stands, `history` its pages as far as they are there. Inputs are compared as
    `payloads` reads them: another key makes no other input.
    """
    if _is_start(sent, history) or (found.ended and begun_by(found.records[0], sent)):
        return Outcome("started")
    start = next((r.event for page in history for r in page.events if isinstance(r.event, SagaStarted)), None)
    if start is not None:
        definition: str = start.definition
    elif found.ended:
        definition = read_summary(found).definition
    else:
        definition = found.header.definition
    if definition != sent.saga_type:
        return Outcome("conflict", f"saga {sent.saga_id!r} is a {definition!r}, not a {sent.saga_type!r}")
    continued = bool(history) and life_of(history[0].run) != history[0].run  # by a run whose input is its own
    same = start is None or legible(start.payload, payloads) == legible(sent.payload, payloads)
    if not same and not continued:
        return Outcome("conflict", f"saga {sent.saga_id!r} was started with another input")
    return Outcome("duplicate", f"saga {sent.saga_id!r} was started before, and is {found.header.status}")


def _is_start(sent: Sent, pages: Sequence[ReadPage]) -> bool:
    if any(page.run != f"{sent.partition}.{sent.offset}" == life_of(page.run) for page in pages):
        return True  # a later run of the same life
    starts = (r.origin for page in pages for r in page.events if isinstance(r.event, SagaStarted | StartDelayed))
    return any((o.topic, o.partition, o.offset) == (sent.topic, sent.partition, sent.offset) for o in starts)
