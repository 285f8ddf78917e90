"""Registering a connector that had failed, with a Kafka Connect that is slow to restart it."""

from collections.abc import Iterator
from itertools import count, repeat
from typing import Any

import pytest

from kompensate.outbox import registering
from kompensate.outbox.registering import DebeziumSettings, register

SETTINGS = DebeziumSettings("postgresql://u:p@db/shop", "http://connect:8083", "shop")


def status(state: str) -> dict[str, Any]:
    return {"connector": {"state": "RUNNING"}, "tasks": [{"id": 0, "state": state}]}


class FakeConnect:
    """Connect, whose connector's task is in these states, one after another each time that it is asked."""

    address = "http://connect:8083"

    def __init__(self, states: Iterator[str]) -> None:
        self._states = states

    def version(self) -> str:
        return "4"

    def plugins(self) -> list[str]:
        return [SETTINGS.configuration["connector.class"]]

    def problems(self, name: str, configuration: dict[str, str]) -> list[tuple[str, str]]:
        return []

    def put(self, name: str, configuration: dict[str, str]) -> None:
        pass

    def restart_failed(self, name: str) -> None:
        pass

    def offsets(self, name: str) -> list[dict[str, Any]]:
        return []

    def configuration(self, name: str) -> dict[str, str]:
        return SETTINGS.configuration

    def status(self, name: str) -> dict[str, Any]:
        return status(next(self._states))


def wrong(monkeypatch: pytest.MonkeyPatch, failed: int, then: str) -> list[str]:
    """What is wrong after a registration; the task has failed, says so for so many seconds more, and is as `then`."""
    states = iter([*["FAILED"] * (failed + 1), *repeat("RESTARTING", 2)])
    connect = FakeConnect(state for source in (states, repeat(then)) for state in source)
    monkeypatch.setattr(registering, "Connect", lambda address: connect)
    monkeypatch.setattr(registering, "_database", lambda settings, look: [])
    monkeypatch.setattr(registering, "POLL_SECONDS", 0.0)
    seconds = count()
    found = register(SETTINGS, clock=lambda: float(next(seconds)))
    return [one.check for one in found if one.level == "wrong"]


def test_a_restart_that_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task still says that it failed before; it is well afterwards."""
    assert wrong(monkeypatch, 7, "RUNNING") == []


def test_one_that_fails_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And soon: it was seen to be restarted."""
    assert wrong(monkeypatch, 1, "FAILED") == ["connector.state"]


def test_one_that_nobody_restarts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(monkeypatch, 1_000, "RUNNING") == ["connector.state"]
