"""The small examples on the real stack, killed with -9 at the worst moment; databases and tool calls are counted."""

from dataclasses import asdict
from pathlib import Path

import pytest

from examples.agent import demo as agent
from examples.agent import tools
from examples.common.asking import ask
from examples.marketplace import demo as marketplace
from examples.marketplace.contracts import Order as Purchase
from examples.transfer import demo as transfer
from examples.transfer.app import Order as Transfer
from kompensate.schemas.faults import VARIABLE
from tests.fixtures.fix_ground import DEADLINE_SECONDS, OpenGround, wait_for_death


@pytest.mark.slow
def test_killed_between_withdrawal_and_deposit(open_ground: OpenGround) -> None:
    """kill -9 between the two, and again in the transaction that asks for the deposit: one of each, no cent off."""
    order = Transfer("ann", "bob", 2_500)
    ground = open_ground(transfer.parts())
    transfer.kill_in_between(ground, order, "t-1")
    ((transaction, *withdrawn),) = transfer.entries(ground)
    assert withdrawn == ["ann", -2_500]

    ground.children["relay"].start()
    worker = ground.children["worker-1"]
    worker.start(**{VARIABLE: "worker.before_commit:kill:1"})
    wait_for_death(worker)
    worker.start()

    with ground.client() as client:
        ended = client.result("t-1", DEADLINE_SECONDS)
    assert (ended.status, ended.result) == ("completed", transaction)
    assert transfer.entries(ground) == [(transaction, "ann", -2_500), (transaction, "bob", 2_500)]
    assert transfer.books(ground) == {"ann": 7_500, "bob": 2_500, "carl": 0}


@pytest.mark.slow
def test_killed_between_charge_and_warehouse(open_ground: OpenGround) -> None:
    """kill -9 when the order is PAID, and again in the transaction that begins the dispatch: it leaves once."""
    order = Purchase("o-1", "lamp", 2, 4_990)
    ground = open_ground(marketplace.parts())
    assert ask(ground, "/orders", {"order_id": "o-1", "sku": "lamp"})[0] == 400
    assert ask(ground, "/orders", {**asdict(order), "order_id": "o 1"})[0] == 400
    assert ask(ground, "/orders/o-1")[0] == 404
    assert marketplace.pay(ground, "o-1")[0] == 404
    marketplace.kill_after_payment(ground, order)
    assert marketplace.rows(ground, "warehouse", "SELECT * FROM parcel") == []

    ground.children["relay"].start()
    worker = ground.children["worker-1"]
    worker.start(**{VARIABLE: "worker.before_commit:kill:1"})
    wait_for_death(worker)
    worker.start()

    assert marketplace.wait_for(ground, "o-1", "completed")["parcel"] == "parcel-o-1"
    assert marketplace.pay(ground, "o-1")[0] == 200, "the provider tells it again: it is known"
    assert marketplace.rows(ground, "warehouse", "SELECT * FROM parcel") == [("parcel-o-1", "lamp", 2)]
    changes = marketplace.rows(ground, "orders", "SELECT status FROM change")
    assert changes == [("PENDING",), ("PAID",), ("DISPATCHED",)]
    assert marketplace.rows(ground, "inventory", "SELECT available, reserved FROM stock") == [(8, 0)]


@pytest.mark.slow
def test_killed_after_a_tool_call(open_ground: OpenGround, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 when a tool has done its work and its result is not committed, while a person thinks, and again."""
    desk = tmp_path / "desk.sqlite"
    monkeypatch.setenv("AGENT_DESK", str(desk))
    ground = open_ground(agent.parts(desk))
    worker = ground.children["worker-1"]
    worker.stop()
    worker.start(**{VARIABLE: "worker.before_commit:kill:3"})  # start; thought; what look_up said
    agent.ask_agent(ground, "t-1", "o-1 arrived broken")
    wait_for_death(worker)
    assert tools.calls() == [("look_up", "o-1")]

    worker.start()
    turn = agent.wait_for(ground, "t-1", "waits for approval")["question"]["turn"]
    worker.kill()
    worker.start(**{VARIABLE: "worker.before_commit:kill:2"})  # the verdict; what refund said
    agent.decide(ground, "t-1", turn, approved=True)
    wait_for_death(worker)
    assert tools.calls() == [("look_up", "o-1"), ("refund", "o-1")]

    worker.start()
    assert agent.wait_for(ground, "t-1", "has answered")["answer"] == "o-1 was sold for 25.00; 25.00 were refunded."
    assert tools.calls() == [("look_up", "o-1"), ("refund", "o-1")]
    assert agent.decide(ground, "t-1", turn, approved=False)[0] == 409
