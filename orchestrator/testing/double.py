"""The double run: everything that was handled, handled a second time in another world.

The same records go through a second partition, which wakes its sagas from bytes for each, while clocks, random
numbers and the environment are others (`world`). Whatever it writes has to be what was written the first time, byte
for byte: a saga in which anything differs read what it must not.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import zip_longest
from typing import Any

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.ports import Job, OutRecord, Record
from kompensate.orchestrator.reading.words import detail_of, readable
from kompensate.orchestrator.sagas.journal import read_page
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.testing.engine import AT_ONCE, WRITER, Batch, Engine
from kompensate.orchestrator.testing.story import PAGE, name_in_words
from kompensate.orchestrator.testing.world import OtherWorld
from kompensate.schemas import payloads
from kompensate.schemas.formats import SagaPayloads, legible, payloads_of
from kompensate.schemas.topics import saga_of_key


class DoubleRun:
    """Follows `engine`, batch by batch."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._payloads = payloads_of(engine.application.payloads, engine.application.name)
        self._state: list[Record] = []
        self._offsets: dict[str, int] = {}
        self._partition = self._restored()
        self._followed = 0
        self._differed = False

    def follow(self) -> None:
        """Run what is new a second time. AssertionError where it differs, with what was read and where."""
        __tracebackhide__ = True
        new = self._engine.batches[self._followed :]
        self._followed = len(self._engine.batches)
        if not new or self._differed:
            return  # once it differs, everything after it may
        with _silence(), OtherWorld() as world:
            for batch in new:
                world.moves_on()
                difference = self._again(batch)
                if difference is not None:
                    break
        if difference is not None:
            self._differed = True
            raise AssertionError(self._explained(difference, world))

    def _again(self, batch: Batch) -> "_Difference | None":
        if batch.lost:
            self._partition = self._restored()
        partition = self._partition
        for record in batch.records:
            partition.handle(record)
        if batch.ran is not None:
            partition.answer(batch.ran)
        for saga_id, number in batch.admitted:
            partition.give_room(saga_id, number, batch.fired_at or 0)
        if batch.fired_at is not None and not batch.admitted:  # an admission is timed, but no timer
            partition.fire(batch.fired_at, AT_ONCE if batch.lost else 1)
        written, self._offsets = partition.output(WRITER)
        partition.committed()
        state = self._engine.topics.state
        self._state += [
            Record(state, 0, len(self._state) + n, 0, r.key, r.value, r.headers)
            for n, r in enumerate(r for r in written if r.topic == state)
        ]
        # Local steps are not run again; what they are given is recorded nowhere, so it is compared by itself.
        differing = _jobs_differ(batch.jobs, partition.take_jobs())
        return _differs(batch.written[1:], written[1:]) or differing  # the first record is the watermark

    def _restored(self) -> Partition:
        """A partition that knows what was written, and nothing of local steps that run."""
        partition = Partition(0, self._engine.application, replace(self._engine.settings, live_sagas_max=0))
        partition.load(self._state)
        partition.loaded(self._offsets, {})
        return partition

    def _explained(self, difference: "_Difference", world: OtherWorld) -> str:
        first, then = difference.first, difference.then
        number = getattr(then or first, "number", 0)
        line = world.asked.get((difference.saga_id, number), "")
        what = f"its event {difference.number}" if difference.number else "what it asks for"
        lines = [
            f"saga {difference.saga_id!r} does not do the same twice: run again on the same inputs, {what} differs",
            f"  first: {difference.jobs[0] if difference.jobs else _told(first)}",
            f"  then:  {difference.jobs[1] if difference.jobs else _told(then)}",
        ]
        if first is not None and type(first) is type(then):
            payloads = self._payloads.for_saga(difference.saga_id)
            for name in (field.name for field in fields(first)):
                a, b = getattr(first, name), getattr(then, name)
                if a != b:
                    lines.append(f"  its {name}: first {_shown(a, payloads)}, then {_shown(b, payloads)}")
        if line:
            lines.append(f"  asked for at {line}")
        reads = [f"  it reads {what} at {where}" for what, where in world.reads]
        lines += reads or [
            "  it reads no clock, randomness or environment that is watched: does it keep something itself?"
        ]
        lines.append("  use ctx.now(), ctx.uuid(), ctx.random() and the saga's input instead")
        return "\n".join(lines)


class _Difference:
    """Where the two runs part: a saga, and the events that differ (None: there was none any more)."""

    def __init__(
        self, saga_id: str, first: e.Event | None, then: e.Event | None, number: int, jobs: list[str] | None = None
    ) -> None:
        self.saga_id, self.first, self.then, self.number, self.jobs = saga_id, first, then, number, jobs


def _differs(first: Sequence[OutRecord], then: Sequence[OutRecord]) -> _Difference | None:
    if list(first) == list(then):
        return None
    # Commands and summaries follow from events, so pages tell best where it began.
    for a, b in zip_longest(_pages(first), _pages(then)):
        for x, y in zip_longest(*(read_page(r.value or b"").events if r else [] for r in (a, b))):
            if x is None or y is None or x.event != y.event:
                events = (x and x.event, y and y.event)
                return _Difference(_saga_id(a or b), *events, (x or y).sequence)
    differing = next(a or b for a, b in zip_longest(first, then) if a != b)
    return _Difference(_saga_id(differing), None, None, 0)


def _jobs_differ(first: Sequence[Job], then: Sequence[Job]) -> _Difference | None:
    for a, b in zip(first, then, strict=False):
        given = [_given(job) for job in (a, b)]
        if given[0] != given[1]:
            return _Difference(a.saga_id, None, None, 0, given)
    return None


def _given(job: Job) -> str:
    """The call of a local step, as far as its arguments can be written down."""
    name = getattr(job.work.function, "__name__", "a function")
    arguments = [_written(value) for value in job.work.args]
    return f"{name}({', '.join(arguments)})"


def _written(value: object) -> str:
    try:
        return payloads.to_json(value).decode()
    except (TypeError, ValueError, RecursionError):
        return f"<{type(value).__name__}>"


def _pages(records: Sequence[OutRecord]) -> list[OutRecord]:
    return [record for record in records if (record.value or b"").startswith(PAGE)]


def _saga_id(record: OutRecord | None) -> str:
    assert record is not None  # they differ
    return saga_of_key((record.key or b"").decode())[0]


def _told(event: e.Event | None) -> str:
    if event is None:
        return "nothing"
    detail = getattr(event, "step", "") or detail_of(event)
    return f"{name_in_words(type(event).__name__)}{f': {detail}' if detail else ''}"


def _shown(value: Any, payloads: SagaPayloads) -> str:
    return repr(readable(legible(value, payloads)) if isinstance(value, bytes) else value)[:300]


@contextmanager
def _silence() -> Iterator[None]:
    """What the partition has to say it has said the first time."""
    log = logging.getLogger("kompensate.partition")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
