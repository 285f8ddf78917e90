"""Sends orders to the shop, so many at a time, and follows how they end.

A saga is started when Kafka has acknowledged its start, and ended when the state topic says so. The first ones
go one at a time, until every partition has ended one: then all processes are at work, and `warm_at` is set.
"""

import time
from collections.abc import Callable, Iterable
from itertools import islice

from examples.checkout.contracts import Order
from examples.checkout.reading import StateReader
from examples.checkout.sagas import app, checkout
from examples.checkout.shop import Shop
from kompensate.orchestrator.client import Client, Start
from kompensate.orchestrator.client_errors import NotAcknowledged
from kompensate.schemas.topics import partition_of

READ_SECONDS = 0.05
# Longer than any restart, take-over or resend of a command takes: nothing ended for so long, and something is wrong.
STALL_SECONDS = 120.0


class Stalled(RuntimeError):
    """No saga ended for STALL_SECONDS though some are under way."""


class Load:
    """The orders on their way. `acknowledged` are those that may not be lost."""

    def __init__(self, shop: Shop, orders: Iterable[Order], in_flight: int) -> None:
        self.acknowledged: list[Order] = []
        self.warm_at: float | None = None
        """When the shop was found to be at work, in seconds since the epoch."""
        self._cold = set(range(app.partitions))
        self.reader = StateReader(shop.bootstrap, shop.topics)
        self._shop = shop
        self._coming = iter(orders)
        self._sending: list[Order] = []
        self._all_sent = False
        self._in_flight = in_flight
        self._client = Client(shop.bootstrap, app.name, prefix=shop.topics.prefix)

    @property
    def ended(self) -> int:
        return self.reader.ended

    @property
    def under_way(self) -> int:
        return len(self.acknowledged) - self.ended

    def run(self, tick: Callable[[], None]) -> None:
        """Carry out every order; `tick` is called some times a second. Raises Stalled and ChildEnded."""
        ended, since = 0, time.monotonic()
        while not self._all_sent or self._sending or self.under_way:
            self._feed()
            self.reader.read(READ_SECONDS)
            tick()
            self._shop.check()
            if self.ended != ended:
                ended, since = self.ended, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                raise Stalled(f"expected an order to end within {STALL_SECONDS:g} s, got none of {self.under_way}")

    def stop_feeding(self) -> None:
        """Send no more; `run` returns when those under way have ended."""
        self._all_sent = True

    def busy_partitions(self) -> set[int]:
        """Partitions on which a saga is under way."""
        known = self.reader.sagas
        return {
            partition_of(order.order_id, app.partitions)
            for order in self.acknowledged
            if (saga := known.get(order.order_id)) is None or not saga.ended
        }

    def close(self) -> None:
        self.reader.close()
        self._client.close()

    def _feed(self) -> None:
        if not self._sending:
            room = (self._in_flight if self._is_warm() else 1) - self.under_way
            if self._all_sent or room <= 0:
                return
            self._sending = list(islice(self._coming, room))
            self._all_sent = len(self._sending) < room
        try:
            self._client.start_many([Start(checkout.name, order.order_id, order) for order in self._sending])
        except NotAcknowledged:
            return  # Kafka is away: the same again later, their ids make it harmless
        self.acknowledged += self._sending
        self._sending = []

    def _is_warm(self) -> bool:
        if self.warm_at is None and self.acknowledged and not self.under_way:
            self._cold.discard(partition_of(self.acknowledged[-1].order_id, app.partitions))
            if not self._cold:
                self.warm_at = time.time()
        return self.warm_at is not None
