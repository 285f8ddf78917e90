"""Adds rows to the outbox inside the caller's transaction: what it commits is sent, what it rolls back is not.

A `Row` is a Kafka record to be. Rows go in by one statement, however many.
"""

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection

from kompensate.outbox.tables import HEADER_COLUMNS, OUTBOX
from kompensate.schemas.messages import JSON, SPEC_VERSION, Request
from kompensate.schemas.payloads import PAYLOAD_BYTES_WARN, check_size, to_json
from kompensate.schemas.values import value


@value
class Row:
    """One row of the outbox, a field per column; the columns' meaning stands in `schema.sql`."""

    id: UUID
    aggregatetype: str
    aggregateid: str
    type: str
    payload: bytes | None
    partition: int
    ce_id: str
    ce_source: str
    content_type: str | None = JSON
    ce_correlationid: str | None = None
    ce_causationid: str | None = None
    ce_replyoutcome: str | None = None
    ce_sagatype: str | None = None
    ce_subject: str | None = None
    ce_time: str | None = None
    ce_sagaattributes: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    ce_specversion: str = SPEC_VERSION


_NAMES = tuple(field.name for field in fields(Row))
COLUMNS = ", ".join(f'"{name}"' for name in _NAMES)
_OTHERS = attrgetter(*_NAMES[1:])
_OTHER_TYPES = {"id": "uuid", "partition": "integer"}

# One parameter of JSON costs the client a third of what arrays of sixteen columns do (measured). The payload is base64.
RECORD = ", ".join(f'"{name}" {_OTHER_TYPES.get(name, "text")}' for name in _NAMES)
VALUES = COLUMNS.replace('"payload"', "decode(payload, 'base64')")

INSERT = f"INSERT INTO {OUTBOX} ({COLUMNS}) SELECT {VALUES} FROM json_to_recordset(%s::json) AS r({RECORD})"  # noqa: S608 our own names
_INSERT_SQLITE = f"INSERT INTO {OUTBOX} ({COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608 our own names
# Of this form the driver makes one statement for all rows.
_INSERT_MYSQL = _INSERT_SQLITE.replace('"', "`").replace("?", "%s")


_COLUMN_OF = {header: column for column, header in HEADER_COLUMNS}
_HEADERS = ", ".join(_COLUMN_OF)


def write(connection: Connection, rows: Sequence[Row]) -> None:
    """Add `rows` to the outbox; the caller commits. Raises BadPayload before it adds any, and the database's errors."""
    if not rows:
        return
    for row in rows:
        if row.payload is not None and len(row.payload) > PAYLOAD_BYTES_WARN:
            check_size(row.payload, row.type)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(INSERT, (as_json(rows),))
    else:
        statement = _INSERT_SQLITE if connection.dialect.name == "sqlite" else _INSERT_MYSQL
        driver_cursor(connection).executemany(statement, [(str(row.id), *_OTHERS(row)) for row in rows])


def driver_cursor(connection: Connection) -> Any:
    """The driver's own, in the same transaction: SQLAlchemy costs a statement five times what SQLite does."""
    return connection.connection.cursor()


def as_json(rows: Sequence[Row]) -> str:
    """Rows as the one parameter that `json_to_recordset` takes apart."""
    return to_json(rows).decode()


def request_row(request: Request, topic: str, partition: int) -> Row:
    """The row that becomes `request` on an application's request topic: a start that commits with the caller's work.

    Raises ValueError for a request with a header that the outbox has no column for.
    """
    columns = {}
    for name, text in request.headers():
        column = _COLUMN_OF.get(name)
        if column is None:
            raise ValueError(f"request of saga {request.saga_id!r}: expected headers {_HEADERS}, got {name}")
        columns[column] = None if text is None else text.decode()
    return Row(
        id=uuid4(),
        aggregatetype=topic,
        aggregateid=request.saga_id,
        payload=request.payload,
        partition=partition,
        **columns,  # type: ignore[arg-type]  # text columns, by their headers
    )
