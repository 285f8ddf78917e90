"""An application: its name, its sagas and the services they call. Everything else is derived from it."""

from collections.abc import Sequence

from kompensate.orchestrator.definitions.saga import AsyncSaga, DefinitionError, Saga
from kompensate.orchestrator.kernel.context import Service
from kompensate.schemas.topics import check_name


class Application:
    """What a worker runs, and what topics are made from.

    `services` is needed only for those that an `async def` saga calls; declared steps name theirs.
    `partitions` is the count that its topics are made with: the most workers that can share the load.
    Raises DefinitionError or ValueError.
    """

    def __init__(
        self,
        name: str,
        sagas: Sequence[Saga | AsyncSaga],
        *,
        services: Sequence[Service | str] = (),
        partitions: int = 4,
    ) -> None:
        self.name = check_name("application", name)
        if partitions < 1:
            raise DefinitionError(f"application {name!r}: expected at least 1 partition, got {partitions}")
        self.partitions = partitions
        if isinstance(sagas, Saga | AsyncSaga):
            raise DefinitionError(
                f"application {name!r}: expected a list of sagas, got saga {sagas.name!r}: put it in []"
            )
        self.sagas = {saga.name: saga for saga in sagas}
        if len(self.sagas) != len(sagas):
            raise DefinitionError(
                f"application {name!r}: expected each saga's name once, got {[s.name for s in sagas]}"
            )
        named = [str(service) for service in services]
        for saga in sagas:
            check_name("saga", saga.name)
            named += saga.services
        self.services = tuple(sorted({check_name("service", service) for service in named}))
