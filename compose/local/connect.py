"""One Kafka Connect worker with Debezium's PostgreSQL connector, its REST interface on loopback.

Connectors are registered with `PUT /connectors/NAME/config`. The worker keeps them, and their positions, in
topics of the stack's Kafka, so there is nothing of its own to forget.
"""

import contextlib
import signal
import urllib.request

from kompensate.compose.local.jars import class_path, fetch
from kompensate.compose.local.java import java_command
from kompensate.compose.local.processes import Launch, port_answers
from kompensate.compose.local.service import TEMPLATES, Home

HEAP = "512m"
ANSWER_TIMEOUT_SECONDS = 2
LOG_LEVELS = {
    "io.debezium": "info",
    # These name every setting of every client at start.
    "io.debezium.config": "warn",
    "io.debezium.connector.common.BaseSourceTask": "warn",
}


class Connect:
    """Kafka Connect, distributed mode with one worker."""

    name = "connect"
    port_names = ("connect",)
    needs = ("kafka",)
    stop_signal = signal.SIGTERM

    def fetch(self, home: Home) -> None:
        """Download the jars that are not there."""
        fetch("connect", mirror=home.mirror)

    def prepare(self, home: Home) -> Launch:
        """Write the configuration."""
        plugins = home.folder / "connect-plugins"  # must exist; ours are on the class path
        plugins.mkdir(exist_ok=True)
        ours = (
            f"bootstrap.servers=127.0.0.1:{home.ports['kafka']}",
            f"listeners=http://127.0.0.1:{home.ports['connect']}",
            f"plugin.path={plugins}",
        )
        shared = (TEMPLATES / "connect" / "worker.properties").read_text(encoding="utf-8")
        configuration = home.folder / "worker.properties"
        configuration.write_text(shared + "\n# This machine's.\n" + "\n".join(ours) + "\n", encoding="utf-8")
        command = java_command(class_path("connect"), HEAP, home.jit, LOG_LEVELS, train=False)
        main_class = "org.apache.kafka.connect.cli.ConnectDistributed"
        return Launch((*command, main_class, str(configuration)), home.log(self.name), {"LC_ALL": "C.UTF-8"})

    def answers(self, home: Home) -> bool:
        """Whether it lists its connectors, which it does once it has joined its group and read its topics."""
        port = home.ports["connect"]
        if not port_answers(port):
            return False
        url = f"http://127.0.0.1:{port}/connectors"
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_SECONDS) as response,
        ):
            return bool(response.status == 200)
        return False

    def forget(self, home: Home) -> None:
        """Nothing: what it knows stands in Kafka's topics."""
