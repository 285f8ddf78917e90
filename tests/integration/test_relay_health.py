"""The relay's health endpoint and metrics, on the real servers."""

import json
import socket
import urllib.error
import urllib.request

from kompensate.outbox.main import RelayService
from tests.fixtures.outboxes import RealOutbox
from tests.fixtures.waiting import wait_until


def test_a_relay_process_tells_how_it_stands(outbox: RealOutbox) -> None:
    """/ready turns good once it reads its slot; /metrics counts rows and dead letters, and knows the slot."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def sample(name: str) -> float | None:
        found = [line for line in get("/metrics")[1].splitlines() if line.startswith(f"{name}{{")]
        return float(found[0].rpartition(" ")[2]) if found else None

    with outbox.relay("--health", str(port)) as process:
        wait_until("ready", lambda: get("/ready")[0] == 200)
        outbox.write([("order-1", b"1"), ("order-2", b"2")])
        outbox.write([("order-1", b"3")], partition=99)
        wait_until("rows", lambda: sample("kompensate_relay_rows_total") == 3)
        wait_until("dead letters", lambda: sample("kompensate_relay_dead_letters_total") == 1)
        assert sample("kompensate_relay_slot_active") == 1
        assert sample("kompensate_relay_slot_lost") == 0
        wait_until("no lag", lambda: sample("kompensate_relay_lag_seconds") == 0)
        [found] = json.loads(get("/live")[1])["relays"].values()
        assert found["state"] == "streaming"
        with outbox.relay("--health", str(port)) as second:
            assert second.wait(20) == 1
        process.terminate()
        assert process.wait(20) == 0


def test_lag_grows_while_kafka_is_away(outbox: RealOutbox) -> None:
    """In bytes of the server's log and in seconds since the oldest commit that is not in Kafka."""
    with outbox.streaming():
        pass
    with RelayService(outbox.settings(bootstrap="127.0.0.1:1")) as service:
        wait_until("streaming", lambda: service.state == "streaming")
        outbox.write([("order-1", b"1")])
        wait_until("the row was read", lambda: service.health().oldest is not None)
        found = service.observed()

        assert found.slot is not None
        assert found.slot.active
        assert found.slot.behind_bytes > 0
        assert service.health().ready
