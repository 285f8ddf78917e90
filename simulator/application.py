"""What is simulated: an application, and what its sagas are given and answered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.saga import Saga
from kompensate.orchestrator.definitions.steps import Step
from kompensate.participants.participant import Participant
from kompensate.simulator.samples import sample


class NoValue(BaseException):
    """Of a type that is asked for no value can be made up: the application has to say one.

    Not an Exception: the loops under test catch those, and go on.
    """


@dataclass(frozen=True)
class Simulated:
    """`application` with, where chance does not make good ones, its author's own values.

    `make_input(saga name, random)` gives a start's input, `make_reply(command type, payload)` a done command's
    result, `make_signal(name)` a signal's payload; None leaves it to chance: inputs and results by their types (a
    result nobody declared a type for is the command's own payload), signals too (else they are empty). Where a type is
    none of which a value can be made, NoValue is raised.

    `participants` say what their handlers are, and are not called: their services are played as all others. What they
    subscribe to is told: `make_event(type, random)` gives an event's value.
    """

    application: Application
    make_input: Callable[[str, Random], Any] | None = None
    make_reply: Callable[[str, dict[str, Any]], Any] | None = None
    make_signal: Callable[[str], Any] | None = None
    participants: Sequence[Participant] = ()
    make_event: Callable[[str, Random], Any] | None = None

    @property
    def services(self) -> dict[str, Participant | None]:
        """All that are played, those that sagas call first, with what is known of them."""
        known = {one.name: one for one in self.participants}
        called = {name: known.get(name) for name in self.application.services}
        return called | {name: one for name, one in known.items() if one.subscribes or one.publishes}

    def input(self, name: str, random: Random) -> Any:
        """A start's input."""
        made = None if self.make_input is None else self.make_input(name, random)
        kind = self.application.sagas[name].input
        return _made(kind, random, f"the input of {name}", "simulated_input") if made is None else made

    def reply(self, type_: str, payload: dict[str, Any], expected: Any) -> Any:
        """A command's result, of the type that its program expects."""
        made = None if self.make_reply is None else self.make_reply(type_, payload)
        if made is not None:
            return made
        if expected is None:
            return payload
        return _made(expected, Random(repr(sorted(payload.items()))), f"the result of {type_}", "simulated_reply")

    def signal(self, name: str, expected: Any, random: Random) -> Any:
        """A signal's payload, of the type that its program expects."""
        made = None if self.make_signal is None else self.make_signal(name)
        if made is not None:
            return made
        return {} if expected is None else _made(expected, random, f"the signal {name!r}", "simulated_signal")

    def event_maker(self, type_: str, kind: Any) -> Callable[[Random], Any]:
        """What makes values of an event."""

        def make(random: Random) -> Any:
            made = None if self.make_event is None else self.make_event(type_, random)
            return _made(kind, random, f"event {type_}", "simulated_event") if made is None else made

        return make

    def returns(self) -> dict[str, Any]:
        """What declared steps return, by the type of their commands."""
        return {
            f"{step.service}.{step.command.__name__}": step.returns
            for saga in self.application.sagas.values()
            if isinstance(saga, Saga)
            for step in saga.steps.values()
            if isinstance(step, Step) and step.returns is not None
        }


def _made(kind: Any, random: Random, what: str, hook: str) -> Any:
    try:
        return sample(kind, random)
    except TypeError as error:
        raise NoValue(f"{what}: {error}; have the application's module say one, by a function {hook}") from error
