"""How relays stand, for an orchestrator of processes and for Prometheus."""

import pytest

from kompensate.outbox.health import (
    STALL_SECONDS,
    Observed,
    ProcessHealth,
    RelayHealth,
    SlotStanding,
    State,
    metrics,
)
from kompensate.outbox.pgoutput import EPOCH_SECONDS


def health(state: State, *, turned: float = 0.0, oldest: int | None = None) -> RelayHealth:
    return RelayHealth.of(state, turned=turned, rows=7, dead=1, failure=None, oldest=oldest)


def test_metrics_are_prometheus_text() -> None:
    """Each family once, with help and type, then a line for each relay; names are quoted; what is unknown is absent."""
    slot = SlotStanding(EPOCH_SECONDS + 12.5, True, False, 1_000, 2_000, None)
    text = metrics(
        [
            Observed("shop", "s1", health("streaming", oldest=10_000_000), slot),
            Observed('a"b', "s2", health("standby"), None),
        ]
    )

    assert text.count("# TYPE kompensate_relay_rows_total counter\n") == 1
    lines = text.splitlines()
    assert 'kompensate_relay_rows_total{database="shop",slot="s1"} 7' in lines
    assert 'kompensate_relay_dead_letters_total{database="a\\"b",slot="s2"} 1' in lines
    assert 'kompensate_relay_state{database="shop",slot="s1",state="streaming"} 1' in lines
    assert 'kompensate_relay_state{database="shop",slot="s1",state="standby"} 0' in lines
    assert 'kompensate_relay_lag_seconds{database="shop",slot="s1"} 2.5' in lines
    assert 'kompensate_relay_lag_bytes{database="shop",slot="s1"} 1000' in lines
    assert 'kompensate_relay_slot_kept_bytes{database="shop",slot="s1"} 2000' in lines
    assert 'kompensate_relay_slot_active{database="shop",slot="s1"} 1' in lines
    assert "safe_bytes" not in text
    assert not [line for line in lines if "lag" in line and "s2" in line]


def test_a_clock_ahead_of_ours_is_no_negative_lag() -> None:
    """Both times are the database's, and its clock may be put back between them."""
    slot = SlotStanding(EPOCH_SECONDS + 5.0, True, False, 0, 0, 10)

    text = metrics([Observed("shop", "s", health("streaming", oldest=10_000_000), slot)])
    assert 'kompensate_relay_lag_seconds{database="shop",slot="s"} 0\n' in text


@pytest.mark.parametrize(
    ("state", "turned", "live", "ready"),
    [
        ("streaming", 0.0, True, True),
        ("streaming", STALL_SECONDS, False, False),
        ("standby", 0.0, True, True),
        ("publishing", 0.0, True, False),
        ("publishing", STALL_SECONDS, False, False),
        ("connecting", 0.0, True, False),
        ("halted", 0.0, True, False),
    ],
)
def test_live_and_ready(state: State, turned: float, live: bool, ready: bool) -> None:
    """A loop that hangs is not live; who cannot work for want of a person is live and not ready."""
    found = health(state, turned=turned)
    assert (found.live, found.ready) == (live, ready)


def test_a_process_is_ready_when_all_its_relays_are() -> None:
    """One that connects makes the process not ready; it is live all the same."""
    found = ProcessHealth.of({"a": health("streaming"), "b": health("connecting")})
    assert (found.live, found.ready) == (True, False)
