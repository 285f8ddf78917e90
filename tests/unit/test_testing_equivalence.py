"""Random programs, answers and requests: in every mode but reorder a saga does the same, event for event.

This is what lets one test stand for all modes, and it is the engine's promise as much as the kit's.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kompensate.orchestrator import Application, Saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.tables import WORKER
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.orchestrator.testing import MODES, SagaTest, done, expired, failed, in_turn, late, never, refused, twice
from tests.fixtures.driving import APP, LIMITS, SERVICES, Order, Release, Reserve
from tests.fixtures.programs import SIGNALS, declared, perform, programs

SECONDS = 10
"""Whatever tries for ever is cut off."""

TOLD_AGAIN = (e.CancelRefused, e.SagaResumed, e.SagaQuarantined)
"""Asked twice to cancel past its pivot, or to resume a saga that is held again at once, the history says so twice."""


def begun_again(run: dict[str, Any]) -> set[int]:
    """The numbers of local steps: they are begun again where a worker dies while they run."""
    return {made.number for made, _ in run["events"] if isinstance(made, e.CallMade) and made.service == WORKER}


_plain = st.sampled_from([done(), done(), done({"n": 1}), refused("no"), failed("down"), expired()])
_answer = st.one_of(
    _plain,
    st.just(never()),
    st.builds(late, st.sampled_from([0.001, 0.3, 1, 6]), _plain),
    st.builds(twice, _plain),
)
_answers = st.lists(_answer, min_size=1, max_size=5).map(lambda answers: in_turn(*answers))
_delay = st.sampled_from([0, 0, 0.1, 0.5, 2])
_asked = st.lists(
    st.one_of(
        st.tuples(st.just("signal"), _delay, st.sampled_from(SIGNALS), st.sampled_from([None, "same"])),
        st.tuples(st.sampled_from(["cancel", "pause", "resume", "resume"]), _delay),
    ),
    max_size=5,
)


def patient(program: Any) -> Any:
    """The same program, but what is tried without limit is not tried a thousand times a second."""
    if isinstance(program, dict):
        return {**program, "retry_initial": 100, "resend_after": 500}
    return [patient(part) for part in program] if isinstance(program, list | tuple) else program


def run(mode: str, definition: Saga | AsyncSaga, payload: object, scripts: Any, asked: Any) -> dict[str, Any]:
    """What a saga did in that mode."""
    test = SagaTest(Application(APP, [definition], services=SERVICES, limits=LIMITS), mode=mode)
    for type_, script in zip((Reserve, Release), scripts, strict=True):
        test.on(type_, script)
    found = test.start(definition, payload, saga_id="s")
    for verb, delay, *rest in asked:
        if verb == "signal":
            found.signal(rest[0], signal_id=rest[1], delay=delay)
        else:
            getattr(found, verb)(delay=delay)
    test.advance(SECONDS)
    return {
        "status": (found.status, found.hold, found.reason, found.result),
        "commands": [(seen.type, seen.attempt, seen.at, seen.deliveries) for seen in found.seen],
        # Not whole pages: the offsets of the records that led to them are others where some are doubled or aborted.
        "events": [(r.event, r.origin.time) for page in read_pages(found.pages) for r in page.events],
    }


def in_every_mode(definition: Saga | AsyncSaga, payload: object, scripts: Any, asked: Any) -> None:
    first = run("cached", definition, payload, scripts, asked)
    for mode in ("always-replay", "evict-after-every-step"):
        assert run(mode, definition, payload, scripts, asked) == first, mode
    crashed = run("crash-at-every-commit", definition, payload, scripts, asked)
    again, events = begun_again(first), crashed["events"]
    crashed["events"] = [
        found for found in events if not (isinstance(found[0], e.CommandResent) and found[0].number in again)
    ]
    assert crashed == first, "crash-at-every-commit"
    duplicated = run("duplicate-every-message", definition, payload, scripts, asked)
    for told in (first, duplicated):
        told["events"] = [found for found in told["events"] if not isinstance(found[0], TOLD_AGAIN)]
    assert duplicated == first, "duplicate-every-message"


def test_all_modes_but_reorder_are_compared() -> None:
    """A new mode has to find its place here."""
    assert set(MODES) == {
        *("cached", "always-replay", "evict-after-every-step", "crash-at-every-commit", "duplicate-every-message"),
        "reorder",
    }


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(programs.map(patient), st.tuples(_answers, _answers), _asked)
def test_async_sagas_do_the_same_in_every_mode(program: list[Any], scripts: Any, asked: Any) -> None:
    """Calls, sleeps, receives and their combinations; refused, failed, silent, late; cancelled, paused, signalled."""
    in_every_mode(perform, program, scripts, asked)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(declared(), st.tuples(_answers, _answers), _asked)
def test_declared_sagas_do_the_same_in_every_mode(definition: Saga, scripts: Any, asked: Any) -> None:
    """With and without undos, pivots and retriable steps."""
    in_every_mode(definition, Order(), scripts, asked)
