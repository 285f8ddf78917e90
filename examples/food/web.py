"""The front of the orders service, for customers.

    POST /orders               {"order_id": "o-1", "customer": "mei", "dish": "laksa", "area": "centre", "cents": 1250}
    GET  /orders/o-1           {"status": "DELIVERED", "receipt": true}

It knows its own database and nothing of Kafka or sagas: an order that is committed is placed.
"""

import asyncio
import os
from typing import Any

import uvicorn
from sqlalchemy import Engine, create_engine, text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.common.front import body
from examples.food.contracts import OrderPlaced
from examples.food.orders import place

SHOW = text(
    "SELECT status, r.order_id IS NOT NULL AS receipt FROM customer_order o LEFT JOIN receipt r USING (order_id)"
    " WHERE o.order_id = :id"
)


def routes(engine: Engine) -> list[Route]:
    def keep(order: OrderPlaced) -> bool:
        with engine.begin() as connection:
            return place(connection, order)

    def look(order_id: str) -> Any:
        with engine.begin() as connection:
            return connection.execute(SHOW, {"id": order_id}).mappings().one_or_none()

    async def order(request: Request) -> JSONResponse:
        try:
            placed: OrderPlaced = await body(request, OrderPlaced)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        # A customer who clicks twice, or whose answer was lost, has one order.
        new = await asyncio.to_thread(keep, placed)
        return JSONResponse({"order": f"/orders/{placed.order_id}"}, 201 if new else 200)

    async def show(request: Request) -> JSONResponse:
        found = await asyncio.to_thread(look, request.path_params["order_id"])
        return JSONResponse({"error": "no such order"}, 404) if found is None else JSONResponse(dict(found))

    return [Route("/orders", order, methods=["POST"]), Route("/orders/{order_id}", show)]


if __name__ == "__main__":
    web = Starlette(routes=routes(create_engine(os.environ["DSN_ORDERS"], pool_pre_ping=True)))
    uvicorn.run(web, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
