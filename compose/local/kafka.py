"""One Kafka node on loopback, as broker and controller."""

import base64
import contextlib
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from kompensate.compose.local.errors import StackError
from kompensate.compose.local.jars import class_path, fetch
from kompensate.compose.local.java import java_command
from kompensate.compose.local.processes import Launch, port_answers
from kompensate.compose.local.service import TEMPLATES, Home

HEAP = "512m"
ANSWER_TIMEOUT_SECONDS = 2
WAKE_GROUP = "kompensate-dev"  # has no members and no offsets
# Elections, rebalances and transactions tell the story when a test fails; the rest is noise.
LOG_LEVELS = {
    "kafka.server.KafkaRaftServer": "info",
    "kafka.coordinator.transaction": "info",
    "org.apache.kafka.coordinator.group": "info",
}


class Kafka:
    """Apache Kafka in KRaft mode; its data is the folder `kafka`.

    A broker makes the topic of its group coordinator when it is first asked for one, which takes a second and
    is hard on some clients. `wake`: it is asked while it starts; without, it is left as new clusters are.
    """

    name = "kafka"
    port_names = ("kafka", "kafka_controller")
    needs = ()
    stop_signal = signal.SIGTERM

    def __init__(self, *, wake: bool = True) -> None:
        self._wake = wake

    def fetch(self, home: Home) -> None:
        """Download the jars that are not there."""
        fetch("kafka", mirror=home.mirror)

    def prepare(self, home: Home) -> Launch:
        """Write the configuration; format the folder the first time."""
        classes = class_path("kafka")
        data = home.folder / "kafka"
        if not data.exists():
            _format(home.folder, java_command(classes, HEAP, "quick", {}, train=False))
        configuration = home.folder / "server.properties"
        _configure(configuration, data, home)
        command = (*java_command(classes, HEAP, home.jit, LOG_LEVELS), "kafka.Kafka", str(configuration))
        return Launch(command, home.log(self.name), {"LC_ALL": "C.UTF-8"})

    def answers(self, home: Home) -> bool:
        """Whether the broker names itself in the cluster's metadata, and leads every partition that it has.

        Then topics can be made, and those of an earlier life read and written.
        """
        port = home.ports["kafka"]
        if not port_answers(port):
            return False
        options: dict[str, Any] = {"log_level": 0, "error_cb": lambda _error: None}
        options["bootstrap.servers"] = f"127.0.0.1:{port}"
        admin = AdminClient(options)
        with contextlib.suppress(KafkaException):
            metadata = admin.list_topics(timeout=ANSWER_TIMEOUT_SECONDS)
            partitions = [each for topic in metadata.topics.values() for each in topic.partitions.values()]
            led = bool(metadata.brokers) and all(each.leader in metadata.brokers for each in partitions)
            return led and (not self._wake or _coordinates_groups(options))
        return False

    def forget(self, home: Home) -> None:
        """Remove all topics."""
        shutil.rmtree(home.folder / "kafka", ignore_errors=True)


def _coordinates_groups(options: dict[str, Any]) -> bool:
    """Whether the coordinator of a group answers; raises KafkaException where it does not yet."""
    consumer = Consumer({**options, "group.id": WAKE_GROUP})
    try:
        return bool(consumer.committed([TopicPartition(WAKE_GROUP, 0)], timeout=ANSWER_TIMEOUT_SECONDS))
    finally:
        consumer.close()


def _configure(path: Path, data: Path, home: Home) -> None:
    """The shared settings and, after them, where this node listens and writes."""
    broker, controller = home.ports["kafka"], home.ports["kafka_controller"]
    ours = (
        f"listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{broker}",
        f"controller.quorum.voters=1@127.0.0.1:{controller}",
        f"log.dirs={data}",
    )
    shared = (TEMPLATES / "kafka" / "server.properties").read_text(encoding="utf-8")
    path.write_text(shared + "\n# This machine's.\n" + "\n".join(ours) + "\n", encoding="utf-8")


def _format(folder: Path, command: tuple[str, ...]) -> None:
    """Format the data folder under another name, then rename: half a format never looks like a whole one."""
    fresh = folder / "kafka.new"
    shutil.rmtree(fresh, ignore_errors=True)
    configuration = folder / "format.properties"
    # Ports are not stored by the format; it only wants to see a whole configuration.
    _configure(configuration, fresh, Home(folder, {"kafka": 1, "kafka_controller": 2}, ""))
    cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=").replace("-", "A", 1)
    tool = ("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(configuration))
    done = subprocess.run((*command, *tool), capture_output=True, text=True, check=False)
    configuration.unlink()
    if done.returncode != 0:
        raise StackError(f"kafka: formatting {fresh} failed:\n{done.stdout}{done.stderr}".rstrip())
    fresh.rename(folder / "kafka")
