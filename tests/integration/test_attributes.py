"""Search attributes on real topics: given by each client, set by a saga, found by the command line."""

import asyncio
from collections.abc import Iterator

import pytest

from kompensate.orchestrator import Context, saga
from kompensate.orchestrator.async_client import AsyncClient
from kompensate.orchestrator.client import Client, Start
from kompensate.schemas.attributes import BadAttributes
from tests.fixtures.fix_shell import Shell
from tests.fixtures.stage import Order, Stage


@saga("staged")
async def staged(ctx: Context, order: Order) -> None:
    """Says where it is; two runs, a signal each."""
    ctx.set_attributes(stage=f"left {order.cents}", given=None)
    await ctx.receive("next")
    if order.cents > 1:
        ctx.continue_as_new(Order(order.order_id, order.cents - 1))
    ctx.set_attributes(stage=None)


@pytest.fixture
def stage(kafka: str, topic_prefix: str) -> Iterator[Stage]:
    made = Stage(kafka, topic_prefix, more=[staged])
    yield made
    made.close()


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as made:
        yield made


def listed(shell: Shell, where: str) -> set[str]:
    return set(shell.ok("list", "--where", where, "-o", "ids").split())


def test_sagas_are_found_by_their_attributes(stage: Stage, client: Client, shell: Shell) -> None:
    """Under way, over a new run, and ended: what the state topic's headers say is what the saga's events say."""
    client.start("staged", Order("1", 2), saga_id="o-1", attributes={"customer": "c-7", "amount": 120, "given": True})
    client.start_many([Start("staged", "o-2", Order("2", 2), attributes={"customer": "c 8", "amount": 99})])
    client.signal_with_start("staged", Order("3", 1), saga_id="o-3", signal="next", attributes={"customer": "c-7"})
    shell.ok(
        *("start", "staged", "--id", "o-4", "--input", '{"order_id": "4", "cents": 2}'),
        *("--attribute", "customer=c-7", "--attribute", "amount=150.5", "--attribute", 'code="007"'),
    )
    client.start("staged", Order("5", 1), saga_id="o-5")
    stage.play()

    assert listed(shell, 'attr.customer == "c-7" and attr.amount > 100') == {"o-1", "o-4"}
    assert listed(shell, "attr.customer = 'c 8', status=running") == {"o-2"}
    assert listed(shell, "attr.customer=c-7, status=completed") == {"o-3"}
    assert listed(shell, "attr.code=007") == {"o-4"}
    assert listed(shell, "attr.given=true") == set()
    assert shell.json("show", "o-1")["attributes"] == {"amount": 120, "customer": "c-7", "stage": "left 2"}
    assert 'attr.stage     "left 2"' in shell.ok("show", "o-1")
    table = shell.ok("list").splitlines()
    assert table[0].endswith("ATTRIBUTES")
    assert any(line.endswith('amount=120 customer="c-7" stage="left 2"') for line in table)
    assert not any("ATTRIBUTES" in line for line in shell.ok("list", "--where", "definition=checkout").splitlines())

    asked = shell.ok("signal", "next", "--where", "attr.stage = 'left 2'", "--signal-id", "s-1", "-o", "ids")
    assert set(asked.split()) == {"o-1", "o-2", "o-4"}
    stage.play()
    assert client.lookup.view("o-1").attributes == {"amount": 120, "customer": "c-7", "stage": "left 1"}
    client.signal("o-1", "next", signal_id="s-2")
    stage.play()
    assert client.result("o-1", timeout=10).attributes == {"amount": 120, "customer": "c-7"}
    assert shell.run("rebuild", "--all", "-o", "ids").exit_code == 0


def test_what_cannot_be_one_is_not_sent(stage: Stage, client: Client) -> None:
    """By neither client, and of many none."""
    starts = [Start("staged", "o-1", Order("1", 1)), Start("staged", "o-2", Order("2", 1), attributes={"a b": 1})]

    async def ask() -> None:
        async with AsyncClient(stage.bootstrap, "shop", prefix=stage.prefix) as asking:
            with pytest.raises(BadAttributes, match="got 17"):
                await asking.start("staged", saga_id="o-3", attributes={f"n{n}": n for n in range(17)})

    with pytest.raises(BadAttributes, match="got 'a b'"):
        client.start_many(starts)
    asyncio.run(ask())

    assert stage.play() == 0


def test_the_asyncio_client_gives_them(stage: Stage) -> None:
    async def ask() -> None:
        async with AsyncClient(stage.bootstrap, "shop", prefix=stage.prefix) as asking:
            await asking.start("staged", Order("1", 1), saga_id="o-1", attributes={"customer": "c-7"})
            await asking.signal("o-1", "next")
            await asyncio.to_thread(stage.play)
            assert (await asking.result("o-1", timeout=10)).attributes == {"customer": "c-7"}

    asyncio.run(ask())
