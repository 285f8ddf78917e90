"""`kompensate dev` on the real servers: state survives, directories are apart, any user may run it."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kompensate.compose.local import jars
from kompensate.compose.local.stack import Stack
from tests.fixtures.fix_stack import kill

TIMEOUT_SECONDS = 15.0


def _write(stack: Stack, word: str) -> None:
    """Leave one record and one row."""
    admin = AdminClient({"bootstrap.servers": stack.bootstrap})
    admin.create_topics([NewTopic("words", 1, 1)])["words"].result(TIMEOUT_SECONDS)
    producer = Producer({"bootstrap.servers": stack.bootstrap, "acks": "all"})
    producer.produce("words", word)
    assert producer.flush(TIMEOUT_SECONDS) == 0
    with psycopg.connect(stack.postgres_dsn()) as connection:
        connection.execute("CREATE TABLE words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", [word])


def _read(stack: Stack) -> tuple[list[bytes | None], list[str]]:
    """All records and all rows."""
    consumer = Consumer({"bootstrap.servers": stack.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition("words", 0, 0)])
    _, end = consumer.get_watermark_offsets(TopicPartition("words", 0), timeout=TIMEOUT_SECONDS)
    records: list[bytes | None] = []
    until = time.monotonic() + TIMEOUT_SECONDS
    while len(records) < end and time.monotonic() < until:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            records.append(message.value())
    consumer.close()
    with psycopg.connect(stack.postgres_dsn()) as connection:
        return records, [row[0] for row in connection.execute("SELECT word FROM words").fetchall()]


@pytest.fixture
def two_stacks(tmp_path: Path) -> Iterator[tuple[Stack, Stack]]:
    stacks = Stack(tmp_path / "a"), Stack(tmp_path / "b")
    yield stacks
    for stack in stacks:
        stack.reset()


@pytest.mark.stack
@pytest.mark.slow
def test_two_stacks_keep_their_own_state(two_stacks: tuple[Stack, Stack]) -> None:
    """Started at once in two directories they share nothing; each has its data after a stop or a kill -9."""
    one, other = two_stacks
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Stack.up, two_stacks))
    addresses = [[row.address for row in stack.status()] for stack in two_stacks]
    _write(one, "one")
    _write(other, "other")

    assert len({address for each in addresses for address in each}) == 4

    other.down()
    for service in ("kafka", "postgres"):
        kill(one, service)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Stack.up, two_stacks))

    assert _read(one) == ([b"one"], ["one"])
    assert _read(other) == ([b"other"], ["other"])
    assert [[row.address for row in stack.status()] for stack in two_stacks] == addresses


def test_settings_are_in_force(stack: Stack, postgres: str) -> None:
    """The running servers have the settings that the engine and the relay rely on."""
    with psycopg.connect(postgres) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()
            for name in ("wal_level", "fsync", "max_connections", "listen_addresses", "max_slot_wal_keep_size")
        }

    assert shown == {
        "wal_level": ("logical",),
        "fsync": ("on",),
        "max_connections": ("200",),
        "listen_addresses": ("127.0.0.1",),
        "max_slot_wal_keep_size": ("4GB",),
    }
    admin = AdminClient({"bootstrap.servers": stack.bootstrap})
    asked = admin.list_topics("nobody.made.this", timeout=TIMEOUT_SECONDS).topics["nobody.made.this"]
    assert asked.error is not None, "a topic was made because it was asked for"


def test_the_command_says_what_runs(stack: Stack) -> None:
    """`kompensate dev status` ends with 0 and names addresses where all answers, with 1 where nothing was started."""
    command = [sys.executable, "-Im", "kompensate.orchestrator.cli", "dev", "status", "--dir"]
    good = subprocess.run([*command, str(stack.directory)], capture_output=True, text=True, check=False)
    bad = subprocess.run([*command, str(stack.directory / "x")], capture_output=True, text=True, check=False)

    assert (good.returncode, bad.returncode) == (0, 1), good.stderr + bad.stderr
    assert stack.bootstrap in good.stdout
    assert "no stack was started in" in bad.stdout


@pytest.mark.slow
def test_connect_has_what_the_outbox_needs(connect: str) -> None:
    """The worker answers over REST and offers Debezium's connector and its event router."""
    with urllib.request.urlopen(f"{connect}/connector-plugins?connectorsOnly=false", timeout=TIMEOUT_SECONDS) as answer:
        classes = {plugin["class"] for plugin in json.load(answer)}

    assert {
        "io.debezium.connector.postgresql.PostgresConnector",
        "io.debezium.transforms.outbox.EventRouter",
        "org.apache.kafka.connect.converters.ByteArrayConverter",
    } <= classes


@pytest.fixture
def plain_user() -> Iterator[tuple[str, Path]]:
    """An unprivileged user and a directory of its own, where this interpreter can be run by it."""
    if os.geteuid() != 0:
        pytest.skip("the whole run is as a plain user already")
    user = pwd.getpwnam("nobody")
    try:
        subprocess.run([sys.executable, "-c", ""], user=user.pw_uid, group=user.pw_gid, check=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip(f"user nobody cannot run {sys.executable}")
    home = Path(tempfile.mkdtemp(prefix="kompensate-"))
    shutil.copytree(jars.cache_directory() / "jars", home / "cache" / "jars")
    for path in (home, home / "cache"):
        shutil.chown(path, user.pw_uid, user.pw_gid)
    yield user.pw_name, home
    shutil.rmtree(home)


@pytest.mark.stack
@pytest.mark.slow
def test_a_plain_user_may_run_it(plain_user: tuple[str, Path]) -> None:
    """Up, status and down by a user without any privilege; nothing of it runs afterwards."""
    user, home = plain_user
    environment = {"KOMPENSATE_CACHE": str(home / "cache"), "HOME": str(home), "PATH": os.defpath}

    def dev(verb: str) -> str:
        command = [sys.executable, "-Im", "kompensate.orchestrator.cli", "dev", verb, "--dir", str(home)]
        done = subprocess.run(
            command, user=user, group=pwd.getpwnam(user).pw_gid, extra_groups=(), env=environment,
            cwd=home, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    try:
        up = dev("up")
        status = dev("status")
    finally:
        down = dev("down")

    assert "kafka answers on" in up
    assert "postgres answers on" in up
    assert status.count("answers") == 2
    assert down.split() == ["stopping", "postgres", "stopping", "kafka"]
    assert not any(row.pid for row in Stack(home).status())
