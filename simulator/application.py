"""What is simulated: an application, and what its sagas are given and answered."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.saga import Saga
from kompensate.orchestrator.definitions.steps import Step
from kompensate.simulator.samples import sample


@dataclass(frozen=True)
class Simulated:
    """`application` with, where chance does not make good ones, its author's own values.

    `make_input(saga name, random)` gives a start's input, `make_reply(command type, payload)` a done command's
    result, `make_signal(name)` a signal's payload; None leaves it to chance: inputs and results by their types (a
    result nobody declared a type for is the command's own payload), signals empty.
    """

    application: Application
    make_input: Callable[[str, Random], Any] | None = None
    make_reply: Callable[[str, dict[str, Any]], Any] | None = None
    make_signal: Callable[[str], Any] | None = None

    def input(self, name: str, random: Random) -> Any:
        """A start's input. Raises TypeError where its type is none of which a value can be made."""
        made = None if self.make_input is None else self.make_input(name, random)
        return sample(self.application.sagas[name].input, random) if made is None else made

    def reply(self, type_: str, payload: dict[str, Any]) -> Any:
        """A command's result."""
        made = None if self.make_reply is None else self.make_reply(type_, payload)
        if made is not None:
            return made
        returns = self.returns().get(type_)
        return payload if returns is None else sample(returns, Random(repr(sorted(payload.items()))))

    def signal(self, name: str) -> Any:
        """A signal's payload."""
        made = None if self.make_signal is None else self.make_signal(name)
        return {} if made is None else made

    def returns(self) -> dict[str, Any]:
        """What declared steps return, by the type of their commands."""
        return {
            f"{step.service}.{step.command.__name__}": step.returns
            for saga in self.application.sagas.values()
            if isinstance(saga, Saga)
            for step in saga.steps.values()
            if isinstance(step, Step) and step.returns is not None
        }
