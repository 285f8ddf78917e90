"""An application: its name, its sagas and the services they call. Everything else is derived from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kompensate.orchestrator.definitions.firing import ScheduleSaga
from kompensate.orchestrator.definitions.fromtopic import FromTopic
from kompensate.orchestrator.definitions.keeping import check_saga
from kompensate.orchestrator.definitions.saga import AsyncSaga, Saga
from kompensate.orchestrator.definitions.schedule import Schedule
from kompensate.orchestrator.definitions.steps import DefinitionError
from kompensate.orchestrator.kernel.calls import Service
from kompensate.schemas.topics import check_name

if TYPE_CHECKING:  # it brings msgspec and fastavro, and declaring sagas needs neither
    from kompensate.schemas.formats import PayloadFormat


@dataclass(frozen=True, slots=True)
class Limit:
    """How many are out at a time in one worker process, and how many are begun a second (None: any number).

    Local steps, commands and children are counted each by themselves.
    """

    concurrent: int | None = None
    per_second: float | None = None

    def __post_init__(self) -> None:
        if self.concurrent is not None and self.concurrent < 1:
            raise DefinitionError(f"limit: expected at least 1 at a time, got {self.concurrent}")
        if self.per_second is not None and not self.per_second > 0:
            raise DefinitionError(f"limit: expected more than 0 a second, got {self.per_second}")


class Application:
    """What a worker runs, and what topics are made from.

    `services` is needed only for those that an `async def` saga calls; declared steps name theirs.
    `partitions` is the count that its topics are made with: the most workers that can share the load.
    `limits` are what local steps, commands and children may be under, by name. Of a saga several versions may stand
    side by side: new ones follow the highest, those under way the one that they started with.
    `payloads` is how values become bytes (default: JSON); clients and participants are given the same.
    `intake` says which records of existing topics start or signal its sagas (`kompensate intake`).
    `schedules` start sagas again and again; an empty list is for those that are created while it runs.
    Raises DefinitionError or ValueError.
    """

    def __init__(
        self,
        name: str,
        sagas: Sequence[Saga | AsyncSaga],
        *,
        services: Sequence[Service | str] = (),
        partitions: int = 4,
        limits: Mapping[str, Limit] | None = None,
        payloads: "PayloadFormat | None" = None,
        intake: Sequence[FromTopic] = (),
        schedules: Sequence[Schedule] | None = None,
    ) -> None:
        self.name = check_name("application", name)
        if partitions < 1:
            raise DefinitionError(f"application {name!r}: expected at least 1 partition, got {partitions}")
        self.partitions = partitions
        self.payloads = payloads
        if isinstance(sagas, Saga | AsyncSaga):
            raise DefinitionError(
                f"application {name!r}: expected a list of sagas, got saga {sagas.name!r}: put it in []"
            )
        self.limits = dict(limits or {})
        self.versions = {(saga.name, saga.version): saga for saga in sagas}
        if len(self.versions) != len(sagas):
            raise DefinitionError(
                f"application {name!r}: expected each saga's name once, got {[s.name for s in sagas]}: "
                "give another version of it a version=… of its own"
            )
        self.sagas = {saga.name: saga for saga in sorted(sagas, key=lambda saga: saga.version)}
        self.schedules = tuple(schedules or ())
        if schedules is not None:
            self._take_schedules()
        named = [str(service) for service in services]
        for saga in sagas:
            check_name("saga", saga.name)
            named += saga.services
            if isinstance(saga, Saga):
                self._check_named(saga)
        self.services = tuple(sorted({check_name("service", service) for service in named}))
        self.intake = tuple(intake)
        for mapping in self.intake:
            if mapping.start is not None and mapping.start not in self.sagas:
                raise DefinitionError(
                    f"application {name!r}: expected FromTopic {mapping.topic!r} to start one of its sagas "
                    f"({', '.join(sorted(self.sagas))}), got {mapping.start!r}"
                )

    def _check_named(self, saga: Saga) -> None:
        """What a declared saga names must be there."""
        for child in saga.children:
            if child not in self.sagas:
                raise DefinitionError(
                    f"application {self.name!r}: expected saga {child!r} among its sagas, saga {saga.name!r} starts it"
                )
        for step, limit in saga.limits.items():
            if limit not in self.limits:
                names = ", ".join(sorted(self.limits)) or "none"
                raise DefinitionError(
                    f"application {self.name!r}: expected limit {limit!r} among its limits ({names}), step {step!r} of "
                    f"saga {saga.name!r} is under it"
                )

    def _take_schedules(self) -> None:
        """Schedules are kept by a saga of their own."""
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) != len(names):
            raise DefinitionError(f"application {self.name!r}: expected each schedule's name once, got {names}")
        keeper = ScheduleSaga(dict(self.sagas))
        if keeper.name in self.sagas:
            raise DefinitionError(
                f"application {self.name!r}: expected no saga named {keeper.name!r} beside schedules, got one"
            )
        for schedule in self.schedules:
            try:
                check_saga(schedule, self.sagas)
            except ValueError as error:
                raise DefinitionError(str(error)) from error
        self.sagas[keeper.name] = self.versions[keeper.name, keeper.version] = keeper
