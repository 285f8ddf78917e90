"""What a run hands on to the next."""

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import SIGNALS_REMEMBERED_MAX


def test_a_run_hands_on_the_newest_of_what_it_received() -> None:
    """Not those that are kept: they move over themselves."""
    ids = [f"s{number}" for number in range(SIGNALS_REMEMBERED_MAX + 2)]
    state = SagaState("shop", "o-1", "0.0", signal_ids=dict.fromkeys(ids), signals=[e.SignalKept("paid", ids[-1], b"")])

    assert state.received_ids() == ids[1:-1]
