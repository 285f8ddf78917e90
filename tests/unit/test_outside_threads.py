"""The threads and the event loop that make outside calls: what ends, what is broken off, what never ends."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kompensate.participants import OutsideCall, Participant
from kompensate.participants.database import connect
from kompensate.participants.outside import desk as desk_module
from tests.fixtures.at_work import at_work
from tests.fixtures.outside import Charge, Charged, Refund, Stage, charge, undo
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(connect(f"sqlite:///{tmp_path}/payments.db", "payments"))
    yield found
    found.engine.dispose()


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_calls_run_side_by_side(stage: Stage, kind: str) -> None:
    """Five calls that each wait for all five: none holds up another, nor the loop."""
    service = Participant("payments")
    meeting = threading.Barrier(5)
    arrived = 0

    if kind == "plain":

        @service.external(concurrent=5)
        def charge_plainly(command: Charge, call: OutsideCall) -> Charged:
            meeting.wait(20)
            return Charged(call.id)
    else:

        @service.external(concurrent=5)
        async def charge_async(command: Charge, call: OutsideCall) -> Charged:
            nonlocal arrived
            arrived += 1
            while arrived < 5:
                await asyncio.sleep(0.001)
            return Charged(call.id)

    with at_work(service, stage.engine) as (send, _):
        send(*[charge(f"c{n}", f"saga-{n}") for n in range(5)])
        wait_until("five answers", lambda: len(stage.replies()) == 5)

    assert {tuple(outcomes) for outcomes in stage.replies().values()} == {("done",)}


def test_an_async_call_is_cancelled_when_it_is_broken_off(stage: Stage) -> None:
    """It ends there and then, and its second try answers."""
    service = Participant("payments")
    ends: list[str] = []

    @service.external(timeout=0.2)
    async def charge_slowly(command: Charge, call: OutsideCall) -> Charged:
        try:
            await asyncio.sleep(0 if ends else 3600)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return Charged(call.id)

    with at_work(service, stage.engine) as (send, _):
        send(charge())
        wait_until("an answer", stage.replies)

    assert ends == ["cancelled"]
    assert stage.replies() == {"c1": ["done"]}


def test_calls_that_never_end_stop_neither_the_others_nor_the_process(stage: Stage) -> None:
    """Two threads hang for ever, with room for two: others are called all the same, and the service can stop."""
    service = Participant("payments")
    never = threading.Event()

    @service.external(timeout=0.1, concurrent=2, tries=1)
    def charge_or_hang(command: Charge, call: OutsideCall) -> Charged:
        if call.saga_id.startswith("hang"):
            never.wait()
        return Charged(call.id)

    with at_work(service, stage.engine) as (send, grave):
        send(*[charge(f"h{n}", f"hang-{n}") for n in range(2)])
        wait_until("both are given up", lambda: len(grave.letters) == 2)
        send(charge("c1"))
        wait_until("an answer", stage.replies)

    never.set()
    assert stage.replies() == {"c1": ["done"]}


def test_threads_that_hang_are_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit nothing more is begun, and it is when one has ended: memory does not grow with the outage."""
    monkeypatch.setattr(desk_module, "STUCK_MAX", 2)
    service = Participant("payments")
    never = threading.Event()
    calls: list[str] = []

    @service.external(timeout=0.1, concurrent=8, tries=1, breaker_failures=100)
    def charge_or_hang(command: Charge, call: OutsideCall) -> Charged:
        calls.append(call.id)
        if call.saga_id.startswith("hang"):
            never.wait()
        return Charged(call.id)

    with at_work(service, stage.engine) as (send, grave):
        send(*[charge(f"h{n}", f"hang-{n}") for n in range(2)])
        wait_until("both are given up", lambda: len(grave.letters) == 2)
        send(charge("c1"))
        wait_until("it waits", lambda: stage.states().get("c1") == ("deferred", "kept"))
        assert "c1" not in calls
        never.set()
        wait_until("all have an answer", lambda: len(stage.replies()) == 3)


def test_stopping_waits_for_calls_that_end_soon(stage: Stage) -> None:
    """A call that is out when the service is stopped is answered before it leaves."""
    service = Participant("payments")
    begun, go = threading.Event(), threading.Event()

    @service.external()
    def charge_in_a_moment(command: Charge, call: OutsideCall) -> Charged:
        begun.set()
        go.wait(20)
        return Charged(call.id)

    with at_work(service, stage.engine) as (send, _):
        send(charge())
        assert begun.wait(20)
        threading.Timer(0.2, go.set).start()

    assert stage.replies() == {"c1": ["done"]}


def test_a_compensation_meets_a_call_in_earnest(stage: Stage) -> None:
    """A long call looks at `cancelled` and refuses; the compensation that waited for it is answered."""
    service = Participant("payments")
    begun = threading.Event()

    @service.external(timeout=5)
    def charge_until_cancelled(command: Charge, call: OutsideCall) -> Charged:
        begun.set()
        while not call.cancelled:
            call.heartbeat()
            time.sleep(0.01)
        return Charged("half of it")

    @service.handles
    def refund(command: Refund) -> Charged:
        return Charged("undone")

    with at_work(service, stage.engine) as (send, _):
        send(charge())
        assert begun.wait(20)
        send(undo(kind=Refund))
        wait_until("both answers", lambda: len(stage.replies()) == 2)

    assert stage.payload("undo-c1") == {"charge": "undone"}
