"""Outside calls on SQLite, on a clock that jumps: intent, call, result; crashes, duplicates, compensations."""

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from kompensate.participants.database import connect
from kompensate.participants.outside.tries import Ended, Try
from kompensate.schemas.faults import observe
from kompensate.schemas.payloads import encode
from tests.fixtures.outside import Charge, Refund, Stage, Tidy, charge, undo


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(connect(f"sqlite:///{tmp_path}/payments.db", "payments"))
    yield found
    found.engine.dispose()


def test_a_call_is_made_outside_and_answered(stage: Stage) -> None:
    """Intent, call, result: one charge, one reply with the handler's result, the offset moved on before it."""
    process = stage.process()
    process.send(charge())
    process.until(stage.replies)

    assert stage.provider.charges == [("c1", 4500)]
    assert stage.replies() == {"c1": ["done"]}
    assert stage.payload("c1") == {"charge": "ch-c1"}
    assert stage.states() == {"c1": ("answered", "closed")}
    assert process.offset == 1


@pytest.mark.parametrize(("word", "outcome"), [("decline", "refused"), ("no", "failed")])
def test_a_definite_no_is_answered_at_once(stage: Stage, word: str, outcome: str) -> None:
    """Nothing was done and nothing is tried again: a new attempt, with a new key, is the saga's to make."""
    stage.provider.script = [word]
    process = stage.process()
    process.send(charge())
    process.until(stage.replies)

    assert stage.replies() == {"c1": [outcome]}
    assert len(stage.provider.calls) == 1
    assert process.grave.letters == []


@pytest.mark.parametrize("word", ["500-after", "timeout-after", "reset", "never", "garbage", "not now"])
def test_what_came_to_no_end_is_called_again_with_the_same_key(stage: Stage, word: str) -> None:
    """Whatever went wrong and whenever: the same key again, and one charge."""
    stage.provider.script = [word, word]
    process = stage.process(timeout=2)
    process.send(charge())
    process.until(stage.replies)

    assert stage.replies() == {"c1": ["done"]}
    assert [key for _, key in stage.provider.calls] == ["c1"] * 3
    assert stage.charged() == 4500


def test_tries_and_budget_bound_the_calls(stage: Stage) -> None:
    """What is never done is called `tries` times, each later than the one before; then failed, for nothing was done."""
    stage.provider.script = ["not now"] * 100
    process = stage.process(tries=4, breaker_failures=100)
    process.send(charge())
    process.until(stage.replies)

    assert stage.replies() == {"c1": ["failed"]}
    times = [at for at, _ in stage.provider.calls]
    assert len(times) == 4
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == sorted(waits)


def test_a_duplicate_waits_for_the_first_ones_answer(stage: Stage) -> None:
    """While the call is out a duplicate is absorbed; once it is answered a duplicate is answered again."""
    stage.provider.script = ["timeout-after"]
    process = stage.process(timeout=5)
    process.send(charge(), charge())
    process.spend(1)
    process.send(charge())
    process.spend(1)
    assert process.offset == 3
    assert stage.replies() == {}

    process.until(stage.replies)
    process.send(charge())
    process.until(lambda: len(stage.replies()["c1"]) == 2)

    assert stage.charged() == 4500


@pytest.mark.parametrize("answered", [False, True])
def test_a_key_used_for_another_request_is_refused_here(stage: Stage, answered: bool) -> None:
    """The same id with another amount: a dead letter, no call, and the first request's answer alone."""
    stage.provider.script = [] if answered else ["timeout-after"]
    process = stage.process(timeout=5)
    process.send(charge())
    process.spend(1)
    process.send(charge(cents=9900))
    process.until(lambda: process.grave.letters)

    [letter] = process.grave.letters
    assert "used again for another request" in letter.reason
    assert letter.record.value == encode(Charge(9900))
    process.until(stage.replies)
    assert stage.replies() == {"c1": ["done"]}
    assert stage.charged() == 4500


def test_a_crashed_process_is_taken_over(stage: Stage) -> None:
    """Killed while the call is out: when its lease has passed another goes on, with the same key and payload."""
    first = stage.process(timeout=3)
    first.hands.paused = True
    first.send(charge())
    first.turns(3)
    assert first.offset == 1
    assert stage.states() == {"c1": ("claimed", "called")}

    second = stage.process(timeout=3)
    second.spend(4.9)
    assert stage.provider.calls == []
    second.until(stage.replies, 5)

    assert stage.replies() == {"c1": ["done"]}
    assert [call.id for call in stage.provider.sent] == ["c1"]
    assert stage.charged() == 4500


def test_a_process_that_stood_still_does_not_call(stage: Stage) -> None:
    """Paused between intent and call for longer than its lease: what it then finds is not begun any more."""
    first = stage.process(timeout=3)
    first.hands.paused = True
    first.send(charge())
    first.turns(3)
    second = stage.process(timeout=3)
    second.until(stage.replies)

    first.hands.paused = False
    [attempt] = first.hands.lying
    first.hands.start(attempt)
    first.spend(10)

    assert len(stage.provider.calls) == 1
    assert stage.replies() == {"c1": ["done"]}


@pytest.mark.parametrize("defended", [True, False], ids=["looks", "without"])
def test_a_process_that_stood_still_after_its_intent_does_not_call(stage: Stage, *, defended: bool) -> None:
    """Paused right after the commit, past its lease: another has called meanwhile, and this one does not call too."""
    first, second = stage.process(timeout=3), stage.process(timeout=3)
    paused = False

    def pause(point: str) -> None:
        nonlocal paused
        if point == "outside.after_intent" and not paused:
            paused = True
            second.until(stage.replies)

    first.send(charge())
    with observe(pause), nullcontext() if defended else patch.object(Try, "carry_out", carry_out_late):
        first.spend(10)

    assert (len(stage.provider.calls) == 1) is defended
    assert stage.replies() == {"c1": ["done"]}


def test_a_call_that_was_not_begun_is_no_try(stage: Stage) -> None:
    """Its process stood still, longer than its lease, and nobody else was there: it is called when it wakes."""
    process = stage.process(timeout=3, tries=2, breaker_failures=2)
    pauses = 0

    def pause(point: str) -> None:
        nonlocal pauses
        if point == "outside.after_intent" and not pauses:
            pauses = 1
            stage.clock.now += 6

    process.send(charge())
    with observe(pause):
        process.until(stage.replies)

    assert stage.replies() == {"c1": ["done"]}
    assert len(stage.provider.calls) == 1
    assert stage.rows("SELECT tries, doubt FROM idempotency") == [(1, False)]
    assert stage.rows("SELECT * FROM breaker") == []


def carry_out_late(attempt: Try, _now: float) -> object:
    """Begin whatever the time is."""
    return attempt.function(attempt.payload, attempt.call)


def test_a_late_end_counts(stage: Stage) -> None:
    """A call that was broken off and ends after all is the answer: nobody needs to call again."""
    process = stage.process(timeout=3)
    process.hands.paused = True
    process.send(charge())
    process.turns(3)
    [attempt] = process.hands.lying
    process.spend(3.1)
    result = stage.provider.charge("c1", 4500)
    process.hands.ended(Ended(attempt, result))
    process.until(stage.replies, 1)

    assert stage.replies() == {"c1": ["done"]}
    process.spend(30)
    assert len(stage.provider.calls) == 1


@pytest.mark.parametrize("kind", [Refund, Tidy])
def test_a_compensation_waits_for_the_outcome(stage: Stage, kind: type[Refund] | type[Tidy]) -> None:
    """It finds the call out: it is kept, its offset moves on, others go on, and it runs when the charge is known."""
    stage.provider.script = ["timeout-after", "ok", "ok"]
    process = stage.process(timeout=5)
    process.send(charge(), undo(kind=kind), charge("c2", "saga-2"))
    process.spend(3)
    assert stage.replies() == {"c2": ["done"]}
    assert process.offset == 3

    process.until(lambda: len(stage.replies()) == 3)

    assert stage.replies() == {"c1": ["done"], "undo-c1": ["done"], "c2": ["done"]}
    if kind is Refund:
        assert stage.charged() == 4500
        assert ("undo-c1", -4500) in stage.provider.charges
    else:
        assert stage.rows("SELECT kind FROM effect") == [("tidy",)]


def test_a_refund_knows_the_key_of_its_charge(stage: Stage) -> None:
    """`compensates` is what was charged under; its own key is another."""
    process = stage.process()
    process.send(charge(), undo(kind=Refund))
    process.until(lambda: len(stage.replies()) == 2)

    charged, refunded = stage.provider.sent
    assert (charged.id, charged.compensates) == ("c1", None)
    assert (refunded.id, refunded.compensates) == ("undo-c1", charged.id)


def test_a_compensation_of_a_refused_charge_does_nothing(stage: Stage) -> None:
    """The outcome was no: nothing to undo."""
    stage.provider.script = ["reset", "decline"]
    process = stage.process()
    process.send(charge(), undo())
    process.until(lambda: len(stage.replies()) == 2)

    assert stage.replies() == {"c1": ["refused"], "undo-c1": ["done"]}
    assert stage.rows("SELECT kind FROM effect") == []


def test_a_compensation_that_came_first_refuses_the_charge(stage: Stage) -> None:
    """As with every command: the late one is not called."""
    process = stage.process()
    process.send(undo(), charge())
    process.until(lambda: len(stage.replies()) == 2)

    assert stage.replies() == {"c1": ["refused"], "undo-c1": ["done"]}
    assert stage.provider.calls == []


def test_the_bulkhead(stage: Stage) -> None:
    """At most `concurrent` calls are out; the others wait in the database, not in the topic."""
    stage.provider.script = ["never"] * 3
    process = stage.process(concurrent=3, timeout=20, breaker_failures=100)
    process.send(*[charge(f"c{n}", f"saga-{n}") for n in range(10)])
    process.spend(5)
    assert len(stage.provider.calls) == 3
    assert process.offset == 10

    process.until(lambda: len(stage.replies()) == 10)
    assert stage.charged() == 45_000


def test_a_command_that_expired_while_it_waited_is_not_called(stage: Stage) -> None:
    """It waited for room until its deadline: expired."""
    stage.provider.script = ["never"]
    process = stage.process(concurrent=1, timeout=20)
    late = replace(charge("c2", "saga-2"), expires_at=1_800_000_010_000)
    process.send(charge(), late)
    process.until(lambda: len(stage.replies()) == 2)

    assert stage.replies() == {"c1": ["done"], "c2": ["expired"]}
    assert [key for _, key in stage.provider.calls] == ["c1", "c1"]
