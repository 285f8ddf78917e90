"""Domain events: what a service tells whoever listens, committed with the work that it tells of.

    order_events = EventTopic("orders.events", service="orders", partitions=4)

    with Session(engine) as session, session.begin():
        session.add(order)
        order_events.publish(session, OrderPlaced(order.id), key=order.id)

The event is a row of the outbox: told if and only if that transaction commits, by the relay, to a topic of the
service's own. Kafka may be away. Its type is a contract name, as a reply's is: `orders.OrderPlaced`. Readers are any
Kafka consumers; the same event may reach them twice, and `ce_id` tells.
"""

import time
from typing import Protocol
from uuid import uuid4

from kompensate.outbox.transactions import AsyncTransaction, Transaction, add, add_async
from kompensate.outbox.writer import Row
from kompensate.schemas.messages import JSON, Trace, timestamp
from kompensate.schemas.payloads import BadPayload, encode, has_fields
from kompensate.schemas.topics import check_name, partition_of


class Cause(Protocol):
    """What an event came of: a handler's Call."""

    @property
    def id(self) -> str: ...

    @property
    def saga_id(self) -> str: ...

    @property
    def trace(self) -> Trace: ...


class EventTopic:
    """A topic of a service's own domain events. Declaring it connects to nothing; may be shared by threads.

    `name` is the topic's whole name: no prefix is put before it. A row names its partition, for no partitioner is to be
    trusted with that, so how many `partitions` the topic has must be known here; `Participant(…, publishes=[…])` has
    it checked when the service starts. Raises ValueError.
    """

    def __init__(self, name: str, *, service: str, partitions: int) -> None:
        self.name = check_name("event topic", name)
        self.service = check_name("service", service)
        if partitions < 1:
            raise ValueError(f"event topic {name!r}: expected how many partitions it has, 1 or more, got {partitions}")
        self.partitions = partitions

    def publish(self, transaction: Transaction, event: object, *, key: str, call: Cause | None = None) -> str:
        """Tell `event` when `transaction` commits; return its id (`ce_id`).

        `transaction` is a SQLAlchemy Session or Connection, or a psycopg connection or cursor; a handler's are fine.
        `event` is a dataclass, Struct or pydantic model, whose name is the event's. Events of one `key` keep their
        order; it is also `ce_subject`. `call` is the handler's: it names the saga and the command that the event came
        of, and passes the trace on. Raises ValueError, BadPayload, TypeError, and the database's errors.
        """
        row = self._row(event, key, call)
        add(transaction, [row], "publish_async")
        return row.ce_id

    async def publish_async(
        self, transaction: AsyncTransaction, event: object, *, key: str, call: Cause | None = None
    ) -> str:
        """As `publish`, in an AsyncSession, AsyncConnection or psycopg's asyncio connection."""
        row = self._row(event, key, call)
        await add_async(transaction, [row], "publish")
        return row.ce_id

    def _row(self, event: object, key: str, call: Cause | None) -> Row:
        name = type(event).__name__
        if not has_fields(type(event)):
            raise BadPayload(
                f"event topic {self.name!r}: expected a dataclass, Struct or pydantic model, whose name is the "
                f"event's, got {name}"
            )
        if not isinstance(key, str) or not key or "\0" in key:
            raise ValueError(
                f"event topic {self.name!r}, event {name}: expected a key (what the event is about: its order is kept "
                f"with those of the same key), text without NUL, got {key!r}"
            )
        id_ = uuid4()
        return Row(
            id=id_,
            aggregatetype=self.name,
            aggregateid=key,
            type=f"{self.service}.{check_name('event', name)}",
            payload=encode(event),
            partition=partition_of(key, self.partitions),
            ce_id=str(id_),
            ce_source=f"kompensate:{self.service}",
            content_type=JSON,
            ce_correlationid=call.saga_id or None if call else None,
            ce_causationid=call.id if call else None,
            ce_subject=key,
            ce_time=timestamp(time.time_ns() // 1_000_000),
            traceparent=call.trace.parent if call else None,
            tracestate=call.trace.state if call else None,
        )
