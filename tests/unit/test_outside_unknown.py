"""Outside calls whose outcome nobody learnt: the provider's window, the query, and what stays unknown."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest

from kompensate.participants.database import connect
from kompensate.participants.outside.due import Due
from tests.fixtures.outside import Charge, Charged, Refund, Stage, charge, undo


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(connect(f"sqlite:///{tmp_path}/payments.db", "payments"))
    yield found
    found.engine.dispose()


def blind() -> AbstractContextManager[object]:
    """Whatever is in doubt is called again, for as long as tries are left."""
    return patch.object(Due, "_may_call", lambda self, options, kept, spent, *, doubt: kept.tries < options.tries)


@pytest.mark.parametrize("defended", [True, False], ids=["window", "without"])
def test_a_provider_that_forgets_keys(stage: Stage, *, defended: bool) -> None:
    """It knows a key for three seconds: what timed out is asked about and not charged again (H83)."""
    stage.provider.window = 3
    stage.provider.script = ["timeout-after"] * 2

    def ask(command: Charge, call: object) -> Charged:
        return stage.provider.find(call.id)  # type: ignore[attr-defined]

    with nullcontext() if defended else blind():
        process = stage.process(timeout=2, window=3, reconcile=ask)
        process.send(charge())
        process.until(stage.replies)

    assert stage.replies() == {"c1": ["done"]}
    assert (stage.charged() == 4500) is defended
    if defended:
        assert len(stage.provider.calls) == 1
        assert stage.provider.queries == ["c1"]


def test_the_query_says_that_nothing_was_done(stage: Stage) -> None:
    """The call never arrived: failed, and its compensation has nothing to undo."""
    stage.provider.script = ["never"]
    process = stage.process(timeout=2, window=1, reconcile=lambda command, call: stage.provider.find(call.id))
    process.send(charge(), undo(kind=Refund))
    process.until(lambda: len(stage.replies()) == 2)

    assert stage.replies() == {"c1": ["failed"], "undo-c1": ["done"]}
    assert stage.payload("c1")["reason"] == "no such charge"
    assert stage.charged() == 0


def test_without_a_query_it_stays_unknown(stage: Stage) -> None:
    """A dead letter with the record and the reason; no answer, and its compensation waits; others go on."""
    stage.provider.script = ["timeout-after"]
    process = stage.process(timeout=2, window=0)
    process.send(charge(), undo(kind=Refund), charge("c2", "saga-2"))
    process.spend(60)

    assert stage.replies() == {"c2": ["done"]}
    assert stage.states()["c1"] == ("claimed", "unknown")
    [letter] = process.grave.letters
    assert letter.record.value == charge().payload
    assert "outcome unknown after 1 calls and 0 queries" in letter.reason
    assert process.offset == 3
    assert len(stage.provider.calls) == 2


def test_a_query_that_cannot_tell_leaves_it_unknown(stage: Stage) -> None:
    """It is asked as often as a call is tried, no oftener; then it is a dead letter."""
    stage.provider.script = ["timeout-after"]
    stage.provider.answers_queries = False
    process = stage.process(
        timeout=2,
        window=0,
        tries=3,
        breaker_failures=100,
        reconcile=lambda command, call: stage.provider.find(call.id),
    )
    process.send(charge())
    process.until(lambda: process.grave.letters)

    assert stage.provider.queries == ["c1"] * 3
    assert stage.replies() == {}
    process.spend(100)
    assert stage.provider.queries == ["c1"] * 3


def test_in_doubt_is_not_failed_when_the_budget_ends(stage: Stage) -> None:
    """One try may have arrived, the last said "not now": that is no proof that nothing was done."""
    stage.provider.script = ["timeout-after", "not now", "not now"]
    process = stage.process(timeout=2, tries=3, breaker_failures=100)
    process.send(charge())
    process.until(lambda: process.grave.letters)

    assert stage.replies() == {}
    assert stage.charged() == 4500


def test_a_crash_in_every_call_ends_in_doubt(stage: Stage) -> None:
    """A command that kills its process each time is called `tries` times in all, by whichever process."""
    tries = 3
    for _ in range(tries):
        process = stage.process(timeout=2, tries=tries)
        process.hands.paused = True
        if not stage.states():
            process.send(charge())
        process.until(lambda: process.hands.lying)  # noqa: B023
    last = stage.process(timeout=2, tries=tries)
    last.until(lambda: last.grave.letters)

    assert stage.replies() == {}
    assert stage.states()["c1"] == ("claimed", "unknown")


def test_a_result_that_cannot_be_written_is_not_failed(stage: Stage) -> None:
    """It was done: saying failed would leave the charge standing. A dead letter, and nothing answered."""
    process = stage.process()
    with patch.object(stage.provider, "charge", lambda key, cents: Charged("x" * 1024 * 1024)):
        process.send(charge())
        process.until(lambda: process.grave.letters)

    assert "its result cannot be written" in process.grave.letters[0].reason
    assert stage.replies() == {}
    assert stage.states()["c1"] == ("claimed", "unknown")
