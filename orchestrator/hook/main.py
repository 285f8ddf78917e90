"""Composition root: an application's troubles from Kafka to a URL or a topic.

HookProcess("shop", Settings(bootstrap="…"), topic="ops.troubles", begin="latest").run()    # until SIGTERM or SIGINT
"""

import logging
import threading

from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.hook.once import Receiver, TellOnce
from kompensate.orchestrator.hook.troubles import Troubles
from kompensate.orchestrator.intake.loop import IntakeLoop
from kompensate.orchestrator.intake.ports import Sources
from kompensate.orchestrator.kafka.sources import Begin, KafkaSources
from kompensate.orchestrator.main import SystemClock
from kompensate.orchestrator.reading.reader import Reader, partitions_of
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.slots import claim_slot
from kompensate.schemas.signals import when_told
from kompensate.schemas.topics import Topics, check_name

logger = logging.getLogger(__name__)

NAME = "hook"


class HookProcess:
    """Tells the troubles of application `app` to `receiver`, else writes them to `topic`.

    `name` tells hooks of one application apart: each has its own place in the topics. Several with one name share the
    work, and take it over from each other.
    """

    def __init__(
        self,
        app: str,
        settings: Settings,
        *,
        receiver: Receiver | None = None,
        topic: str | None = None,
        begin: Begin | None = None,
        name: str = NAME,
    ) -> None:
        if (receiver is None) == (topic is None):
            raise ValueError("hook: expected a receiver or a topic, got " + ("both" if topic else "neither"))
        self._settings, self._receiver, self._target, self._begin = settings, receiver, topic, begin
        self._topics = Topics(check_name("application", app), settings.prefix)
        self.group = self._topics.hook_group(check_name("hook", name))
        self._stopping = threading.Event()
        self._clock = SystemClock()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then finish the batch, commit, leave the group. Raises Fatal, ClientError."""
        with when_told(self._stopping.set):
            self._run()

    def _run(self) -> None:
        self._check_topics()
        slot = claim_slot(self.group, self._settings)
        logger.info("hook of %s, group %s, slot %s", self._topics.app, self.group, slot.name)

        def connect() -> Sources:
            sources = KafkaSources(
                self._settings,
                group=self.group,
                slot=slot.name,
                topics=(self._topics.state, self._topics.quarantine),
                begin=self._begin,
                clock=self._clock,
            )
            return TellOnce(sources, self._receiver, self._clock)

        loop = IntakeLoop(connect, Troubles(self._topics, self._target or ""), self._settings, self._clock)
        try:
            while not self._stopping.is_set():
                loop.step()
        finally:
            loop.close()
            slot.release()

    def _check_topics(self) -> None:
        """What it reads, and what it writes to, must be there."""
        with Reader(self._settings.bootstrap, self._settings.kafka) as reader:
            known = reader.topics()
        partitions_of(self._topics.state, known, self._settings.bootstrap)
        if self._target is not None and self._target not in known:
            raise Fatal(
                f"topic {self._target}: expected it at {self._settings.bootstrap}, got no such topic: make it first, "
                "with as many partitions and as long a retention as its readers need"
            )
