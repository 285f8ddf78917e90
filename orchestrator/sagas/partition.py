"""All sagas of one partition: records in, records out. No Kafka, no clock, no threads.

Contract with the worker: `load` the state partition's records, then `loaded`; from then on `handle`
records and `fire` timers, take the `output` of the batch, and say `committed` once the transaction that
carried it stands, or `discard`. Until `committed`, everything the batch touched can be put back.
"""

from collections.abc import Mapping, Sequence
from logging import getLogger

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.tables import WORKER
from kompensate.orchestrator.ports import Job, OutRecord, Ran, Record
from kompensate.orchestrator.sagas.batch import Batch
from kompensate.orchestrator.sagas.deciding import Deciding
from kompensate.orchestrator.sagas.ended import Ended
from kompensate.orchestrator.sagas.intake import Intake
from kompensate.orchestrator.sagas.limited import LimitedCalls
from kompensate.orchestrator.sagas.loading import Loading
from kompensate.orchestrator.sagas.local import LocalSteps
from kompensate.orchestrator.sagas.rooms import Rooms
from kompensate.orchestrator.sagas.timers import sooner
from kompensate.orchestrator.sagas.underway import UnderWay
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.messages import BadMessage
from kompensate.schemas.topics import Topics

log = getLogger("kompensate.partition")


class Partition:
    """The sagas of partition `number` of `application`. `rooms` are shared by the partitions that a worker has."""

    def __init__(self, number: int, application: Application, settings: Settings, rooms: Rooms | None = None) -> None:
        self.number = number
        self._app = application.name
        self._settings = settings
        self._topics = Topics(application.name, settings.prefix)
        self._catalogue = Catalogue(application)
        self._window = round(settings.dedup_window_seconds * 1000)
        self._intake = Intake(application, self._topics, self._window)
        self._inputs = self._topics.inputs(application.services)
        self._loading: Loading | None = Loading(number)
        self._sagas = UnderWay(application.name, self._catalogue, settings.live_sagas_max)
        self._ended = Ended(self._window)
        self._offsets: dict[str, int] = {}
        self._transaction = 0
        self._partitions = application.partitions
        self._local = LocalSteps()
        self._limited = LimitedCalls(number, Rooms(application.limits) if rooms is None else rooms)
        about = (application.name, settings, self._catalogue, self._sagas, self._local, self._limited)
        self._deciding = Deciding(*about)
        self._begin_batch()

    # -- restore

    def load(self, records: Sequence[Record]) -> None:
        """Take committed records of the state partition, in their order."""
        assert self._loading is not None  # a partition is loaded once
        self._loading.take(records)

    def loaded(self, committed: Mapping[str, int], beginning: Mapping[str, int]) -> dict[str, int]:
        """The state partition was read to its end: the next offset of every input topic to go on from.

        `committed` are the group's next offsets, `beginning` the first offset each input topic has.
        Raises Corrupted where log and offsets contradict each other.
        """
        loading, self._loading = self._loading, None
        assert loading is not None  # a partition is loaded once
        self._offsets = loading.positions(self._inputs, committed, beginning)
        self._transaction = loading.watermark.transaction if loading.watermark else 0
        for hash_, plan in loading.plans().items():
            self._catalogue.plans.setdefault(hash_, plan)
            self._deciding.plans.add(hash_)
        sagas, ended = loading.sagas()
        self._sagas.restore(sagas)
        self._ended = Ended(self._window, ended)
        self._limited.load(loading.rates, loading.limited(self._app, self._sagas))
        self._begin_batch()
        return dict(self._offsets)

    # -- running

    @property
    def dirty(self) -> bool:
        """Is there anything to commit?"""
        return self._batch.dirty

    @property
    def output_bytes(self) -> int:
        """About how many bytes the open batch would write."""
        return self._batch.bytes

    @property
    def live(self) -> int:
        """How many sagas have not ended."""
        return len(self._sagas)

    @property
    def next_due(self) -> int | None:
        """When to `fire` again at the latest, ms since the epoch (it may turn out that nothing is due); None: never."""
        if self._local.ended:
            return 0
        return sooner(self._sagas.next_due, self._ended.due)

    @property
    def room_at(self) -> int | None:
        """When there may be room for a queued call, ms since the epoch (0: now); None: not before something changes."""
        return self._limited.due

    def handle(self, record: Record) -> None:
        """Handle one record of an input topic. Never raises for bad input: that is quarantined."""
        if record.offset < self._offsets.get(record.topic, 0):
            return  # read again after a rewind, and handled already
        self._offsets[record.topic] = record.offset + 1
        self._batch.dirty = True
        try:
            saga_id, input_ = self._intake.read(record)
        except BadMessage as error:
            self._deciding.quarantine(record, str(error))
            return
        entry = self._sagas.get(saga_id)
        if entry is None:
            run = self._topics.run_of(record.topic, self.number, record.offset)
            self._deciding.begin(saga_id, input_, record, run, ended=saga_id in self._ended)
        else:
            self._deciding.apply(saga_id, entry, input_, record)

    def quarantine(self, record: Record, reason: str) -> None:
        """Put one record of an input topic aside instead of handling it: what it leads to cannot be written."""
        self._offsets[record.topic] = record.offset + 1
        self._deciding.quarantine(record, reason)

    def fire(self, now: int, limit: int) -> int:
        """Handle local steps that have ended and what is due by `now` (ms since the epoch); how many, up to `limit`."""
        fired = self._take_ended(now, limit)
        while fired < limit and (found := self._sagas.take_due(now)) is not None:
            due = i.TimersDue(i.Origin("", self.number, -1, now), self._local.running(found[0]))
            self._deciding.apply(*found, due, None)
            fired += 1
        return fired + self._forget(now, limit - fired)

    def output(self, writer: str) -> tuple[list[OutRecord], dict[str, int]]:
        """The batch's records, the watermark first, and the next offset of every input topic.

        `writer` is the transactional id that will write them.
        """
        self._transaction += 1
        for saga_id, entry in self._batch.changed.items():
            self._batch.write(saga_id, entry)
        return self._batch.records(writer, self._transaction, self._offsets, self._limited.rates()), dict(self._offsets)

    def committed(self) -> None:
        """The transaction that carried the output stands."""
        for saga_id in self._batch.ended:
            self._sagas.drop(saga_id)
            self._ended.remember(saga_id, self._batch.ended[saga_id])
        self._deciding.plans |= self._batch.plans
        self._limited.stands()
        self._local.hand_out(self._batch.jobs, self._batch.handled)
        self._begin_batch()
        self._sagas.rest()

    def discard(self) -> None:
        """The output does not stand: everything is as it was after the last `committed`."""
        batch = self._batch
        for saga_id, before in batch.before.items():
            self._sagas.put_back(saga_id, before)
        for saga_id, ended_at in batch.forgotten.items():
            self._ended.remember(saga_id, ended_at)
        self._limited.take_back()
        self._local.give_back(batch.handled)
        self._offsets = dict(batch.offsets_before)
        if batch.written:
            self._transaction -= 1
        self._begin_batch()

    # -- local steps, and calls under limits

    def take_jobs(self) -> list[Job]:
        """The local steps that the committed batches want run, each once."""
        return self._local.take_jobs()

    def answer(self, ran: Ran) -> None:
        """A local step has ended. May be called from any thread; the next `fire` handles it."""
        self._local.answer(ran)

    @property
    def busy(self) -> bool:
        """Local steps run, whose ends come from no log."""
        return self._local.busy

    def close(self) -> None:
        """Nobody waits any more for what still runs, and what has not begun is not begun."""
        self._local.closed = True
        self._limited.leave()

    def admit(self, now: int, limit: int) -> list[tuple[str, int]]:
        """Send up to `limit` queued calls that there is room for: the saga and number of each."""
        admitted: list[tuple[str, int]] = []
        while len(admitted) < limit and (found := self._limited.take(now)) is not None:
            self.give_room(*found, now)
            admitted.append(found)
        return admitted

    def give_room(self, saga_id: str, number: int, now: int) -> None:
        """There is room for this call."""
        entry = self._sagas.get(saga_id)
        if entry is not None:
            refusal = self._limited.refused.pop((saga_id, number), "")
            self._deciding.apply(saga_id, entry, i.RoomGiven(i.Origin("", self.number, -1, now), number, refusal), None)
        self._limited.unused(saga_id, number)  # its pages are damaged, say

    def refuse(self, admitted: tuple[str, int], reason: str) -> None:
        """Where there is room for this call again, hold its saga: its command cannot be written."""
        self._limited.refused[admitted] = reason

    def _take_ended(self, now: int, limit: int) -> int:
        taken = 0
        while self._local.ended and taken < limit:
            ran = self._local.take_ended()
            taken += 1
            self._batch.handled.append(ran)
            self._batch.dirty = True  # it is only done with when a commit stands
            entry = self._sagas.get(ran.saga_id)
            if entry is not None:
                origin = i.Origin("", self.number, -1, now)
                reply = i.ReplyArrived(origin, WORKER, ran.id, ran.outcome, ran.payload)
                self._deciding.apply(ran.saga_id, entry, reply, None)
        return taken

    def _begin_batch(self) -> None:
        self._batch = self._deciding.batch = Batch(self.number, self._topics, self._offsets, self._partitions)

    def drop_programs(self) -> None:
        """Throw the live coroutines away: each is replayed from its history at its next input."""
        self._sagas.drop_programs()

    def _forget(self, now: int, limit: int) -> int:
        """Tombstone the summaries of sagas that ended longer ago than the dedup window."""
        forgotten = 0
        while forgotten < limit and (found := self._ended.forget(now)) is not None:
            self._batch.forget(*found)
            forgotten += 1
        return forgotten
