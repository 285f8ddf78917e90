"""An operator at work on real topics: orders from the command line and the client, and what they leave behind."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kompensate.orchestrator import Context, Service, saga
from kompensate.orchestrator.client import Client
from kompensate.schemas.messages import Command
from tests.fixtures.fix_shell import Background, Shell
from tests.fixtures.stage import Answer, Order, Refund, Stage, refusing, silent_at
from tests.fixtures.waiting import wait_until

HOUR = 3_600_000
payments = Service("payments")


def charge_by_hand(order_id: str) -> str:
    raise AssertionError("no test runs it: its worker dies first")


@saga("once")
async def once(ctx: Context, order: Order) -> str:
    """A local step that must not run twice, then one that can be undone."""
    receipt: str = await ctx.run(charge_by_hand, order.order_id, at_most_once=True, step="charge")
    await ctx.call(payments, Refund(order.order_id), step="note")
    return receipt


@pytest.fixture
def stage(kafka: str, topic_prefix: str) -> Iterator[Stage]:
    made = Stage(kafka, topic_prefix, more=[once])
    yield made
    made.close()


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as made:
        yield made


def never_released(command: Command) -> Answer:
    """Charging is refused, and what was reserved cannot be released."""
    if command.type.endswith("Release"):
        return "failed", b'{"reason": "warehouse is closed"}'
    return refusing("charge")(command)


def stuck(stage: Stage, client: Client, saga_id: str) -> None:
    """A saga that turned back and whose compensation has failed until it was held."""
    sent = client.start("checkout", {"order_id": saga_id}, saga_id=saga_id)
    stage.play(never_released)
    for hours in range(1, 20):
        if client.lookup.view(saga_id).hold:
            return
        stage.fire(sent.time + hours * HOUR, never_released)
        stage.play(never_released)
    raise AssertionError("its compensation failed for a day, and nobody was told")


def details(shell: Shell, saga_id: str, kind: str) -> list[str]:
    return [event["detail"] for event in shell.json("history", saga_id) if event["event"] == kind]


def test_a_compensation_that_fails_for_ever_is_skipped(stage: Stage, client: Client, shell: Shell) -> None:
    """It holds its saga; an operator who has undone it by hand says so, and the saga ends."""
    stuck(stage, client, "o-1")
    assert shell.json("show", "o-1")["hold"] == "quarantined"

    shell.ok("skip", "o-1", "--step", "reserve", "--reason", "released by phone", "--by", "ann")
    stage.play()

    assert shell.json("show", "o-1")["status"] == "compensated"
    assert details(shell, "o-1", "OperatorActed") == ["skip by ann: released by phone"]
    assert "skip by ann: released by phone" in shell.ok("show", "o-1")


def test_a_step_in_doubt_is_completed_by_hand(stage: Stage, client: Client, shell: Shell) -> None:
    """Its worker died while it ran: the saga is held until somebody says what came of it, and goes on with that."""
    sent = client.start("once", {"order_id": "1"}, saga_id="o-1")
    stage.play()
    stage.replace_workers()
    stage.fire(sent.time + 1_000)
    assert shell.json("show", "o-1")["hold"] == "quarantined"

    shell.ok("complete", "o-1", "--result", '"r-9"', "--reason", "it stands in the ledger", "--by", "ann")
    stage.play()

    found = client.result("o-1", timeout=5)
    assert (found.status, found.result) == ("completed", "r-9")
    assert details(shell, "o-1", "OperatorActed") == ["complete by ann: it stands in the ledger"]


def test_a_saga_past_its_pivot_is_compensated_by_force(stage: Stage, client: Client) -> None:
    """A cancel is refused there; an order undoes all that can be undone, and waits for none that cannot."""
    client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    stage.play(silent_at("ship"))
    client.cancel("o-1", "too late")
    stage.play(silent_at("ship"))
    assert client.lookup.view("o-1").status == "running"

    client.order("compensate", "o-1", who="ann", reason="the parcel was lost")
    stage.play(silent_at("ship"))

    found = client.lookup.view("o-1")
    assert (found.status, found.reason) == ("compensated", "compensate by ann: the parcel was lost")
    assert {step.step: step.status for step in found.steps} == {
        "reserve": "undone",
        "charge": "undone",
        "ship": "in_doubt",
    }


def test_a_retry_does_not_wait_for_the_time(stage: Stage, client: Client) -> None:
    """The step's next attempt goes out at once; the saga is released."""
    stuck(stage, client, "o-1")

    client.order("retry", "o-1", who="ann", reason="the warehouse is open again")
    stage.play()

    assert client.lookup.view("o-1").status == "compensated"


def test_a_saga_is_closed_as_it_is(stage: Stage, client: Client) -> None:
    stuck(stage, client, "o-1")

    client.order("close", "o-1", who="ann", reason="settled by hand")
    stage.play()

    found = client.result("o-1", timeout=5)
    assert (found.status, found.reason) == ("failed", "closed by ann: settled by hand")
    assert client.lookup.view("o-1").orders[0].endswith("close by ann: settled by hand")


def test_an_order_that_the_saga_cannot_take_is_told(stage: Stage, client: Client, shell: Shell) -> None:
    """--wait: exit code 4 and the reason for which it lies in the quarantine; nobody's name is left in the saga."""
    client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    stage.play(silent_at("charge"))
    wrong = [
        client.order("skip", "o-1", who="ann", reason="r", step="ship"),
        client.order("close", "nobody", who="ann", reason="r"),
    ]
    stage.play(silent_at("charge"))

    reasons = [client.outcome(sent).reason for sent in wrong]
    assert "skip: expected the name or number of one open step (charge (2)), got 'ship'" in reasons[0]
    assert "does not exist" in reasons[1]
    assert details(shell, "o-1", "OperatorActed") == []


def test_the_command_waits_and_says_who_gave_the_order(stage: Stage, shell: Shell, background: Background) -> None:
    """Without --by it is the user at this machine."""
    shell.ok("start", "checkout", "--id", "o-1", "--input", '{"order_id": "1"}')
    stage.play(silent_at("charge"))
    rejected = background(shell, "skip", "o-1", "--step", "ship", "--reason", "r", "--wait", "-o", "jsonl")
    wait_until("it is answered", lambda: stage.play(silent_at("charge")) or rejected.poll() is not None)
    taken = background(shell, "complete", "o-1", "--result", "{}", "--reason", "paid in cash", "--wait")
    wait_until("it is answered", lambda: stage.play() or taken.poll() is not None)

    out, _ = rejected.communicate(timeout=20)
    assert rejected.returncode == 4
    assert '"kind": "rejected"' in out
    assert taken.wait(20) == 0
    (said,) = details(shell, "o-1", "OperatorActed")
    assert "@" in said
    assert said.endswith(": paid in cash")


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ({"verb": "stop"}, "expected one of retry, skip, complete, compensate, close, got 'stop'"),
        ({"verb": "close", "who": " "}, "expected who gave it, got none"),
        ({"verb": "close", "reason": ""}, "expected a reason, got none"),
        ({"verb": "close", "step": "ship"}, "expected no step, for it is about the whole, got 'ship'"),
        ({"verb": "skip", "result": 7}, "expected no result, only complete has one, got 7"),
        ({"verb": "close", "saga_id": "no/body"}, "saga id: expected"),
    ],
)
def test_an_order_that_nobody_could_take_is_not_sent(client: Client, order: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        client.order(**({"saga_id": "o-1", "who": "ann", "reason": "r"} | order))

    assert text in str(raised.value)


def test_a_start_waits_and_a_deadline_cancels(stage: Stage, client: Client, shell: Shell) -> None:
    """--after and --deadline take seconds or a time; a pending saga says what it waits for."""
    now = datetime.now(UTC)
    order, later = '{"order_id": "1"}', (now + timedelta(hours=2)).isoformat()
    shell.ok("start", "approval", "--id", "o-1", "--input", order, "--after", "3600", "--deadline", later)
    client.start("approval", {"order_id": "2"}, saga_id="o-2", deadline=now + timedelta(hours=2))
    stage.play()
    assert shell.json("show", "o-1")["status"] == "pending"
    assert "for its time: it starts at" in shell.ok("show", "o-1")
    assert shell.json("show", "o-2")["status"] == "running"

    stage.fire(round(now.timestamp() * 1000) + HOUR + 60_000)
    assert shell.json("show", "o-1")["status"] == "running"
    stage.fire(round(now.timestamp() * 1000) + 2 * HOUR + 60_000)

    assert {client.result(saga_id, timeout=5).reason for saga_id in ("o-1", "o-2")} == {"its deadline has passed"}
    with pytest.raises(ValueError, match="start_at: expected a datetime with a time zone, got"):
        client.start("approval", saga_id="o-3", start_at=datetime(2040, 1, 1))  # on purpose
