"""The payments service: customers have left their card, and a provider charges it, over HTTP.

    GATEWAY=host:port kompensate participant examples.food.payments:payments --dsn postgresql://…/payments

Both calls are made outside of the database transaction, under the command's id, which the provider takes for its
idempotency key: a charge whose answer was lost is asked for again, and made once.
"""

import os

from examples.food.contracts import Charge, Charged, Refund
from examples.gateway import client
from kompensate.participants import OutsideCall, Participant, Refused

CARDS = ("mei", "raj")
TIMEOUT_SECONDS = 1.0
BREAKER_SECONDS = 1.0
payments = Participant("payments")


def find(_command: Charge | Refund, call: OutsideCall) -> Charged:
    """What the provider has under the command's id, where it may not be asked for again."""
    return Charged(client.find(os.environ["GATEWAY"], call.id, call.timeout))


@payments.external(timeout=TIMEOUT_SECONDS, breaker_seconds=BREAKER_SECONDS, reconcile=find)
def charge(command: Charge, call: OutsideCall) -> Charged:
    if command.customer not in CARDS:
        raise Refused("no card", customer=command.customer)
    return Charged(client.charge(os.environ["GATEWAY"], command.cents, call.id, call.timeout))


@payments.external(timeout=TIMEOUT_SECONDS, breaker_seconds=BREAKER_SECONDS, reconcile=find)
def refund(command: Refund, call: OutsideCall) -> Charged:
    """The provider pays back what it is asked to charge with a minus before it."""
    return Charged(client.charge(os.environ["GATEWAY"], -command.cents, call.id, call.timeout))
