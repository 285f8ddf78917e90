"""The context of a saga that goes on from another's history.

What the program asked for and drew up to the fork it asked for and drew as that other saga: local steps get the
arguments they had there, children their names. From there on it is itself. Only its payloads are its own throughout:
they were written anew when they were copied.
"""

from collections.abc import Sequence
from typing import Any

from kompensate.orchestrator.kernel.context import EVENTS_SUGGESTED, Context
from kompensate.orchestrator.kernel.state import Fork


class ForkedContext(Context):
    """`forks` are the runs that the history was copied from, the oldest first."""

    def __init__(self, forks: Sequence[Fork], *about: Any) -> None:
        self._forks = forks
        super().__init__(*about)

    @property
    def saga_id(self) -> str:
        """Who asks for the next operation."""
        fork = self._fork()
        return self._own_id if fork is None else fork.saga_id

    @saga_id.setter
    def saga_id(self, saga_id: str) -> None:
        self._own_id = saga_id

    @property
    def run_id(self) -> str:
        """In which of its runs."""
        fork = self._fork()
        return self._own_run if fork is None else fork.run

    @run_id.setter
    def run_id(self, run: str) -> None:
        self._own_run = run

    @property
    def continue_as_new_suggested(self) -> bool:
        """As it was there: that its history was copied is an event more for each fork."""
        return self._events - len(self._forks) >= EVENTS_SUGGESTED

    def _fork(self) -> Fork | None:
        return next((fork for fork in self._forks if self._number < fork.operations), None)
