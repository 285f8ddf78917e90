"""The transfer: money is never lost nor made, in memory killed at every commit, and on the real stack with kill -9."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from examples.transfer import banks
from examples.transfer.app import Order, app, transfer
from kompensate.orchestrator.testing import MODES, SagaHandle, SagaTest
from tests.fixtures.handlers import Desk

ORDER = Order("ann", "bob", 2_500)


@dataclass(frozen=True, slots=True)
class Banks:
    """Both banks with their own handlers, and the saga between them."""

    test: SagaTest
    north: Desk
    south: Desk

    def transfer(self, order: Order) -> SagaHandle:
        found = self.test.start(transfer, order)
        self.test.run()
        return found

    def books(self) -> dict[str, int]:
        return {name: cents for desk in (self.north, self.south) for name, cents in desk.rows("SELECT * FROM account")}

    def entries(self) -> list[tuple[str, str, int]]:
        return [entry for desk in (self.north, self.south) for entry in desk.rows("SELECT * FROM entry")]


@pytest.fixture(params=MODES)
def world(request: pytest.FixtureRequest) -> Iterator[Banks]:
    """The same banks in each mode: the worker killed at every commit, messages doubled, programs replayed."""
    found = Banks(
        SagaTest(app, mode=request.param),
        Desk(lambda connection: banks.create(connection, {"ann": 10_000})),
        Desk(lambda connection: banks.create(connection, {"bob": 0, "carl": 0}, closed=("carl",))),
    )
    found.north.take(found.test, banks.withdraw)
    found.north.take(found.test, banks.put_back)
    found.south.take(found.test, banks.deposit)
    yield found
    found.north.close()
    found.south.close()


def test_it_arrives(world: Banks) -> None:
    """One withdrawal, one deposit, both under the transaction's id, which no replay changes."""
    found = world.transfer(ORDER)

    found.assert_completed()
    assert found.commands == ["north.Withdraw", "south.Deposit"]
    assert world.entries() == [(found.result, "ann", -2_500), (found.result, "bob", 2_500)]


def test_to_a_closed_account(world: Banks) -> None:
    """What was withdrawn is put back, under the same id; nothing is left at the other bank."""
    found = world.transfer(Order("ann", "carl", 1_000))

    found.assert_compensated("no such account")
    (gone, came) = world.entries()
    assert [gone[1:], came[1:]] == [("ann", -1_000), ("ann", 1_000)]
    assert gone[0] == came[0]


def test_without_cover(world: Banks) -> None:
    """Refused at once: there is nothing to put back."""
    found = world.transfer(Order("ann", "bob", 10_001))

    found.assert_compensated("no cover")
    assert found.commands == ["north.Withdraw"]
    assert world.entries() == []
