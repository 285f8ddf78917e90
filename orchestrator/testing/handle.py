"""One saga in a test: what is asked of it, what became of it, and assertions that read like the saga."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.tables import CallStatus
from kompensate.orchestrator.reading.words import readable
from kompensate.orchestrator.testing.histories import save_history
from kompensate.orchestrator.testing.services import Seen
from kompensate.orchestrator.testing.story import Story
from kompensate.schemas import attributes, payloads
from kompensate.schemas.messages import CANCEL, PAUSE, RESUME, SIGNAL

if TYPE_CHECKING:
    from kompensate.orchestrator.testing.environment import SagaTest

T = TypeVar("T")
_OUT = (CallStatus.SENT, CallStatus.UNDOING)
ANY: Any = object()
"""Whatever it is: the default of assertions about results and reasons."""


WHO, WHY = "operator", "as the test says"
"""An order has a name and a reason."""


class SagaHandle:
    """The saga `saga_id` of a test. What is asked of it happens when the test runs on.

    Times are virtual seconds. With `after` it is asked as soon as the step of that name is done, with `delay` so much
    later.
    """

    def __init__(self, test: "SagaTest", story: Story) -> None:
        self.saga_id = story.saga_id
        self._test = test
        self._story = story

    def __repr__(self) -> str:
        return f"<saga {self.saga_id!r}, {self.status or 'not started'}>"

    # -- asking

    def signal(
        self,
        name: str,
        payload: object = None,
        *,
        signal_id: str | None = None,
        after: str | None = None,
        delay: float = 0.0,
    ) -> None:
        """Send it a message. Two with the same `signal_id` are one."""
        self._test.ask(SIGNAL, self.saga_id, subject=name, payload=payload, id_=signal_id, after=after, delay=delay)

    def cancel(self, reason: str = "", *, after: str | None = None, delay: float = 0.0) -> None:
        """Ask it to stop and undo what it did."""
        self._test.ask(CANCEL, self.saga_id, subject=reason or None, after=after, delay=delay)

    def pause(self, reason: str = "", *, after: str | None = None, delay: float = 0.0) -> None:
        """Hold it where it is."""
        self._test.ask(PAUSE, self.saga_id, subject=reason or None, after=after, delay=delay)

    def resume(self, reason: str = "", *, after: str | None = None, delay: float = 0.0) -> None:
        """Release it, also from quarantine."""
        self._test.ask(RESUME, self.saga_id, subject=reason or None, after=after, delay=delay)

    # -- an operator's orders, with name and reason: of a step by its name or number, where more than one is open

    def retry(self, step: str = "", *, who: str = WHO, reason: str = WHY) -> None:
        """Have the step tried again now; releases the saga where it is held."""
        self._test.order("retry", self.saga_id, step, who, reason, None)

    def skip(self, step: str = "", *, who: str = WHO, reason: str = WHY) -> None:
        """Go on as if the step were done, with null, or undone."""
        self._test.order("skip", self.saga_id, step, who, reason, None)

    def complete(self, step: str = "", result: object = None, *, who: str = WHO, reason: str = WHY) -> None:
        """Say that the step is done, with that result, or undone."""
        self._test.order("complete", self.saga_id, step, who, reason, result)

    def compensate(self, *, who: str = WHO, reason: str = WHY) -> None:
        """Undo all that can be undone, also past the pivot."""
        self._test.order("compensate", self.saga_id, "", who, reason, None)

    def close(self, *, who: str = WHO, reason: str = WHY) -> None:
        """End it as failed, as it is."""
        self._test.order("close", self.saga_id, "", who, reason, None)

    def fork(
        self,
        new_id: str,
        *,
        step: str | None = None,
        event: int | None = None,
        version: int | None = None,
        who: str = WHO,
        reason: str = WHY,
    ) -> "SagaHandle":
        """Have saga `new_id` go on from its history, as it was before `step` was asked for or after event `event`.

        It has ended. Raises ValueError where no saga may go on from there.
        """
        about: dict[str, Any] = {"step": step, "event": event, "version": version, "who": who, "reason": reason}
        return self._test.fork(self.saga_id, new_id, reset=False, **about)

    def reset(
        self,
        new_id: str,
        *,
        step: str | None = None,
        event: int | None = None,
        version: int | None = None,
        who: str = WHO,
        reason: str = WHY,
    ) -> "SagaHandle":
        """As `fork`, of a saga under way: it undoes what came after that, ends, and the other goes on.

        Runs on until the other is there.
        """
        about: dict[str, Any] = {"step": step, "event": event, "version": version, "who": who, "reason": reason}
        return self._test.fork(self.saga_id, new_id, reset=True, **about)

    def run_until(self, step: str) -> None:
        """Run until a command of that step is out and not yet answered. AssertionError where that never comes."""
        self._test.run_until(lambda: step in self.waiting, f"saga {self.saga_id!r}: step {step!r} to be out")

    # -- what became of it

    @property
    def status(self) -> str:
        """The saga's status, empty before anything has come for it."""
        return str(self._story.fold.state.status or "")

    @property
    def hold(self) -> str:
        """`paused`, `quarantined`, or empty."""
        return str(self._story.fold.state.hold or "")

    @property
    def reason(self) -> str:
        """Why it is held, or why it turned back."""
        state = self._story.fold.state
        return state.hold_reason or state.reason

    @property
    def result(self) -> Any:
        """What it returned, as plain JSON values."""
        return self._story.fold.readable(self._story.fold.state.result)

    @property
    def published(self) -> dict[str, Any]:
        """What it shows the outside: the newest value of each name, as plain JSON values."""
        fold = self._story.fold
        return {name: fold.readable(value) for name, value in fold.state.published.items()}

    @property
    def attributes(self) -> dict[str, Any]:
        """By what operators find it."""
        return attributes.read(self._story.fold.state.attributes)

    def result_as(self, kind: type[T]) -> T:
        """What it returned, as a `kind`. Raises BadPayload."""
        found: T = self._story.payloads.decode(self._story.fold.state.result, kind)
        return found

    @property
    def seen(self) -> list[Seen]:
        """Every command that it sent, in order; one that was sent again stands there once."""
        return [seen for seen in self._test.services.seen.values() if seen.saga_id == self.saga_id]

    @property
    def commands(self) -> list[str]:
        """The names of those commands, compensations too: `inventory.Reserve`."""
        return [seen.type for seen in self.seen]

    def messages(self, kind: type[T]) -> list[T]:
        """The commands of that class that it sent."""
        return [payloads.decode(payloads.encode(s.message), kind) for s in self.seen if _short(s.type) == kind.__name__]

    @property
    def done(self) -> list[str]:
        """The steps that were done, in the order of their answers."""
        return self._steps(e.CallSucceeded)

    @property
    def undone(self) -> list[str]:
        """The steps that were undone, in that order."""
        return self._steps(e.CallUndone)

    @property
    def waiting(self) -> list[str]:
        """The steps that are out, forward or to undo: not those between two attempts."""
        state = self._story.fold.state
        return [call.made.step for call in state.open.values() if call.status in _OUT]

    @property
    def queued(self) -> list[str]:
        """The steps that wait for room under a limit."""
        state = self._story.fold.state
        return [call.made.step for call in state.open.values() if call.status is CallStatus.QUEUED]

    @property
    def events(self) -> list[str]:
        """The kinds of its events, in order."""
        return [line.kind for line in self._story.fold.lines]

    @property
    def quarantined(self) -> list[str]:
        """Why inputs for it went into quarantine."""
        return list(self._story.quarantined)

    @property
    def pages(self) -> list[bytes]:
        """Its newest run's history, as the wire has it."""
        return [self._story.pages[number] for number in sorted(self._story.pages)]

    @property
    def story(self) -> str:
        """Its history in words."""
        state = self._story.fold.state
        name = state.started.definition if state.started else "not started"
        hold = f", {state.hold}" if state.hold else ""
        head = f"saga {self.saga_id!r} ({name}), {state.status or 'new'}{hold}; {self._test.described}"
        return "\n".join([head, *self._story.lines()])

    def save_history(self, path: Path | str) -> None:
        """Write its history to a file, for `assert_replays` in a later test."""
        save_history(Path(path), self._story, self._test.application)

    def _steps(self, kind: type) -> list[str]:
        return [line.step for line in self._story.fold.lines if type(line.event) is kind]

    # -- assertions

    def assert_completed(self, result: object = ANY) -> None:
        """It has returned, and `result`."""
        __tracebackhide__ = True
        self._assert_status("completed")
        if result is not ANY:
            self._assert(_plain(result) == self.result, f"the result {_plain(result)!r}", repr(self.result))

    def assert_compensated(self, reason: str = "") -> None:
        """A step did not succeed and all is undone; its reason contains `reason`."""
        __tracebackhide__ = True
        self._assert_status("compensated", reason)

    def assert_cancelled(self, reason: str = "") -> None:
        """It was cancelled and all is undone."""
        __tracebackhide__ = True
        self._assert_status("cancelled", reason)

    def assert_failed(self, reason: str = "") -> None:
        """It ended as failed, as after FailSaga, and all is undone."""
        __tracebackhide__ = True
        self._assert_status("failed", reason)

    def assert_held(self, reason: str = "") -> None:
        """It is in quarantine: somebody would have to look; why contains `reason`."""
        __tracebackhide__ = True
        self._assert(self.hold == "quarantined", "it to be held", self.hold or self.status or "not started")
        self._assert(reason in self.reason, f"a reason with {reason!r}", repr(self.reason))

    def assert_waits_for(self, *names: str) -> None:
        """It waits for just these signals and steps."""
        __tracebackhide__ = True
        signals = [receive.name for receive in self._story.fold.state.receives.values()]
        found = sorted([*signals, *self.waiting])
        self._assert(found == sorted(names), f"it to wait for {_listed(names)}", _listed(found))

    def _assert_status(self, status: str, reason: str = "") -> None:
        __tracebackhide__ = True
        got = f"{self.status or 'not started'}{f', {self.hold}' if self.hold else ''}"
        self._assert(self.status == status, f"it to be {status}", got)
        self._assert(reason in self.reason, f"a reason with {reason!r}", repr(self.reason))

    def _assert(self, holds: bool, expected: str, got: str) -> None:
        __tracebackhide__ = True
        if not holds:
            raise AssertionError(f"saga {self.saga_id!r}: expected {expected}, got {got}\n{self.story}")


def _short(type_: str) -> str:
    return type_.rpartition(".")[2]


def _plain(value: object) -> Any:
    return readable(payloads.encode(value))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
