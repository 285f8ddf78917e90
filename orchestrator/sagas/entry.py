"""One saga in a worker's memory: bytes while it waits, an execution with its open page while it is awake."""

from collections.abc import Iterable, Sequence

from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.decide import Execution
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.inputs import Origin, StartAsked
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.sagas.journal import Page, ReadPage, Recorded, block_of, read_pages


class Awake:
    """An execution, and the page that its events go to."""

    __slots__ = ("_read", "closed", "execution", "page")

    def __init__(self, state: SagaState, page: Page, closed: list[bytes], read: list[Recorded] | None) -> None:
        self.closed = closed
        self.page = page
        self._read = read
        self.execution = Execution(state, None, self.history)

    def history(self) -> Iterable[tuple[e.Event, int]]:
        """The run's events so far with their times, for a replay."""
        if self._read is None:
            self._read = [r for page in read_pages([*self.closed, self.page.value()]) for r in page.events]
        return [(r.event, r.origin.time) for r in self._read]

    def append(self, origin: Origin, events: list[e.Event], page_max: int, record_max: int) -> list[bytes]:
        """Write one input's events down. Returns the values of pages that it closed.

        Raises, and changes nothing, where an event cannot be encoded.
        """
        block = block_of(origin, events)
        self._read = None
        if self.page.size + len(block) <= min(page_max, record_max):
            self.page.append(block, len(events))
            return []
        blocks = [(block, len(events))]
        if len(block) > record_max - self.page.size and len(events) > 1:
            # One transition may fill several pages: its events are then a block each.
            blocks = [(block_of(origin, [event]), 1) for event in events]
        before = len(self.closed)
        for block, count in blocks:
            self._append_block(block, count, page_max)
        return self.closed[before:]

    def _append_block(self, block: bytes, events: int, page_max: int) -> None:
        if self.page.events and self.page.size + len(block) > page_max:
            self.closed.append(self.page.value())
            self.page = self.page.next()
        self.page.append(block, events)


def fold(app: str, saga_id: str, pages: Sequence[ReadPage]) -> SagaState:
    """The state that a run's pages lead to. Raises IllegalTransition."""
    state = SagaState(app, saga_id, pages[0].run)
    for page in pages:
        for recorded in page.events:
            evolve(state, recorded.event, recorded.origin.time)
    return state


def start_again(old: SagaState, origin: Origin, payload: bytes) -> StartAsked:
    """The start of the run that follows `old`, which was continued with this input."""
    started = old.started
    assert started is not None  # only started sagas go on
    return StartAsked(
        origin,
        started.definition,
        payload,
        started.traceparent,
        started.tracestate,
        deadline=old.deadline,
        parent=old.parent,
        parent_command=old.parent_command,
        signal_ids=old.received_ids(),
        attributes=old.attributes,
    )


class Entry:
    """A saga. `pages` are its values in the state topic, `due` when it is to be looked at (ms, 0: never).

    `armed` is the due time that the timers know of. `damaged` says why its pages cannot be read; then it
    is left alone until somebody has looked.
    """

    __slots__ = ("armed", "awake", "damaged", "due", "pages")

    def __init__(self, pages: list[bytes], due: int = 0) -> None:
        self.pages = pages
        self.due = due
        self.armed = 0
        self.awake: Awake | None = None
        self.damaged: str | None = None

    def sleep(self) -> None:
        """Back to bytes; what was not written is lost."""
        awake, self.awake = self.awake, None
        if awake is not None:
            if awake.execution.program is not None:
                awake.execution.program.close()
            # They refer to each other: parted, they are gone at once, and the garbage collector finds nothing to do.
            awake.execution.history = tuple

    def wake(self, app: str, saga_id: str, catalogue: Catalogue) -> Awake:
        """The execution, folded from the pages. Raises Damaged or BadRecord."""
        if self.awake is None:
            pages = read_pages(self.pages)
            state = fold(app, saga_id, pages)
            read = [recorded for page in pages for recorded in page.events]
            awake = Awake(state, Page.reopened(self.pages[-1], pages[-1]), self.pages[:-1], read)
            started = state.started or state.delayed
            if started is not None:
                awake.execution.definition = catalogue.find(started.definition, state.version)
            self.awake = awake
        return self.awake

    def wake_new(self, app: str, saga_id: str, run: str) -> Awake:
        """The execution of a saga that begins now."""
        self.awake = Awake(SagaState(app, saga_id, run), Page(run), [], None)
        return self.awake
