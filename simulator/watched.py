"""The sagas of one partition, with somebody who looks at them after each restore and each commit."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.kernel.operation import Operation
from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.sagas.rooms import Rooms
from kompensate.orchestrator.settings import Settings


class Observer(Protocol):
    """Who looks."""

    def restored(self, partition: "Watched", positions: Mapping[str, int]) -> None:
        """It was read from the log, and goes on from these offsets."""

    def remembered(self, partition: "Watched", changed: Sequence[str]) -> None:
        """A batch that changed these sagas stands."""

    def asked(self, saga_id: str, operation: Operation) -> None:
        """A saga that the batch about to be written changes waits for this."""

    def closed(self, partition: "Watched") -> None:
        """Its worker has let go of it."""


class Watched(Partition):
    """A Partition that tells its observer. Nothing in it is done otherwise."""

    def __init__(
        self, number: int, application: Application, settings: Settings, rooms: Rooms, observer: Observer
    ) -> None:
        super().__init__(number, application, settings, rooms)
        self._observer = observer

    @property
    def dues(self) -> list[int]:
        """When its loop has to look at it."""
        return [due for due in (self.next_due, self.room_at) if due is not None]

    def loaded(self, committed: Mapping[str, int], beginning: Mapping[str, int]) -> dict[str, int]:
        positions = super().loaded(committed, beginning)
        self._observer.restored(self, positions)
        return positions

    def output(self, writer: str) -> tuple[list[OutRecord], dict[str, int]]:
        for saga_id, entry in self._batch.changed.items():
            program = None if entry.awake is None else entry.awake.execution.program
            for operation in () if program is None else program.open:
                self._observer.asked(saga_id, operation)
        return super().output(writer)

    def committed(self) -> None:
        changed = list(self._batch.changed)
        super().committed()
        self._observer.remembered(self, changed)

    def close(self) -> None:
        super().close()
        self._observer.closed(self)
