"""Composition root: an application becomes a worker on Kafka.

worker = Worker(application, Settings(bootstrap="…"))
worker.run()                     # a process of its own: until SIGTERM or SIGINT
worker.start(); worker.stop()    # or inside another program, on a thread of its own
"""

import gc
import logging
import threading
import time
from typing import Any

from kompensate.orchestrator.client import Client
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.schedule import SAGA, begun, said
from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.kafka.log import KafkaLog
from kompensate.orchestrator.local.steps import Steps
from kompensate.orchestrator.sagas.journal import watermark_writer
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.sagas.rooms import Rooms
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import TopicAdmin, group_of
from kompensate.orchestrator.worker.health import Health, HealthServer
from kompensate.orchestrator.worker.loop import Loop
from kompensate.orchestrator.worker.slots import Slot, claim_slot
from kompensate.schemas.signals import when_told
from kompensate.schemas.topics import Topics

logger = logging.getLogger(__name__)

GC_THRESHOLDS = 500_000, 20, 100
"""Sagas leave no cycles behind, and what a batch is made of is gone when it is committed. Looking through the newest
objects every 700 (Python's default) takes a third of the loop's time, every 50,000 a seventh; past what a full batch
and its sagas hold (10 objects an input read, 32 a saga awake) it hardly happens."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Worker:
    """Runs an application's sagas. Each object runs once.

    `health_port` serves /live and /ready on 127.0.0.1 while it runs (0: any free port, see `health_port`).
    """

    def __init__(self, application: Application, settings: Settings, *, health_port: int | None = None) -> None:
        self._application = application
        self._settings = settings
        self._clock = SystemClock()
        self._rooms = Rooms(application.limits)
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._begun = threading.Event()
        self._error: BaseException | None = None
        self._server = None if health_port is None else HealthServer(health_port, self.health)

    @property
    def health_port(self) -> int | None:
        """Where the health endpoint listens."""
        return None if self._server is None else self._server.port

    def health(self) -> Health:
        """How it stands; may be asked from any thread."""
        return Health.of(
            self._loop,
            self._clock.monotonic(),
            alive=self._error is None,
            stopping=self._stopping.is_set(),
            limits=self._rooms.counts(),
        )

    def start(self, timeout: float = 60.0) -> None:
        """Run on a thread of its own; return when it has joined the group. Raises Fatal, TimeoutError."""
        self._thread = threading.Thread(target=self._run_aside, name="kompensate-worker", daemon=True)
        self._thread.start()
        if not self._begun.wait(timeout):
            self._stopping.set()
            raise TimeoutError(f"the worker had not joined after {timeout:g} s")
        if self._error is not None:
            self._thread.join()
            raise self._error

    def stop(self, timeout: float = 30.0) -> None:
        """Finish the batch, commit, leave the group. Raises what the worker ended with, or TimeoutError."""
        self._stopping.set()
        if self._thread is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the worker was still busy after {timeout:g} s")
        self._thread = None
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then finish the batch, commit, leave the group. Raises Fatal.

        The process is taken to be the worker's own: its garbage collector is set to GC_THRESHOLDS.
        """
        gc.set_threshold(*GC_THRESHOLDS)
        with when_told(self._stopping.set):
            self._run()

    def _run_aside(self) -> None:
        try:
            self._run()
        except BaseException as error:  # handed to whoever starts or stops us
            self._error = error
            logger.critical("the worker has stopped: %s", error)
        finally:
            self._begun.set()

    def _run(self) -> None:
        self._check_topics()
        self._declare_schedules()
        slot = claim_slot(group_of(self._application, self._settings), self._settings)
        logger.info("application %s, slot %s", self._application.name, slot.name)
        steps = Steps(self._application.limits, self._settings.step_threads)
        loop = self._loop = Loop(lambda: self._connect(slot), self._partition, self._settings, self._clock, steps)
        try:
            while not self._stopping.is_set():
                loop.step()
                if loop.status.joined:
                    self._begun.set()
        finally:
            loop.close()
            slot.release()
            if self._server is not None:
                self._server.close()

    def _partition(self, number: int) -> Partition:
        return Partition(number, self._application, self._settings, self._rooms)

    def _connect(self, slot: Slot) -> KafkaLog:
        names = Topics(self._application.name, self._settings.prefix)
        return KafkaLog(
            self._settings,
            group=group_of(self._application, self._settings),
            slot=slot.name,
            inputs=names.inputs(self._application.services),
            state=names.state,
            writer_of=watermark_writer,
            clock=self._clock,
        )

    def _declare_schedules(self) -> None:
        """Say to the sagas that keep the application's schedules what the code says. Raises ClientError."""
        application, settings = self._application, self._settings
        if not application.schedules:
            return
        options: dict[str, Any] = {"prefix": settings.prefix, "kafka": settings.kafka, "payloads": application.payloads}
        with Client(settings.bootstrap, application.name, source="kompensate:worker", **options) as client:
            requests = []
            for schedule in application.schedules:
                id_, hash_ = schedule.saga_id, schedule.hash
                requests += [
                    client.requests.start(SAGA, begun(schedule, hash_), saga_id=id_),
                    client.requests.signal(id_, SAGA, said("declare", schedule, declared=hash_)),
                ]
            client.send(requests)
        logger.info("declared %d schedules", len(application.schedules))

    def _check_topics(self) -> None:
        drifts = TopicAdmin(self._application, self._settings).check()
        for drift in drifts:
            if not drift.needed:
                logger.warning("%s", drift)
        needed = [str(drift) for drift in drifts if drift.needed]
        if needed:
            listed = "\n  ".join(needed)
            raise Fatal(f"the topics are not as application {self._application.name!r} needs them:\n  {listed}")
