"""What one input does to its saga: the kernel decides, and what it decides is written to the batch.

No input stops a partition. One that cannot be handled is quarantined; a saga on which the kernel breaks is held, and
others go on. What cannot be written changes nothing.
"""

from functools import partial
from logging import getLogger

from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.decide import Decision, decide
from kompensate.orchestrator.kernel.effects import RunWork
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.program import storable
from kompensate.orchestrator.kernel.tables import Status
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.sagas.batch import Batch
from kompensate.orchestrator.sagas.entry import Awake, Entry, start_again
from kompensate.orchestrator.sagas.forking import begin_fork
from kompensate.orchestrator.sagas.journal import next_run
from kompensate.orchestrator.sagas.limited import LimitedCalls
from kompensate.orchestrator.sagas.local import LocalSteps, job_of
from kompensate.orchestrator.sagas.underway import UnderWay
from kompensate.orchestrator.settings import Settings

log = getLogger("kompensate.partition")


class Deciding:
    """Decides for the sagas of one partition, into `batch`, which is replaced with each transaction.

    `plans` are the hashes of those that the log has.
    """

    def __init__(
        self,
        app: str,
        settings: Settings,
        catalogue: Catalogue,
        sagas: UnderWay,
        local: LocalSteps,
        limited: LimitedCalls,
    ) -> None:
        self.batch: Batch
        self.plans: set[str] = set()
        self._app = app
        self._settings = settings
        self._catalogue = catalogue
        self._sagas = sagas
        self._local = local
        self._limited = limited

    def begin(self, saga_id: str, input_: i.Input, record: Record, run: str, *, ended: bool) -> None:
        """An input for a saga that is not there, or has `ended`: it may begin one, whose run is `run`."""
        if isinstance(input_, i.StartAsked | i.SignalArrived | i.ForkAsked) and not ended:
            entry = self._sagas.begin(saga_id, run)
            self.batch.before[saga_id] = None
            problem = begin_fork(entry, self._catalogue, input_, partial(self._note, saga_id, entry))
            if problem:
                self.quarantine(record, f"saga {saga_id!r}: {problem}")
            else:
                self.apply(saga_id, entry, input_, record)
            if saga_id not in self.batch.changed:
                del self.batch.before[saga_id]
                self._sagas.drop(saga_id)
        elif ended and isinstance(input_, i.StartAsked) and input_.parent_command is not None:
            self._refuse_child(saga_id, input_, "it exists already, and has ended")
        elif ended and isinstance(input_, i.StartAsked | i.ReplyArrived):
            log.debug("duplicate for an ended saga", extra={"saga_id": saga_id})
        else:
            what = "has ended" if ended else "does not exist here"
            self.quarantine(record, f"expected a saga under way, but {saga_id!r} {what}: got {i.WORDS[type(input_)]}")

    def apply(self, saga_id: str, entry: Entry, input_: i.Input, record: Record | None) -> None:
        """An input for this saga; `record` is what it came by, if by any."""
        awake = self._sagas.wake(saga_id, entry)
        if awake is None:
            if record is not None:
                self.quarantine(record, f"saga {saga_id!r}: its pages in the state topic are damaged: {entry.damaged}")
            return
        execution = awake.execution
        if isinstance(input_, i.StartAsked) and execution.state.started is None and execution.state.delayed is None:
            execution.definition = self._catalogue.find(input_.definition)
            if execution.definition is None and not execution.state.ended and record is not None:
                names = ", ".join(self._catalogue.names()) or "none"
                text = f"expected the name of a saga of this application ({names}), got {input_.definition!r}"
                self.quarantine(record, f"saga {saga_id!r}: {text}", input_)
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
                self.quarantine(record, f"saga {saga_id!r}: {error}", input_)
            self._refuse_child(saga_id, input_, str(error))
            return
        except Exception as error:  # no input stops a partition: this saga is held, others go on
            log.exception("held: %s", error, extra={"saga_id": saga_id})
            self._hold(saga_id, entry, input_, record, error)

    def _note(self, saga_id: str, entry: Entry, awake: Awake, origin: i.Origin, decision: Decision) -> None:
        """Write a decision down: events to the page, effects to the batch.

        What cannot be written raises before anything is changed.
        """
        state, settings, batch = awake.execution.state, self._settings, self.batch
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
        self._sagas.arm(saga_id, entry)
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
            self.quarantine(record, f"saga {saga_id!r}: {type(error).__name__}: {error}")
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
        self.batch.end_run(saga_id, old, awake.page)
        entry.sleep()
        fresh = entry.wake_new(self._app, saga_id, next_run(old.run))
        fresh.execution.definition = self._catalogue.find(old.started.definition)
        for signal in old.signals:
            kept = decide(fresh.execution, i.SignalArrived(origin, signal.name, signal.signal_id, signal.payload))
            self._note(saga_id, entry, fresh, origin, kept)
        self.apply(saga_id, entry, start_again(old, origin, continued.payload), None)

    def _refuse_child(self, saga_id: str, input_: i.Input, reason: str) -> None:
        if isinstance(input_, i.StartAsked) and input_.parent_command is not None:
            self.batch.refuse_child(saga_id, input_, f"kompensate:{self._app}", f"saga {saga_id!r}: {reason}")

    def _store_plan(self, started: e.SagaStarted) -> None:
        hash_ = started.plan
        if hash_ is not None and hash_ not in self.plans and hash_ not in self.batch.plans:
            self.batch.store_plan(self._catalogue.plans[hash_])

    def quarantine(self, record: Record, reason: str, input_: i.Input | None = None) -> None:
        """Put it aside; of a child's start the parent is told, too (`_refuse_child`)."""
        log.warning("quarantined %s/%d@%d: %s", record.topic, record.partition, record.offset, reason)
        told = isinstance(input_, i.StartAsked) and input_.parent_command is not None
        self.batch.quarantine(record, reason, answered="refused" if told else None)
