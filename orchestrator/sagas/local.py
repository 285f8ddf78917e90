"""Which local steps of a partition run, which wait, and which have ended and are not handled yet.

A step is begun once the transaction that asks for it stands, and is done with once the one that has its end does: so
an aborted batch begins nothing and forgets nothing. Everything but `answer` is the loop's thread's alone.
"""

from collections import deque
from collections.abc import Callable

from kompensate.orchestrator.kernel.effects import RunWork
from kompensate.orchestrator.ports import Job, Ran
from kompensate.orchestrator.sagas.entry import Awake


def job_of(saga_id: str, awake: Awake, effect: RunWork, wanted: Callable[[], bool]) -> Job:
    """What the worker is to run."""
    definition = awake.execution.definition
    assert definition is not None  # its program asked for it
    encode = definition.payloads.for_saga(saga_id).encode
    return Job(saga_id, effect.id, effect.work, effect.reconciling, encode, wanted, effect.once)


class LocalSteps:
    """The local steps of one partition in this process."""

    def __init__(self) -> None:
        self.closed = False
        self._ended: deque[Ran] = deque()
        self._jobs: list[Job] = []
        self._running: dict[str, dict[str, int]] = {}
        self._queued: list[tuple[int, Job]] = []

    @property
    def busy(self) -> bool:
        """Does any of them run?"""
        return bool(self._running)

    @property
    def ended(self) -> bool:
        """Has any ended that is not handled yet?"""
        return bool(self._ended)

    def answer(self, ran: Ran) -> None:
        """One has ended. May be called from any thread."""
        self._ended.append(ran)

    def take_ended(self) -> Ran:
        """The one that ended first."""
        return self._ended.popleft()

    def give_back(self, handled: list[Ran]) -> None:
        """These were handled in a batch that does not stand."""
        self._ended.extendleft(reversed(handled))

    def running(self, saga_id: str) -> frozenset[str]:
        """The commands of that saga's steps that run, or wait to be run."""
        waiting = [job.id for _, job in self._queued if job.saga_id == saga_id]
        return frozenset((*self._running.get(saga_id, ()), *waiting))

    def hand_out(self, jobs: list[tuple[int, Job]], handled: list[Ran]) -> None:
        """A batch stands that handled these ends and asks for these jobs, each with its operation's number.

        Of one operation one function runs at a time: what undoes a step waits for what does it.
        """
        for ran in handled:
            of_saga = self._running.get(ran.saga_id, {})
            of_saga.pop(ran.id, None)
            if not of_saga:
                self._running.pop(ran.saga_id, None)
        waiting, self._queued = [*self._queued, *jobs], []
        for number, job in waiting:
            of_saga = self._running.setdefault(job.saga_id, {})
            if number in of_saga.values():
                self._queued.append((number, job))
            else:
                of_saga[job.id] = number
                self._jobs.append(job)

    def take_jobs(self) -> list[Job]:
        """What is to be begun, each once."""
        jobs, self._jobs = self._jobs, []
        return jobs
