"""Applications with schedules in the simulator: they fire, are spoken to, and let a run come to rest."""

import pytest

from kompensate.orchestrator import Application, Schedule
from kompensate.orchestrator.definitions.schedule import OVERLAPS
from kompensate.schemas.formats import Owner, PayloadFormat
from kompensate.simulator.application import Simulated
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import simulate
from tests.fixtures.simulated import CHECKOUT, Order, approval, detour, inventory, payments, shipping


def scheduled(payloads: PayloadFormat | None = None) -> Simulated:
    """A schedule of every overlap."""
    schedules = [
        Schedule(overlap, saga, Order(overlap, 1), interval=600, overlap=overlap)
        for overlap, saga in zip(OVERLAPS, [CHECKOUT, approval, detour] * 2, strict=True)
    ]
    services = [inventory, payments, shipping]
    return Simulated(
        Application("shop", [CHECKOUT, approval, detour], services=services, schedules=schedules, payloads=payloads)
    )


SCHEDULED = scheduled()


class Mirrored:
    """A codec: the bytes from the last to the first."""

    name = "mirrored"

    def encode(self, data: bytes, _: Owner, /) -> bytes:
        return data[::-1]

    def decode(self, data: bytes, _: Owner, /) -> bytes:
        return data[::-1]


def test_payloads_are_in_the_applications_format() -> None:
    """What clients, participants and schedules write, too."""
    found = simulate(Plan(3, sagas=30, width=10, steps=4_000), scheduled(PayloadFormat([Mirrored()])))

    assert found.violation is None, found.violation
    assert sum(found.ends.values()) > found.sagas, found.ends
    assert found.held == {}


def test_a_run_with_schedules_comes_to_rest() -> None:
    """They are deleted once everything has been asked for; what they have fired ends."""
    found = simulate(Plan(1, sagas=30, width=10, steps=4_000), SCHEDULED)

    assert found.violation is None, found.violation
    assert found.turns < 4_000
    assert sum(found.ends.values()) > found.sagas, found.ends
    assert found.held == {}


@pytest.mark.slow
def test_a_run_is_not_over_before_the_dead_are_replaced() -> None:
    """A worker dies after its last commit: its memory is not what is compared with the topic."""
    found = simulate(Plan(700082, sagas=60, intensity=2.0), SCHEDULED)

    assert found.violation is None, found.violation


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_schedules_under_faults(seed: int) -> None:
    """Nothing fires twice, nothing is lost, whatever goes wrong. Seeds 0 to 2."""
    found = simulate(Plan(seed, sagas=40, width=15, steps=3_000, intensity=5.0), SCHEDULED)

    assert found.violation is None, found.violation
    assert found.fired
