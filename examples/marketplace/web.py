"""The marketplace's HTTP front, for customers and for the payment provider.

    POST /orders               {"order_id": "o-1", "sku": "lamp", "quantity": 2, "cents": 4990}
    GET  /orders/o-1           {"status": "waits for payment", …}
    POST /webhooks/payment     {"order_id": "o-1", "payment_id": "p-1", "paid": true}

The webhook is answered with 200 once the order has taken the payment, and with 409 where it came too late: the
provider gives the money back then.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.common.front import Sagas, body, serve
from examples.marketplace.app import app
from examples.marketplace.contracts import Order, Payment


def routes(sagas: Sagas) -> list[Route]:
    async def order(request: Request) -> JSONResponse:
        placed: Order = await body(request, Order)
        # The order's id names the saga: a customer who clicks twice has one order.
        await sagas.start("purchase", placed, saga_id=placed.order_id)
        return JSONResponse({"order": f"/orders/{placed.order_id}"}, 202)

    async def show(request: Request) -> JSONResponse:
        saga = await sagas.view(request.path_params["order_id"])
        return JSONResponse({**saga.published, "saga": saga.status, "parcel": saga.result, "reason": saga.reason})

    async def pay(request: Request) -> JSONResponse:
        payment: Payment = await body(request, Payment)
        await sagas.view(payment.order_id)  # 404 where nobody placed it: a signal would be kept for who does later
        # Providers tell it again until they get their 200: the payment's id makes the repetitions harmless.
        sent = await sagas.signal(payment.order_id, "payment", payment, signal_id=payment.payment_id)
        await sagas.outcome(sent)
        saga = await sagas.view(payment.order_id)
        if saga.status not in ("running", "completed"):
            return JSONResponse({"error": f"order {payment.order_id} is {saga.status}: {saga.reason}"}, 409)
        return JSONResponse({"order": f"/orders/{payment.order_id}"})

    return [
        Route("/orders", order, methods=["POST"]),
        Route("/orders/{order_id}", show),
        Route("/webhooks/payment", pay, methods=["POST"]),
    ]


if __name__ == "__main__":
    serve(app, routes)
