"""What an external handler may look like, and the bounds that it may be given."""

from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from kompensate.participants import Call, OutsideCall, Participant
from kompensate.participants.participant import BadHandler
from kompensate.participants.unit import Unit
from tests.fixtures.outside import Charge, Charged


def test_it_may_be_plain_or_async_and_ask_for_its_call() -> None:
    """By either class, by name alone, or not at all."""
    service = Participant("payments")

    @service.external()
    def charge(command: Charge, call: Call) -> Charged: ...  # type: ignore[empty-body]

    @service.external("Refund")
    async def refund(command: Charge, what: OutsideCall) -> Charged: ...  # type: ignore[empty-body]

    @service.external("Tidy", timeout=1)
    def tidy(command: Charge) -> None: ...

    assert service.contracts == ("payments.Charge", "payments.Refund", "payments.Tidy")
    assert service.calls_outside
    assert [handler.offers for handler in service.handlers] == [(("call", "call"),), (("what", "call"),), ()]


def test_it_gets_no_session() -> None:
    """There is no transaction to work in while it runs."""

    def charge(command: Charge, session: Session) -> None: ...

    with pytest.raises(BadHandler, match="runs outside of the database transaction, got session"):
        Participant("payments").external()(charge)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timeout": 0}, "expected timeout of more than 0 seconds, got 0"),
        ({"budget": float("inf")}, "expected budget of more than 0 seconds, got inf"),
        ({"breaker_seconds": -1}, "expected breaker_seconds of more than 0 seconds, got -1"),
        ({"tries": 0}, "expected tries of at least 1, got 0"),
        ({"concurrent": 0}, "expected concurrent of at least 1, got 0"),
        ({"breaker_failures": 0}, "expected breaker_failures of at least 1, got 0"),
        ({"window": -1}, r"expected a window of 0 seconds \(no keys\) or more, got -1"),
    ],
)
def test_bounds_are_checked(options: dict[str, Any], text: str) -> None:
    """When it is declared, with expected and got."""
    with pytest.raises(ValueError, match=text):
        Participant("payments").external(**options)


def test_somebody_has_to_make_the_calls() -> None:
    """A unit without a desk would leave intents that nobody goes on with."""
    service = Participant("payments")

    @service.external()
    def charge(command: Charge) -> None: ...

    with pytest.raises(ValueError, match=r"payments\.Charge is external: expected a Desk, got none"):
        Unit(service, create_engine("sqlite://"))
