"""All sagas of one partition: records in, records out. No Kafka, no clock, no threads.

Contract with the worker: `load` the state partition's records, then `loaded`; from then on `handle`
records and `fire` timers, take the `output` of the batch, and say `committed` once the transaction that
carried it stands, or `discard`. Until `committed`, everything the batch touched can be put back.

A saga that waits is bytes: its pages as the topic has them. It is woken (decoded, folded) by its first
input, and put back to bytes when too many are awake.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from logging import getLogger

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.decide import Decision, decide
from kompensate.orchestrator.kernel.effects import RunWork
from kompensate.orchestrator.kernel.errors import IllegalTransition, Rejected
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.program import storable
from kompensate.orchestrator.kernel.tables import WORKER, Status
from kompensate.orchestrator.ports import Job, OutRecord, Ran, Record
from kompensate.orchestrator.sagas.batch import Batch
from kompensate.orchestrator.sagas.ended import Ended
from kompensate.orchestrator.sagas.entry import Awake, Entry, start_again
from kompensate.orchestrator.sagas.forking import begin_fork
from kompensate.orchestrator.sagas.intake import Intake
from kompensate.orchestrator.sagas.journal import Damaged, next_run
from kompensate.orchestrator.sagas.limited import LimitedCalls
from kompensate.orchestrator.sagas.loading import Loading
from kompensate.orchestrator.sagas.local import LocalSteps, job_of
from kompensate.orchestrator.sagas.rooms import Rooms
from kompensate.orchestrator.sagas.timers import Timers, sooner
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.codec import BadRecord
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
        self._inputs = (self._topics.requests, *(self._topics.replies(s) for s in application.services))
        self._loading: Loading | None = Loading(number)
        self._sagas: dict[str, Entry] = {}
        self._ended = Ended(self._window)
        self._awake: OrderedDict[str, Entry] = OrderedDict()
        self._timers = Timers()
        self._stored_plans: set[str] = set()
        self._offsets: dict[str, int] = {}
        self._transaction = 0
        self._partitions = application.partitions
        self._batch = self._new_batch()
        self._local = LocalSteps()
        self._limited = LimitedCalls(number, Rooms(application.limits) if rooms is None else rooms)

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
            self._stored_plans.add(hash_)
        self._sagas, ended = loading.sagas()
        self._ended = Ended(self._window, ended)
        for saga_id, entry in self._sagas.items():
            self._arm(saga_id, entry)
        self._limited.load(loading.rates, loading.limited(self._app, self._sagas))
        self._batch = self._new_batch()
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
        return sooner(self._timers.next_due(), self._ended.due)

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
            self._quarantine(record, str(error))
            return
        entry = self._sagas.get(saga_id)
        if entry is None:
            self._first_input(saga_id, input_, record)
        else:
            self._apply(saga_id, entry, input_, record)

    def quarantine(self, record: Record, reason: str) -> None:
        """Put one record of an input topic aside instead of handling it: what it leads to cannot be written."""
        self._offsets[record.topic] = record.offset + 1
        self._quarantine(record, reason)

    def fire(self, now: int, limit: int) -> int:
        """Handle local steps that have ended and what is due by `now` (ms since the epoch); how many, up to `limit`."""
        fired = self._take_ended(now, limit)
        while fired < limit:
            found = self._timers.pop(now)
            if found is None:
                break
            entry = self._sagas.get(found[1])
            if entry is None or found[0] != entry.armed:
                continue
            entry.armed = 0
            if entry.due > found[0]:
                self._arm(found[1], entry)  # its turn comes in the order of its real time
            elif entry.due:
                due = i.TimersDue(i.Origin("", self.number, -1, now), self._local.running(found[1]))
                self._apply(found[1], entry, due, None)
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
            self._sagas.pop(saga_id).sleep()
            self._awake.pop(saga_id, None)
            self._ended.remember(saga_id, self._batch.ended[saga_id])
        self._stored_plans |= self._batch.plans
        self._limited.stands()
        self._local.hand_out(self._batch.jobs, self._batch.handled)
        self._batch = self._new_batch()
        while len(self._awake) > self._settings.live_sagas_max:
            self._awake.popitem(last=False)[1].sleep()

    def discard(self) -> None:
        """The output does not stand: everything is as it was after the last `committed`."""
        batch = self._batch
        for saga_id, before in batch.before.items():
            entry = self._sagas[saga_id]
            entry.sleep()
            self._awake.pop(saga_id, None)
            if before is None:
                del self._sagas[saga_id]
                continue
            entry.pages, entry.due = before
            entry.armed = 0
            self._arm(saga_id, entry)
        for saga_id, ended_at in batch.forgotten.items():
            self._ended.remember(saga_id, ended_at)
        self._limited.take_back()
        self._local.give_back(batch.handled)
        self._offsets = dict(batch.offsets_before)
        if batch.written:
            self._transaction -= 1
        self._batch = self._new_batch()

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
            self._apply(saga_id, entry, i.RoomGiven(i.Origin("", self.number, -1, now), number, refusal), None)
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
                self._apply(ran.saga_id, entry, reply, None)
        return taken

    def _new_batch(self) -> Batch:
        return Batch(self.number, self._topics, self._offsets, self._partitions)

    def drop_programs(self) -> None:
        """Throw the live coroutines away: each is replayed from its history at its next input."""
        for entry in self._awake.values():
            execution = entry.awake.execution if entry.awake is not None else None
            if execution is not None and execution.program is not None:
                execution.program.close()
                execution.program = None

    # -- one input

    def _first_input(self, saga_id: str, input_: i.Input, record: Record) -> None:
        """An input for a saga that is not there: it may begin one."""
        ended = saga_id in self._ended
        if isinstance(input_, i.StartAsked | i.SignalArrived | i.ForkAsked) and not ended:
            run = f"{self.number}.{record.offset}"
            entry = Entry([])
            entry.wake_new(self._app, saga_id, run)
            self._sagas[saga_id] = entry
            self._batch.before[saga_id] = None
            problem = begin_fork(entry, self._catalogue, input_, partial(self._note, saga_id, entry))
            if problem:
                self._quarantine(record, f"saga {saga_id!r}: {problem}")
            else:
                self._apply(saga_id, entry, input_, record)
            if saga_id not in self._batch.changed:
                del self._sagas[saga_id], self._batch.before[saga_id]
                self._awake.pop(saga_id, None)
        elif ended and isinstance(input_, i.StartAsked) and input_.parent_command is not None:
            self._refuse_child(saga_id, input_, "it exists already, and has ended")
        elif ended and isinstance(input_, i.StartAsked | i.ReplyArrived):
            log.debug("duplicate for an ended saga", extra={"saga_id": saga_id})
        else:
            what = "has ended" if ended else "does not exist here"
            self._quarantine(record, f"expected a saga under way, but {saga_id!r} {what}: got {i.WORDS[type(input_)]}")

    def _apply(self, saga_id: str, entry: Entry, input_: i.Input, record: Record | None) -> None:
        awake = self._wake(saga_id, entry, record)
        if awake is None:
            return
        execution = awake.execution
        if isinstance(input_, i.StartAsked) and execution.state.started is None and execution.state.delayed is None:
            execution.definition = self._catalogue.find(input_.definition)
            if execution.definition is None and not execution.state.ended and record is not None:
                names = ", ".join(self._catalogue.names()) or "none"
                text = f"expected the name of a saga of this application ({names}), got {input_.definition!r}"
                self._quarantine(record, f"saga {saga_id!r}: {text}", input_)
                self._refuse_child(saga_id, input_, text)
                return
        try:
            decision = decide(execution, input_)
            if decision.events or decision.effects:
                self._note(saga_id, entry, awake, input_.origin, decision)
            if execution.state.status is Status.CONTINUED:
                self._continue(saga_id, entry, awake, input_.origin, decision.events[-1])
        except Rejected as error:
            if record is not None:
                self._quarantine(record, f"saga {saga_id!r}: {error}", input_)
            self._refuse_child(saga_id, input_, str(error))
            return
        except Exception as error:  # no input stops a partition: this saga is held, others go on
            log.exception("held: %s", error, extra={"saga_id": saga_id})
            self._hold(saga_id, entry, input_, record, error)

    def _wake(self, saga_id: str, entry: Entry, record: Record | None) -> Awake | None:
        if entry.awake is not None and saga_id in self._awake:
            self._awake.move_to_end(saga_id)
            return entry.awake
        if entry.damaged is None:
            try:
                awake = entry.wake(self._app, saga_id, self._catalogue)
            except (Damaged, BadRecord, IllegalTransition) as error:
                entry.damaged = str(error)
                log.error("saga stopped: its pages are damaged: %s", error, extra={"saga_id": saga_id})
            else:
                self._awake[saga_id] = entry
                return awake
        if record is not None:
            self._quarantine(record, f"saga {saga_id!r}: its pages in the state topic are damaged: {entry.damaged}")
        return None

    def _note(self, saga_id: str, entry: Entry, awake: Awake, origin: i.Origin, decision: Decision) -> None:
        """Write a decision down: events to the page, effects to the batch.

        What cannot be written raises before anything is changed.
        """
        state, settings, batch = awake.execution.state, self._settings, self._batch
        sent = [batch.record(effect, state, origin.time) for effect in decision.effects]
        works = [effect for effect in decision.effects if isinstance(effect, RunWork)]
        batch.jobs += [(work.number, job_of(saga_id, awake, work, lambda: not self._local.closed)) for work in works]
        records = [record for record in sent if record is not None]
        if not decision.events:
            batch.send(records)
            return
        number = awake.page.number
        closed = awake.append(origin, decision.events, settings.page_bytes_max, settings.record_bytes_max)
        batch.touch(saga_id, entry)
        for page in closed:
            batch.close_page(saga_id, state.run, number, page)
            number += 1
        batch.count(len(decision.events), awake.page.size)
        for event in decision.events[:4]:  # what was asked for beyond the usual may precede the start
            if isinstance(event, e.SagaStarted):
                self._store_plan(event)
        batch.send(records)
        self._limited.follow(saga_id, state, decision.events)
        entry.due = state.next_timer() or 0
        self._arm(saga_id, entry)
        if state.hold is not None and any(isinstance(event, e.SagaQuarantined) for event in decision.events):
            log.error(
                "saga %s is held: %s; mend the cause, then resume it",
                *(saga_id, state.hold_reason),
                extra={"saga_id": saga_id},
            )

    def _hold(self, saga_id: str, entry: Entry, input_: i.Input, record: Record | None, error: Exception) -> None:
        """The kernel broke on this saga: fold it anew from what is written, and hold it.

        One that has not started is left as it was: the record that would start it is quarantined, that is all.
        """
        assert entry.awake is not None  # it was just decided on
        page, closed = entry.awake.page, entry.awake.closed
        if record is not None:
            self._quarantine(record, f"saga {saga_id!r}: {type(error).__name__}: {error}")
        if not page.events:
            return
        written, entry.pages = entry.pages, [*closed, page.value()]
        entry.sleep()
        awake = entry.wake(self._app, saga_id, self._catalogue)
        entry.pages = written
        if awake.execution.state.started is None:
            return
        event = e.SagaQuarantined(storable(f"{type(error).__name__}: {error}"))
        evolve(awake.execution.state, event, input_.origin.time)
        self._note(saga_id, entry, awake, input_.origin, Decision([event]))

    def _continue(self, saga_id: str, entry: Entry, awake: Awake, origin: i.Origin, continued: e.Event) -> None:
        """The run is over: the next one begins in the same transaction, with the signals that nobody has received."""
        old = awake.execution.state
        assert old.started is not None
        assert isinstance(continued, e.SagaContinued)
        self._batch.end_run(saga_id, old, awake.page)
        entry.sleep()
        fresh = entry.wake_new(self._app, saga_id, next_run(old.run))
        fresh.execution.definition = self._catalogue.find(old.started.definition)
        for signal in old.signals:
            kept = decide(fresh.execution, i.SignalArrived(origin, signal.name, signal.signal_id, signal.payload))
            self._note(saga_id, entry, fresh, origin, kept)
        self._apply(saga_id, entry, start_again(old, origin, continued.payload), None)

    def _refuse_child(self, saga_id: str, input_: i.Input, reason: str) -> None:
        if isinstance(input_, i.StartAsked) and input_.parent_command is not None:
            self._batch.refuse_child(saga_id, input_, f"kompensate:{self._app}", f"saga {saga_id!r}: {reason}")

    def _store_plan(self, started: e.SagaStarted) -> None:
        hash_ = started.plan
        if hash_ is not None and hash_ not in self._stored_plans and hash_ not in self._batch.plans:
            self._batch.store_plan(self._catalogue.plans[hash_])

    def _quarantine(self, record: Record, reason: str, input_: i.Input | None = None) -> None:
        """Put it aside; of a child's start the parent is told, too (`_refuse_child`)."""
        log.warning("quarantined %s/%d@%d: %s", record.topic, record.partition, record.offset, reason)
        told = isinstance(input_, i.StartAsked) and input_.parent_command is not None
        self._batch.quarantine(record, reason, answered="refused" if told else None)

    def _arm(self, saga_id: str, entry: Entry) -> None:
        if entry.due and (not entry.armed or entry.due < entry.armed):
            entry.armed = entry.due
            self._timers.arm(entry.due, saga_id)

    def _forget(self, now: int, limit: int) -> int:
        """Tombstone the summaries of sagas that ended longer ago than the dedup window."""
        forgotten = 0
        while forgotten < limit and (found := self._ended.forget(now)) is not None:
            self._batch.forget(*found)
            forgotten += 1
        return forgotten
