"""What programs expect to be answered: the types that they gave as `returns` and `type`, as they ask.

Only a program that runs knows them; a declared saga's stand in its definition.
"""

from typing import Any

from kompensate.orchestrator.kernel.events import CallMade
from kompensate.orchestrator.kernel.operation import Operation, ReceiveAsked


class Expected:
    """Of one run's programs."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, int], Any] = {}
        self._signals: dict[tuple[str, int], Any] = {}

    def note(self, saga_id: str, operation: Operation) -> None:
        """A program waits for this."""
        if operation.kind in (None, Any):
            return
        if type(operation.asked) is CallMade:
            self._results[saga_id, operation.number] = operation.kind
        elif type(operation.asked) is ReceiveAsked:
            self._signals[saga_id, operation.number] = operation.kind

    def result(self, saga_id: str, number: int) -> Any:
        """The type of the result of this call; None where any will do."""
        return self._results.get((saga_id, number))

    def signal(self, saga_id: str, number: int) -> Any:
        """The type of the signal that this operation receives; None where any will do."""
        return self._signals.get((saga_id, number))
