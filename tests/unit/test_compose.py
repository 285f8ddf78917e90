"""compose.yaml is the local stack in other clothes: same versions, same configuration files, same ports."""

import re
from typing import Any

import pytest
import yaml

from kompensate.compose.local import jars
from kompensate.compose.local.service import TEMPLATES

FILES = {
    "kafka": "kafka/server.properties",
    "postgres": "postgres/postgresql.conf",
    "connect": "connect/worker.properties",
}


@pytest.fixture
def services() -> dict[str, Any]:
    content = yaml.safe_load((TEMPLATES / "compose.yaml").read_text(encoding="utf-8"))
    parsed: dict[str, Any] = content["services"]
    return parsed


def _properties(name: str) -> dict[str, str]:
    lines = (TEMPLATES / FILES[name]).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def _locked_version(artifact: str) -> str:
    (version,) = {
        version
        for name in ("kafka", "connect")
        for group, found, version in (jar.coordinate.split(":") for jar in jars.locked(name))
        if found == artifact
    }
    return version


def test_images_are_of_the_locked_versions(services: dict[str, Any]) -> None:
    """Kafka's image is the locked version, Debezium's its release line; each is an official one with a version."""
    images = {name: service["image"] for name, service in services.items()}

    assert images["kafka"] == f"apache/kafka:{_locked_version('kafka_2.13')}"
    debezium = ".".join(_locked_version("debezium-connector-postgres").split(".")[:2])
    assert images["connect"] == f"quay.io/debezium/connect:{debezium}"
    assert images["postgres"] == "postgres:18"


def test_the_configuration_files_are_the_same(services: dict[str, Any]) -> None:
    """Each service mounts, read only, the very file that the local stack reads."""
    for name, file in FILES.items():
        mounted = [mount for mount in services[name]["volumes"] if mount.startswith("./")]

        assert [mount.split(":")[0] for mount in mounted] == [f"./{file}"]
        assert all(mount.endswith(":ro") for mount in mounted)
        assert (TEMPLATES / file).is_file()


def test_ports_are_those_the_files_name(services: dict[str, Any]) -> None:
    """What is published is what the servers listen on, on loopback only."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    listeners = _properties("kafka")["listeners"] + "," + _properties("connect")["listeners"]
    listening = set(re.findall(r"0\.0\.0\.0:(\d+)", listeners)) | {"5432"}

    assert {port.split(":")[2] for port in published} == listening
    assert all(port == f"127.0.0.1:{port.split(':')[2]}:{port.split(':')[2]}" for port in published)
    assert services["connect"]["network_mode"] == "service:kafka"
    assert _properties("kafka")["advertised.listeners"] == "PLAINTEXT://localhost:9092"
    assert _properties("connect")["bootstrap.servers"] == "localhost:9092"


def test_every_service_says_when_it_is_ready(services: dict[str, Any]) -> None:
    """`docker compose up --wait` returns when everything answers, as `kompensate dev up` does."""
    assert all(service["healthcheck"]["test"] for service in services.values())


@pytest.mark.parametrize("name", ["kafka", "connect"])
def test_a_setting_stands_once(name: str) -> None:
    """No key is set twice in a shared file: only what the local stack appends overrides."""
    lines = (TEMPLATES / FILES[name]).read_text(encoding="utf-8").splitlines()
    keys = [line.split("=")[0] for line in lines if "=" in line and not line.startswith("#")]

    assert sorted(set(keys)) == sorted(keys)


def test_takeover_is_fast() -> None:
    """Sessions and abandoned transactions end within seconds: tests of crashes wait for them."""
    kafka = _properties("kafka")

    assert int(kafka["group.consumer.session.timeout.ms"]) <= 10_000
    assert int(kafka["transaction.abort.timed.out.transaction.cleanup.interval.ms"]) <= 1_000
    assert kafka["auto.create.topics.enable"] == "false"
