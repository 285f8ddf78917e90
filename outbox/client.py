"""Starts and signals sagas inside the caller's own database transaction, by a row of its outbox.

    shop = OutboxClient(app)                     # or OutboxClient("shop", partitions=8)
    with Session(engine) as session, session.begin():
        session.add(order)
        shop.start(session, "checkout", order_data, saga_id=order.id)

The saga starts if and only if that transaction commits; the relay carries the row to `<app>.requests`. So a commit is
the acknowledgement: nothing is asked of Kafka here, and Kafka may be away. `AsyncOutboxClient` does the same on
asyncio connections.

A row names its partition, for no partitioner is to be trusted with that; so the application's count has to be known
here. It never changes. A wrong one is seen at the first request: it goes to the quarantine (or, where there is no such
partition, to the dead letters), which says which number was expected.
"""

import time
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from kompensate.outbox.transactions import AsyncTransaction, Transaction, add, add_async
from kompensate.outbox.writer import Row, request_row
from kompensate.schemas.formats import PayloadFormat, payloads_of
from kompensate.schemas.messages import CANCEL, SIGNAL, START, Request
from kompensate.schemas.requests import make_request
from kompensate.schemas.topics import Topics, check_name, partition_of


class ApplicationLike(Protocol):
    """What of an Application is needed to place its requests."""

    name: str
    partitions: int
    payloads: PayloadFormat | None


Attributes: TypeAlias = Mapping[str, object]
"""Search attributes by name: str, int, float, bool or datetimes with a time zone."""


class _Asking:
    """Which application is asked, and by whom."""

    def __init__(
        self,
        application: ApplicationLike | str,
        *,
        partitions: int | None = None,
        prefix: str = "",
        source: str = "kompensate:outbox",
        payloads: PayloadFormat | None = None,
    ) -> None:
        """`application` is the Application, or its name with its count of `partitions` and its `payloads`.

        Raises ValueError.
        """
        if isinstance(application, str):
            name = application
        else:
            if partitions not in (None, application.partitions):
                raise ValueError(
                    f"application {application.name!r}: expected its own {application.partitions} partitions, "
                    f"got partitions={partitions}: leave them out"
                )
            name, partitions = application.name, application.partitions
            payloads = payloads or application.payloads
        if partitions is None or partitions < 1:
            raise ValueError(
                f"application {name!r}: expected how many partitions its topics have, as in "
                f"OutboxClient({name!r}, partitions=4), got {partitions}: a row has to name its partition"
            )
        self.topics = Topics(check_name("application", name), prefix)
        self._partitions = partitions
        self._source = source
        self._payloads = payloads_of(payloads, name)

    def _start(self, saga: str, input_: object, saga_id: str, attributes: Attributes | None) -> Request:
        return self._request(START, saga_id, saga_type=saga, payload=input_, attributes=attributes)

    def _signal(self, saga_id: str, name: str, payload: object, signal_id: str | None) -> Request:
        return self._request(SIGNAL, saga_id, subject=name, payload=payload, id_=signal_id)

    def _cancel(self, saga_id: str, reason: str) -> Request:
        return self._request(CANCEL, saga_id, subject=reason or None)

    def _request(self, type_: str, saga_id: str, **fields: Any) -> Request:
        now = time.time_ns() // 1_000_000
        return make_request(type_, saga_id, source=self._source, time=now, payloads=self._payloads, **fields)

    def _row(self, asked: Request) -> Row:
        return request_row(asked, self.topics.requests, partition_of(asked.saga_id, self._partitions))


class OutboxClient(_Asking):
    """Asks things of an application's sagas, each in the transaction that is handed in. May be shared by threads.

    A transaction is a SQLAlchemy Session or Connection, or a psycopg connection or cursor. With `autocommit` there is
    no transaction to share: the row then stands by itself, at once.
    Methods raise ValueError and BadPayload for bad arguments, and what the database raises.
    """

    def start(
        self,
        transaction: Transaction,
        saga: str,
        input: object = None,  # noqa: A002  # as in Client
        *,
        saga_id: str,
        attributes: Attributes | None = None,
    ) -> Request:
        """Start a saga when `transaction` commits. `input` and `attributes` are as for `Client.start`."""
        return self._ask(transaction, self._start(saga, input, saga_id, attributes))

    def signal(
        self, transaction: Transaction, saga_id: str, name: str, payload: object = None, *, signal_id: str | None = None
    ) -> Request:
        """Send a saga a message when `transaction` commits; it may come before the start."""
        return self._ask(transaction, self._signal(saga_id, name, payload, signal_id))

    def cancel(self, transaction: Transaction, saga_id: str, reason: str = "") -> Request:
        """Ask a saga to stop and undo what it did, when `transaction` commits."""
        return self._ask(transaction, self._cancel(saga_id, reason))

    def _ask(self, transaction: Transaction, asked: Request) -> Request:
        add(transaction, [self._row(asked)], "AsyncOutboxClient")
        return asked


class AsyncOutboxClient(_Asking):
    """OutboxClient for asyncio: an AsyncSession or AsyncConnection of SQLAlchemy, or one of psycopg's."""

    async def start(
        self,
        transaction: AsyncTransaction,
        saga: str,
        input: object = None,  # noqa: A002  # as in Client
        *,
        saga_id: str,
        attributes: Attributes | None = None,
    ) -> Request:
        """Start a saga when `transaction` commits. `input` and `attributes` are as for `Client.start`."""
        return await self._ask(transaction, self._start(saga, input, saga_id, attributes))

    async def signal(
        self,
        transaction: AsyncTransaction,
        saga_id: str,
        name: str,
        payload: object = None,
        *,
        signal_id: str | None = None,
    ) -> Request:
        """Send a saga a message when `transaction` commits; it may come before the start."""
        return await self._ask(transaction, self._signal(saga_id, name, payload, signal_id))

    async def cancel(self, transaction: AsyncTransaction, saga_id: str, reason: str = "") -> Request:
        """Ask a saga to stop and undo what it did, when `transaction` commits."""
        return await self._ask(transaction, self._cancel(saga_id, reason))

    async def _ask(self, transaction: AsyncTransaction, asked: Request) -> Request:
        await add_async(transaction, [self._row(asked)], "OutboxClient")
        return asked
