"""Forks and resets with real processes, Kafka and PostgreSQL: what was done once is undone once, whoever undoes it."""

import asyncio

import psycopg
import pytest

from examples.common.children import ChildEnded, run
from examples.common.ground import Ground, Parts
from kompensate.orchestrator.async_client import AsyncClient
from kompensate.orchestrator.client import Client
from tests.fixtures import evening_app
from tests.fixtures.fix_ground import DEADLINE_SECONDS, OpenGround
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow
PARTS = Parts(
    evening_app.app,
    "tests.fixtures.evening_app:app",
    {"desk": "tests.fixtures.evening_app:participant"},
    {"desk": evening_app.create},
)


@pytest.fixture
def ground(open_ground: OpenGround) -> Ground:
    return open_ground(PARTS)


def client_of(ground: Ground) -> Client:
    name, prefix = evening_app.app.name, ground.topics.prefix
    return Client(ground.bootstrap, name, prefix=prefix, payloads=evening_app.SECRETLY)


def entries(ground: Ground, guest: str) -> list[str]:
    with psycopg.connect(ground.dsns["desk"]) as connection:
        return [what for (what,) in connection.execute("SELECT what FROM entry WHERE guest = %s ORDER BY id", [guest])]


def under_way(client: Client, guest: str, saga_id: str) -> None:
    """Room and table are booked, and it waits."""
    client.start("evening", guest, saga_id=saga_id)
    wait_for(client, saga_id, "(signal wanted)")


def wait_for(client: Client, saga_id: str, step: str) -> None:
    def there() -> bool:
        found = client.lookup.find(saga_id)
        return found is not None and client.lookup.view(saga_id).step == step

    wait_until(f"{saga_id} at {step}", there, DEADLINE_SECONDS)


def test_a_fork_undoes_what_it_kept_once(ground: Ground) -> None:
    """The room was booked by the first saga, under its command's id, and is freed by the second: that one booking. The
    first saga's table stays: what is after the point is as it was left."""
    with client_of(ground) as client:
        under_way(client, "ann", "old")
        with pytest.raises(ChildEnded, match="got one that is running: reset it"):
            run(["fork", "old", "new", "--from", "table", "--reason", "why"], ground.environment)
        client.order("close", "old", who="ann", reason="nobody answers")
        assert client.result("old", DEADLINE_SECONDS).status == "failed"

        said = run(
            ["fork", "old", "new", "--from", "table", "--reason", "a larger one", "--by", "ann", "--wait"],
            ground.environment,
        )
        assert "handled" in said
        wait_for(client, "new", "(signal wanted)")
        assert entries(ground, "ann") == ["+room", "+table", "+table"]
        client.signal("new", "wanted", "moon")
        ended = client.result("new", DEADLINE_SECONDS)

        assert (ended.status, ended.reason) == ("compensated", "wanted: no moon tonight")
        assert entries(ground, "ann") == ["+room", "+table", "+table", "-table", "-room"]
        assert "old at event 3 by ann: a larger one" in run(["show", "new"], ground.environment)
        for verb in (["replay", "--id", "new"], ["rebuild", "--all"]):
            run(verb, ground.environment)  # today's code over it, and the topics folded: both fail where they differ

        client.fork("old", "newer", step="table", who="ann", reason="another try")
        wait_for(client, "newer", "(signal wanted)")
        client.signal("newer", "wanted", "moon")
        assert client.result("newer", DEADLINE_SECONDS).status == "compensated"
        assert entries(ground, "ann")[5:] == ["+table", "-table"], "it is the same booking of the room, freed already"


def test_a_reset_survives_kills(ground: Ground) -> None:
    """The desk is closed when it is ordered, and the worker is killed meanwhile: the table is freed before it is booked
    again, and the room, which both sagas know of, is freed once."""
    desk, worker = ground.children["desk"], ground.children["worker-1"]
    with client_of(ground) as client:
        under_way(client, "bob", "old")
        desk.stop()
        sent = client.reset("old", "new", step="table", who="ann", reason="too small", timeout=DEADLINE_SECONDS)
        assert sent.outcome is not None
        assert sent.outcome.kind == "handled"
        assert "has undone the rest and ended" in run(["explain", "new"], ground.environment)
        worker.kill()
        worker.start()
        desk.start()
        wait_for(client, "new", "(signal wanted)")

        old = client.result("old", DEADLINE_SECONDS)
        assert (old.status, old.reason) == ("compensated", "reset into 'new' by ann: too small")
        assert entries(ground, "bob") == ["+room", "+table", "-table", "+table"]
        client.signal("new", "wanted", "moon")
        assert client.result("new", DEADLINE_SECONDS).status == "compensated"
        assert entries(ground, "bob") == ["+room", "+table", "-table", "+table", "-table", "-room"]
        assert client.lookup.view("old").reset_into == "new"


def test_from_asyncio(ground: Ground) -> None:
    """The same verbs, awaited; also from an operation that is no step."""

    async def reset_and_forked() -> None:
        name, prefix = evening_app.app.name, ground.topics.prefix
        async with AsyncClient(ground.bootstrap, name, prefix=prefix, payloads=evening_app.SECRETLY) as asked:
            sent = await asked.reset("old", "second", step="3", who="ann", reason="once more", timeout=DEADLINE_SECONDS)
            assert sent.outcome is not None
            assert sent.outcome.accepted, sent.outcome.reason
            await asked.result("old", DEADLINE_SECONDS)
            await asked.order("close", "second", who="ann", reason="once more")
            await asked.result("second", DEADLINE_SECONDS)
            forked = await asked.fork("second", "third", step="3", who="ann", reason="once more")
            assert (await asked.outcome(forked, DEADLINE_SECONDS)).accepted
            taken = await asked.reset("third", "old", step="3", who="ann", reason="why", timeout=DEADLINE_SECONDS)
            assert taken.outcome is not None
            assert taken.outcome.reason == "expected a saga under way, but 'old' has ended: got a fork"
            await asked.signal("third", "wanted", "piano")
            ended = await asked.result("third", DEADLINE_SECONDS)
            assert ended.result == ["room for eve", "table for eve", "piano for eve"]

    with client_of(ground) as client:
        under_way(client, "eve", "old")
        asyncio.run(reset_and_forked())
        assert entries(ground, "eve") == ["+room", "+table", "+piano"]


def test_a_reset_that_comes_too_late(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saga has ended since it was looked at: the other one, which waited, is closed, and nothing has changed."""
    with client_of(ground) as client:
        under_way(client, "joe", "old")
        seen = client.point("old", step="table", reset=True, who="ann", reason="too small")
        client.signal("old", "wanted", "piano")
        assert client.result("old", DEADLINE_SECONDS).status == "completed"
        monkeypatch.setattr(client, "point", lambda *_, **__: seen)

        sent = client.reset("old", "new", step="table", who="ann", reason="too small", timeout=DEADLINE_SECONDS)

        assert sent.outcome is not None
        assert sent.outcome.reason == "expected a saga under way, but 'old' has ended: got a reset"
        assert client.result("new", DEADLINE_SECONDS).status == "failed"
        assert entries(ground, "joe") == ["+room", "+table", "+piano"]
