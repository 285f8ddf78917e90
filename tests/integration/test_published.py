"""Published values on real topics: what stands, what comes, and what a saga that has ended has shown."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kompensate.orchestrator import Context, saga
from kompensate.orchestrator.async_client import AsyncClient
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.client_errors import NotFound, TimedOut
from tests.fixtures.fix_shell import Shell
from tests.fixtures.stage import Order, Stage
from tests.fixtures.waiting import wait_until


@saga("showing")
async def showing(ctx: Context, order: Order) -> None:
    """Shows where it is, twice at each turn, for two runs."""
    ctx.publish("order", order.order_id)
    for turn in range(2):
        ctx.publish("progress", {"turn": turn, "half": 1})
        ctx.publish("progress", {"turn": turn, "half": 2})
        await ctx.receive("next")
    if order.cents > 1:
        ctx.continue_as_new(Order(order.order_id, order.cents - 1))


@pytest.fixture
def stage(kafka: str, topic_prefix: str) -> Iterator[Stage]:
    made = Stage(kafka, topic_prefix, more=[showing], page_bytes_max=600)
    yield made
    made.close()


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as made:
        yield made


def at(turn: int, half: int = 2) -> dict[str, int]:
    return {"turn": turn, "half": half}


def test_the_newest_of_each_name_is_read(stage: Stage, client: Client, shell: Shell) -> None:
    """Of a saga under way, of one that has ended, and of one that the state topic has forgotten."""
    client.start("showing", Order("1", 1), saga_id="o-1")
    stage.play()
    assert client.published("o-1") == {"order": "1", "progress": at(0)}
    assert client.published("o-1", "progress") == at(0)
    assert 'published progress  {"turn": 0, "half": 2}' in shell.ok("show", "o-1")

    client.signal("o-1", "next")
    client.signal("o-1", "next")
    stage.play()
    ended = client.result("o-1", timeout=5)
    assert (ended.status, client.published("o-1")) == ("completed", {"order": "1", "progress": at(1)})
    stage.fire(ended.updated_at + 25 * 3_600_000)
    assert client.lookup.find("o-1") is None

    assert client.published("o-1", "order") == "1"
    assert shell.json("published", "o-1") == {"order": "1", "progress": at(1)}
    assert shell.ok("published", "o-1", "progress").splitlines()[1].split(maxsplit=1) == [
        "progress",
        '{"turn": 1, "half": 2}',
    ]
    assert list(client.follow("o-1", timeout=5)) == [("order", "1"), ("progress", at(1))]


def test_what_is_not_there_is_told(stage: Stage, client: Client, shell: Shell) -> None:
    """A saga that nobody knows, a name that it has not published: the message says what there is."""
    client.start("showing", Order("1", 1), saga_id="o-1")
    stage.play()

    with pytest.raises(NotFound, match="expected a published value 'prog', got order, progress"):
        client.published("o-1", "prog")
    with pytest.raises(NotFound, match="saga 'o-2': expected it on partition"):
        client.published("o-2")
    assert shell.run("published", "o-2").exit_code == 3
    assert shell.run("published", "o-1", "prog").exit_code == 3
    with pytest.raises(TimedOut, match=r"saga 'o-2': expected its end within 0\.2 s, got none"):
        list(client.follow("o-2", timeout=0.2))


def test_following_leaves_no_value_out(stage: Stage, client: Client) -> None:
    """From before the start to the end, over a run that goes on as a new one: each value once, in order."""
    seen: list[tuple[str, Any]] = []

    def follow() -> None:
        seen.extend(client.follow("o-1", timeout=60))

    follower = threading.Thread(target=follow)
    follower.start()
    client.start("showing", Order("1", 2), saga_id="o-1")
    stage.play()
    for _ in range(4):
        client.signal("o-1", "next")
        stage.play()
    follower.join(60)
    assert not follower.is_alive()

    progress = [value for name, value in seen if name == "progress"]
    every = [at(turn, half) for _ in range(2) for turn in range(2) for half in (1, 2)]
    assert progress[-1] == at(1)
    # What stood when the follower looked first it sees in its newest form; from there on nothing is left out.
    assert progress == every[len(every) - len(progress) :]


def test_a_follower_sees_each_change(stage: Stage, client: Client) -> None:
    """First what stands, then each value, also two of one transaction; the generator may be left at any time."""
    client.start("showing", Order("1", 2), saga_id="o-1")
    stage.play()
    changes = client.follow("o-1", timeout=60)
    assert [next(changes), next(changes)] == [("order", "1"), ("progress", at(0))]

    client.signal("o-1", "next")
    stage.play()
    assert [next(changes), next(changes)] == [("progress", at(1, 1)), ("progress", at(1))]
    client.signal("o-1", "next")
    stage.play()
    assert [next(changes), next(changes), next(changes)] == [
        ("order", "1"),
        ("progress", at(0, 1)),
        ("progress", at(0)),
    ]
    assert client.published("o-1", "progress") == at(0), "the client is free for other questions"
    changes.close()


def test_the_command_follows_to_the_end(stage: Stage, client: Client, shell: Shell) -> None:
    client.start("showing", Order("1", 1), saga_id="o-1")
    stage.play()
    lines: list[str] = []
    follower = threading.Thread(target=lambda: lines.extend(shell.ok("published", "o-1", "--follow").splitlines()))
    follower.start()
    wait_until("it follows", follower.is_alive)
    client.signal("o-1", "next")
    client.signal("o-1", "next")
    stage.play()
    follower.join(60)

    assert lines[0] == 'order  "1"'
    assert lines[-1] == 'progress  {"turn": 1, "half": 2}'


def test_asyncio_programs_read_and_follow_as_well(stage: Stage) -> None:
    """By the one thread that serves all who wait: nothing is left out, also over a run that goes on as a new one."""

    async def work() -> None:
        async with AsyncClient(stage.bootstrap, "shop", prefix=stage.prefix) as client:
            with pytest.raises(NotFound, match="no saga 'o-1': expected one under way"):
                await client.published("o-1")
            with pytest.raises(TimedOut, match="got: it has not started"):
                [value async for value in client.follow("o-1", timeout=0.2)]
            await client.start("showing", Order("1", 2), saga_id="o-1")
            await asyncio.to_thread(stage.play)
            assert await client.published("o-1") == {"order": "1", "progress": at(0)}
            assert await client.published("o-1", "order") == "1"
            with pytest.raises(NotFound, match="expected a published value 'prog'"):
                await client.published("o-1", "prog")

            seen: list[tuple[str, Any]] = []

            async def follow() -> None:
                seen.extend([value async for value in client.follow("o-1", timeout=60)])

            following = asyncio.ensure_future(follow())
            first = client.follow("o-1")
            assert [await anext(first), await anext(first)] == [("order", "1"), ("progress", at(0))]
            for _ in range(3):
                await client.signal("o-1", "next")
                await asyncio.to_thread(stage.play)
            await client.order("skip", "o-1", who="ann", reason="nothing is open")
            await client.order("close", "o-1", who="ann", reason="enough")
            await asyncio.to_thread(stage.play)
            await following
            assert (await client.result("o-1")).status == "failed"

        rest = [
            ("order", "1"),
            ("progress", at(0, 1)),
            ("progress", at(0)),
            ("progress", at(1, 1)),
            ("progress", at(1)),
        ]
        assert seen == [("order", "1"), ("progress", at(0)), ("progress", at(1, 1)), ("progress", at(1)), *rest]
        await first.aclose()

    asyncio.run(work())
