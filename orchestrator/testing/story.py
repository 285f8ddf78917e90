"""One saga's history as its test follows it: every event once, as it is committed, and in words for people."""

import re
from collections.abc import Iterator
from datetime import timedelta

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.kernel.state import Call
from kompensate.orchestrator.reading.status import Fold, Line, waits
from kompensate.orchestrator.sagas.journal import Recorded, read_page
from kompensate.orchestrator.testing.coverage import COVERAGE
from kompensate.schemas import codec
from kompensate.schemas.formats import SagaPayloads

PAGE = codec.prefix(codec.PAGE)
"""What a page's bytes begin with."""
_GIVEN_UP = (e.CallInDoubt, e.CallFailed)


class Story:
    """What the topics tell of one saga. `pages` are its newest run's, by number, as the wire has them."""

    def __init__(self, app: str, saga_id: str, payloads: SagaPayloads) -> None:
        self.app, self.saga_id = app, saga_id
        self.payloads = payloads.for_saga(saga_id)
        self.fold = Fold(app, saga_id, "", payloads)
        self.pages: dict[int, bytes] = {}
        self.quarantined: list[str] = []
        self.version = 0
        self._origin: Origin | None = None
        self._given_up: list[Call] = []

    def take(self, value: bytes) -> None:
        """A committed page, from the state topic or the history."""
        page = read_page(value)
        if page.run != self.fold.state.run:
            self.fold, self.pages = Fold(self.app, self.saga_id, page.run, self.payloads), {}
        self.pages[page.number] = value
        for recorded in page.events:
            if recorded.sequence > self.fold.state.events:
                self._add(recorded)

    def _add(self, recorded: Recorded) -> None:
        state, event = self.fold.state, recorded.event
        number = getattr(event, "number", 0)
        call = state.calls.get(number)
        before = state.receives.get(number) if call is None else call.status
        if recorded.origin != self._origin:
            self._origin, self._given_up = recorded.origin, []
        if call is not None and isinstance(event, _GIVEN_UP):
            self._given_up.append(call)
        self.fold.add(recorded)
        self.version += 1
        COVERAGE.note(state, event, before, self._given_up)

    def lines(self) -> Iterator[str]:
        """The story, a line an event, with the time since the earliest."""
        lines = self.fold.lines
        first = min((line.time for line in lines), default=0)
        for line in lines:
            yield f"  {timedelta(milliseconds=line.time - first)!s:>16}  {in_words(line)}"
        if not lines:
            yield "  nothing has happened to it"
        for reason in self.quarantined:
            yield f"  put into quarantine: {reason}"
        for reason in waits(self.fold):
            yield f"  it waits {reason}" if reason.startswith(("for ", "before ", "until ")) else f"  it is {reason}"


def in_words(line: Line) -> str:
    """An event: `call made: reserve (inventory.Reserve, compensatable)`."""
    words = name_in_words(line.kind)
    about = f"{line.step} ({line.detail})" if line.step and line.detail else line.step or line.detail
    return f"{words}: {about}" if about else words


def name_in_words(kind: str) -> str:
    """`CallMade` as `call made`."""
    return re.sub(r"(?<!^)([A-Z])", r" \1", kind).lower()
