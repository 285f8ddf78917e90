"""Random programs, and everything that can arrive for them in any order: what must hold whatever happens.

Each example is driven twice at once, with the program cached and with a replay before every input, so
that replay = live is checked at every step and not only at the end.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.decide import Decision
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.tables import CallStatus, Hold, Status
from tests.fixtures.driving import Driven, dump, fold
from tests.fixtures.programs import SIGNALS, declared, perform, programs, weighted

Act = tuple[Any, ...]
LOCAL_OUTCOMES = ("refused", "failed", "not_done", "unknown")

_outcomes = st.sampled_from(["done"] * 4 + ["refused"] * 2 + ["failed", "expired"])
_act = weighted(
    {
        st.tuples(st.just("answer"), _outcomes): 8,
        st.tuples(st.just("reply"), st.integers(0, 30), _outcomes): 3,
        st.tuples(st.just("due")): 3,
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 99, 700, 10_000])): 2,
        st.tuples(st.just("signal"), st.sampled_from(SIGNALS), st.sampled_from([None, "same"])): 2,
        st.tuples(st.sampled_from(["cancel", "pause", "start", "foreign"])): 1,
        st.tuples(st.just("ran"), st.integers(0, 9), st.sampled_from(["done"] * 3 + list(LOCAL_OUTCOMES))): 4,
        st.tuples(st.just("ended"), st.integers(0, 3), st.sampled_from(["done", "refused", "failed"])): 2,
        st.tuples(st.just("lose")): 1,
        st.tuples(st.just("room"), st.integers(0, 3)): 4,
        st.tuples(st.just("resume")): 2,
    }
)


@st.composite
def scripts(draw: st.DrawFn) -> list[Act]:
    """What arrives, with the start nearly always early: what comes before it is only signals and rejections."""
    found: list[Act] = draw(st.lists(_act, min_size=draw(st.sampled_from([0, 10, 20])), max_size=40))
    found.insert(draw(st.sampled_from([0, 0, 0, 1, 3, 50])), ("start",))
    return found


class Twins:
    """The same saga twice; each act goes to both and must lead to the same."""

    def __init__(self, make: Callable[[bool], Driven], payload: object) -> None:
        self.cached, self.replaying = make(True), make(False)
        self.payload = payload

    def do(self, act: Act) -> None:
        ended, hold = self.cached.state.ended, self.cached.state.hold
        first, second = (self._do(twin, act) for twin in (self.cached, self.replaying))
        assert first == second
        state = self.cached.state
        assert dump(state) == dump(fold(self.cached.history, state.saga_id, state.run))
        assert dump(self.replaying.state) == dump(self.cached.state)
        if isinstance(first, Decision):
            assert not (ended and first.events), "the ended absorb"
            if hold is not None and self.cached.state.hold is not None and len(first.events) < 2:
                assert first.effects == [], "a held saga sends nothing"

    def _do(self, twin: Driven, act: Act) -> Decision | str | None:  # noqa: C901  # a case for each kind of act
        try:
            match act:
                case ("start",):
                    return twin.start(self.payload)
                case ("reply", index, outcome) if twin.sent:
                    return twin.reply(twin.sent[index % len(twin.sent)], outcome)
                case ("answer", outcome) if twin.sent:
                    return twin.reply(None, outcome)
                case ("foreign",) if twin.sent:
                    return twin.reply(service="nobody")
                case ("wait", ms):
                    return twin.wait(ms)
                case ("due",) if twin.state.next_due() is not None:
                    return twin.wait_until_due()
                case ("signal", name, id_):
                    return twin.signal(name, id_=id_)
                case ("ran", index, outcome) if works := twin.works():
                    return twin.ran(1, outcome, works[index % len(works)])
                case ("ended", index, outcome) if children := twin.children():
                    return twin.child_ended(outcome, 1, children[index % len(children)])
                case ("room", index) if twin.state.limited:
                    return twin.room(list(twin.state.limited)[index % len(twin.state.limited)])
                case ("lose",):
                    return twin.lose_worker()
                case ("cancel",):
                    return twin.cancel()
                case ("pause",):
                    return twin.pause()
                case ("resume",):
                    return twin.resume()
        except Rejected as error:
            return str(error)
        return None

    def _turned_back(self) -> tuple[int, list[int], set[int]]:
        """Where it turned back in its history, what was to undo then, and what was being undone already.

        From the history: it may have turned back before the first act, as a fork of one that was about to.
        """
        history = self.cached.history
        for at, (event, _) in enumerate(history):
            if isinstance(event, e.CompensationStarted):
                then = fold(history[: at + 1])
                pivots = [call for call in then.calls.values() if call.made.kind == "pivot"]
                assert all(call.status in (CallStatus.REFUSED, CallStatus.FAILED) for call in pivots)
                assert not then.pivot_passed
                undoing = {number for number, call in then.open.items() if call.undoing}
                return at, [call.made.number for call in then.to_undo()], undoing
        return len(history), [], set()

    def finish(self) -> None:
        """Everybody answers and an operator resumes whatever is held, until nothing more can happen."""
        self.do(("start",))
        for _ in range(30):
            state = self.cached.state
            if state.ended:
                return
            self.do(("resume",))
            for number in range(len(self.cached.state.limited)):
                self.do(("room", number))
            for number, command in enumerate(list(self.cached.sent)):
                if command.id in [call.id for call in self.cached.state.open.values()]:
                    self.do(("reply", number, "done"))
            for number, work in enumerate(self.cached.works()):
                if work.id in [call.id for call in self.cached.state.open.values()]:
                    self.do(("ran", number, "done"))
            for number, _ in enumerate(self.cached.children()):
                self.do(("ended", number, "failed" if state.status is Status.COMPENSATING else "done"))
            for name in SIGNALS:
                self.do(("signal", name, None))
            self.do(("due",))

    def check_the_end(self) -> None:
        state, history = self.cached.state, [event for event, _ in self.cached.history]
        undone = [event.number for event in history if isinstance(event, e.CallUndone)]
        assert len(undone) == len(set(undone)), "each once"
        turned, to_undo, undoing = self._turned_back()
        sent = [event.number for event in history[turned:] if isinstance(event, e.UndoSent)]
        first_sent = [number for number in dict.fromkeys(sent) if number not in undoing]
        assert first_sent == to_undo[: len(first_sent)], "in reverse order of completion"
        if state.status is Status.COMPLETED:
            assert not state.open, "whoever completed has all its answers"
        if turned < len(history) and state.ended:
            after = {event.number for event in history[turned:] if isinstance(event, e.CallUndone)}
            # A child that completes before its cancel reaches it stands.
            stood = {event.number for event in history[turned:] if isinstance(event, e.CallSucceeded)} & {*sent}
            assert after == {*to_undo, *undoing} - stood, "exactly the done and in-doubt ones"
        ids: dict[str, tuple[str, str, int, bytes]] = {}
        for command in self.cached.sent:
            what = (command.type, command.phase, command.attempt, command.payload)
            assert ids.setdefault(command.id, what) == what, "one id is one command"


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@example([("child", False, "", False)], [("start",), ("cancel",), ("ended", 0, "done")])  # it completed first
@given(programs, scripts())
def test_an_async_saga_replays_as_it_lived(program: list[Any], script: list[Act]) -> None:
    """Replayed before each input or never: the same events, effects and state, and the rules of undoing hold."""
    twins = Twins(lambda cached: Driven(perform, cached=cached), program)
    for act in script:
        twins.do(act)
    twins.finish()
    twins.check_the_end()
    if not twins.cached.state.ended:
        assert twins.cached.state.hold is Hold.QUARANTINED, "only a broken program or one past its pivot stays"


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(declared(), scripts())
def test_a_declared_saga_replays_as_it_lived(definition: Any, script: list[Act]) -> None:
    """As above, and when everybody answers in the end, it always comes to one of the four ends."""
    twins = Twins(lambda cached: Driven(definition, cached=cached), None)
    twins.do(("start",))
    for act in script:
        twins.do(act)
    twins.finish()
    twins.check_the_end()
    assert twins.cached.state.ended
