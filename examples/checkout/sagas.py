"""The checkout: four steps over three services, and what undoes them.

`kompensate worker --app examples.checkout.sagas:app` runs it. Commands are filled by name from the Order.
"""

from examples.checkout.contracts import (
    Charge,
    Confirm,
    Order,
    Receipt,
    Refund,
    Release,
    Reserve,
    Ship,
    Shipped,
)
from kompensate.orchestrator import Application, Saga, Scope, Service, Step

inventory = Service("inventory")
payments = Service("payments")
shipping = Service("shipping")


def receipt(scope: Scope) -> Receipt:
    return Receipt(scope.input.order_id, scope["ship"].parcel, scope.input.cents)


checkout = Saga(
    "checkout",
    Order,
    [
        Step("reserve", inventory, Reserve, undo=Release),
        Step("charge", payments, Charge, undo=Refund),
        # The point of no return: refused, and all before it is undone; done, and all after it will be.
        Step("ship", shipping, Ship, kind="pivot", returns=Shipped),
        Step("confirm", inventory, Confirm, kind="retriable"),
    ],
    result=receipt,
)

app = Application("shop", [checkout], partitions=4)
