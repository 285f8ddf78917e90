"""Composition root: an application's mappings become an intake on Kafka.

intake = IntakeProcess(application, Settings(bootstrap="…"), begin="latest")
intake.run()                     # until SIGTERM or SIGINT
"""

import logging
import threading

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.intake.loop import IntakeLoop
from kompensate.orchestrator.intake.translate import Translator
from kompensate.orchestrator.kafka.sources import Begin, KafkaSources
from kompensate.orchestrator.main import SystemClock
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import TopicAdmin
from kompensate.orchestrator.worker.health import STALL_SECONDS, HealthServer, IntakeHealth
from kompensate.orchestrator.worker.slots import claim_slot
from kompensate.schemas.signals import when_told
from kompensate.schemas.topics import Topics

logger = logging.getLogger(__name__)


class IntakeProcess:
    """Runs an application's mappings. Several share the source topics' partitions, as workers do.

    `health_port` serves /live and /ready on 127.0.0.1 while it runs.
    """

    def __init__(
        self,
        application: Application,
        settings: Settings,
        *,
        begin: Begin | None = None,
        health_port: int | None = None,
    ) -> None:
        self._application, self._settings, self._begin = application, settings, begin
        self._names = Topics(application.name, settings.prefix)
        self.group = self._names.intake_group
        self._stopping = threading.Event()
        self._clock = SystemClock()
        self._loop: IntakeLoop | None = None
        self._server = None if health_port is None else HealthServer(health_port, self.health)

    def health(self) -> IntakeHealth:
        """How it stands; may be asked from any thread."""
        loop = self._loop
        if loop is None:
            return IntakeHealth(live=True, ready=False, handled=0)
        live = self._clock.monotonic() - loop.stepped_at < STALL_SECONDS
        return IntakeHealth(live, live and loop.joined and not self._stopping.is_set(), loop.handled)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then finish the batch, commit, leave the group. Raises Fatal."""
        with when_told(self._stopping.set):
            self._run()

    def _run(self) -> None:
        translator = Translator(self._application, self._names)
        if not translator.sources:
            raise Fatal(
                f"application {self._application.name!r}: expected mappings, as in "
                "Application(…, intake=[FromTopic(…)]), got none"
            )
        self._check_topics()
        slot = claim_slot(self.group, self._settings)
        logger.info("intake of %s from %s, slot %s", self._application.name, ", ".join(translator.sources), slot.name)

        def connect() -> KafkaSources:
            return KafkaSources(
                self._settings,
                group=self.group,
                slot=slot.name,
                topics=translator.sources,
                begin=self._begin,
                clock=self._clock,
            )

        loop = self._loop = IntakeLoop(connect, translator, self._settings, self._clock)
        try:
            while not self._stopping.is_set():
                loop.step()
        finally:
            loop.close()
            slot.release()
            if self._server is not None:
                self._server.close()

    def _check_topics(self) -> None:
        """What it writes to must be there, with the right count of partitions."""
        ours = (self._names.requests, self._names.quarantine)
        drifts = TopicAdmin(self._application, self._settings).check()
        needed = [str(drift) for drift in drifts if drift.needed and drift.topic in ours]
        if needed:
            listed = "\n  ".join(needed)
            raise Fatal(f"the topics are not as application {self._application.name!r} needs them:\n  {listed}")
