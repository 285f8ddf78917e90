"""The worker's smaller parts: slots, health, log lines, what topics must be like."""

import json
import logging
import socket
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.logs import JsonFormatter, PlainFormatter
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import Found, Rule, as_commands, as_json, differences, plan
from kompensate.orchestrator.worker.health import STALL_SECONDS, Health, HealthServer
from kompensate.orchestrator.worker.slots import claim_slot
from tests.fixtures.echo_app import app
from tests.fixtures.loops import World

# Slots.


def test_slots_are_claimed_one_after_the_other(tmp_path: Path) -> None:
    """Without a name, a worker gets the first that is free on its machine; released, it is free again."""
    settings = Settings(slot_directory=tmp_path)
    first, second = claim_slot("app", settings), claim_slot("app", settings)
    other = claim_slot("another", settings)
    first.release()
    again = claim_slot("app", settings)

    assert first.name.endswith("-0")
    assert second.name.endswith("-1")
    assert other.name == first.name
    assert again.name == first.name
    for slot in (second, other, again):
        slot.release()


def test_a_named_slot_is_one_workers(tmp_path: Path) -> None:
    """A name that is taken on this machine, or is none, is refused."""
    settings = Settings(slot="blue", slot_directory=tmp_path)
    slot = claim_slot("app", settings)

    with pytest.raises(Fatal, match="slot blue: another worker of app"):
        claim_slot("app", settings)
    with pytest.raises(Fatal, match=r"slot: expected 1 to 64 .*, got 'a\.b'"):
        claim_slot("app", replace(settings, slot="a.b"))

    slot.release()


# Health.


def test_health_follows_the_loop() -> None:
    """Live while it turns, ready once it has joined, restores nothing and has stopped nothing."""
    world = World(partitions=2)
    worker = world.worker()

    def health() -> Health:
        return Health.of(worker, world.clock.monotonic(), alive=True, stopping=False)

    assert (health().live, health().ready) == (True, False)

    world.ask("r0")
    world.settle(worker)
    world.run(worker, until=lambda: len(worker.status.running) == 2)
    assert (health().live, health().ready, health().running) == (True, True, (0, 1))

    world.clock.advance(2 * STALL_SECONDS)
    assert (health().live, health().ready) == (False, False)

    worker.step()
    assert health().live
    assert not Health.of(worker, world.clock.monotonic(), alive=True, stopping=True).ready
    assert not Health.of(worker, world.clock.monotonic(), alive=False, stopping=False).live

    worker.close()
    assert not health().ready


def test_a_stopped_partition_is_not_ready_and_says_why() -> None:
    """The reason stands in the answer."""
    world = World()
    world.contradictions = 2
    worker = world.worker()
    world.run(worker, until=lambda: bool(worker.status.stopped))

    health = Health.of(worker, world.clock.monotonic(), alive=True, stopping=False)

    assert not health.ready
    assert health.live
    assert "expected one thing, got another" in health.stopped["0"]


def test_health_over_http() -> None:
    """200 where it is good, 503 where it is not, 404 for anything else; a port that is taken is named."""
    bad = Health(
        live=True, ready=False, running=(1,), restoring=(), stopped={"0": "why"}, commits=0, last_commit_seconds=None
    )
    server = HealthServer(0, lambda: bad)

    def get(path: str) -> tuple[int, dict[str, object]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    assert get("/live")[0] == 200
    assert get("/ready") == (503, json.loads(json.dumps({**_as_dict(bad)})))
    assert get("/other")[0] == 404
    with pytest.raises(Fatal, match=f"expected port {server.port} of 127.0.0.1 to be free"):
        HealthServer(server.port, lambda: bad)
    server.close()
    with socket.socket() as free:
        assert free.connect_ex(("127.0.0.1", server.port)) != 0


def _as_dict(health: Health) -> dict[str, object]:
    return {name: getattr(health, name) for name in Health.__dataclass_fields__}


# Log lines.


def _line(formatter: logging.Formatter, **extra: object) -> str:
    record = logging.LogRecord("kompensate.x", logging.WARNING, "f.py", 1, "held %s", ("it",), None)
    record.__dict__.update(extra)
    return formatter.format(record)


def test_log_lines_carry_saga_step_and_attempt() -> None:
    """As fields of a JSON object a line, or behind the text."""
    found = json.loads(_line(JsonFormatter(), saga_id="s\n1", step="charge", attempt=2))

    assert {k: v for k, v in found.items() if k != "time"} == {
        "level": "WARNING",
        "logger": "kompensate.x",
        "message": "held it",
        "saga_id": "s\n1",
        "step": "charge",
        "attempt": 2,
    }
    assert _line(PlainFormatter(), saga_id="s1", step="charge").endswith(
        "WARNING kompensate.x: held it [saga_id=s1 step=charge]"
    )
    assert _line(PlainFormatter()).endswith("held it")
    assert "\n" not in _line(JsonFormatter(), saga_id="s\n1")


def test_a_traceback_is_one_field() -> None:
    """A JSON line stays one line."""
    try:
        raise ValueError("odd")
    except ValueError as error:
        line = _line(JsonFormatter(), exc_info=(type(error), error, error.__traceback__))

    assert "ValueError: odd" in json.loads(line)["traceback"]
    assert "\n" not in line


# Topics.


def as_planned(brokers: int = 1) -> dict[str, Found]:
    return {one.name: Found(one.partitions, one.replicas, one.configuration) for one in plan(app, Settings(), brokers)}


def test_topics_as_planned_do_not_differ() -> None:
    """What `apply` makes passes `check`, on small clusters and large ones."""
    for brokers in (1, 2, 3, 9):
        assert differences(plan(app, Settings(), brokers), as_planned(brokers)) == []


def test_an_application_has_these_topics() -> None:
    """All that wire.md names, under the prefix, with two replicas in sync where there are three brokers."""
    plans = plan(app, Settings(prefix="p."), 3)

    assert [one.name for one in plans] == [
        "p.echoes.requests",
        "p.echoes.control",
        "p.echoes.replies.echo",
        "p.echoes.state",
        "p.echoes.history",
        "p.echoes.quarantine",
        "p.echo.commands",
        "p.echo.dead",
    ]
    assert {(one.replicas, one.configuration["min.insync.replicas"]) for one in plans} == {(3, "2")}
    assert {one.configuration["message.timestamp.type"] for one in plans} == {"LogAppendTime"}


@pytest.mark.parametrize(
    ("topic", "change", "expected", "needed"),
    [
        ("echoes.state", {"cleanup.policy": "delete"}, "cleanup.policy: expected compact, got delete", True),
        ("echoes.requests", {"cleanup.policy": "compact"}, "cleanup.policy: expected delete, got compact", True),
        ("echoes.state", {"delete.retention.ms": "1000"}, "expected >= 86400000, got 1000", True),
        ("echoes.state", {"max.message.bytes": "1048588"}, "expected >= 4194304, got 1048588", True),
        ("echoes.requests", {"max.message.bytes": "4194304"}, "expected <= 1048576, got 4194304", True),
        ("echoes.requests", {"message.timestamp.type": "CreateTime"}, "expected LogAppendTime, got CreateTime", True),
        ("echoes.history", {"unclean.leader.election.enable": "true"}, "expected false, got true", True),
        ("echoes.requests", {"retention.ms": "3600000"}, "expected >= 604800000, got 3600000", False),
        ("echoes.state", {"segment.bytes": "1073741824"}, "expected <= 67108864, got 1073741824", False),
    ],
)
def test_a_setting_that_differs_is_named(topic: str, change: dict[str, str], expected: str, needed: bool) -> None:
    """Topic, setting, expected and got; and whether a worker refuses to run with it."""
    found = as_planned()
    found[topic] = replace(found[topic], configuration={**found[topic].configuration, **change})

    (drift,) = differences(plan(app, Settings(), 1), found)

    assert str(drift).startswith(topic)
    assert expected in str(drift)
    assert drift.needed is needed


def test_partitions_and_replicas_that_differ_are_named() -> None:
    """The application's topics have one count of partitions; a service's own topics may have another."""
    found = as_planned(3)
    found["echoes.history"] = replace(found["echoes.history"], partitions=8)
    found["echo.commands"] = replace(found["echo.commands"], partitions=8)
    found["echo.dead"] = replace(found["echo.dead"], replicas=1)
    del found["echoes.quarantine"]

    drifts = [str(drift) for drift in differences(plan(app, Settings(), 3), found)]

    assert len(drifts) == 3
    assert drifts[0].startswith("echoes.history: partitions: expected 4, got 8 (records are placed by this number")
    assert drifts[1].startswith("echoes.quarantine: topic: expected 4 partitions, got none (make it with")
    assert drifts[2].startswith("echo.dead: replicas: expected 3, got 1")


def test_for_ever_is_long_enough() -> None:
    """-1 is more than any number, and no number is enough where it is wanted."""
    week = Rule("retention.ms", "604800000", ">=")
    for_ever = Rule("retention.ms", "-1", ">=")

    assert week.holds("-1")
    assert week.holds("604800000")
    assert not week.holds("604799999")
    assert for_ever.holds("-1")
    assert not for_ever.holds("604800000")


def test_topics_are_exported() -> None:
    """As JSON, or as commands that Kafka's own tools take."""
    plans = plan(app, Settings(), 1)

    found = json.loads(as_json(plans))
    lines = as_commands(plans, "echoes").splitlines()

    assert [one["topic"] for one in found] == [one.name for one in plans]
    assert found[3]["configuration"]["cleanup.policy"] == "compact"
    assert len(lines) == len(plans) + 1
    assert "--topic echoes.state --partitions 4 --replication-factor 1 --config" in lines[3]
    assert (
        "--group echoes --topic echoes.requests --topic echoes.control --topic echoes.replies.echo --reset-offsets"
        in lines[-1]
    )
