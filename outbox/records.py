"""Outbox row → Kafka record: the one place where our relay says what a row means.

Debezium's event router, as `debezium` configures it, must make the same record of the same row: topic,
key, partition, value, and the headers `id` and HEADER_COLUMNS in that order; a NULL column is a header
with a null value. Pure: values come in as PostgreSQL's binary forms, from the slot or from a COPY.
"""

import struct
from binascii import hexlify
from collections.abc import Sequence, Set
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from kompensate.outbox.pgoutput import Column
from kompensate.outbox.tables import HEADER_COLUMNS

Header: TypeAlias = tuple[str, bytes | None]

_UUID, _BYTEA = 2950, 17
_UUID_PARTS = struct.Struct("8s4s4s4s12s").unpack
_TEXT: Final = {25: "text", 1043: "varchar"}
_INTEGERS: Final = {21: "smallint", 23: "integer", 20: "bigint"}

# Column → the types (oid: name) whose binary form `Mapping` can read.
REQUIRED: Final[dict[str, dict[int, str]]] = {
    "id": {_UUID: "uuid", **_TEXT},
    "aggregatetype": _TEXT,
    "aggregateid": _TEXT,
    "partition": _INTEGERS,
    "payload": {_BYTEA: "bytea", **_TEXT},
    **{column: _TEXT for column, _ in HEADER_COLUMNS},
}


# Columns that the table did not always have: a log may hold rows of before they were added. Their headers are null.
LATER: Final = frozenset({"ce_time", "ce_sagaattributes"})


class Record(NamedTuple):
    """A Kafka record to be produced."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]


class BadTable(ValueError):
    """The outbox table cannot be read as one; the text names column, expected and got."""

    def __init__(self, subject: str, expected: str, got: str, remedy: str) -> None:
        self.subject, self.expected, self.got, self.remedy = subject, expected, got, remedy
        super().__init__(f"{subject}: expected {expected}, got {got}: {remedy}")


class Mapping:
    """How rows of one shape of the outbox table become records. Columns are found by name, in any order."""

    def __init__(self, table: str, columns: Sequence[Column]) -> None:
        """Raises BadTable where a column is missing, but for those of LATER, or of a type that is not its own."""
        check_columns(table, columns, lacking=LATER)
        position = {column.name: n for n, column in enumerate(columns)}
        # What is not there is read as a value behind the last one, which `record` adds.
        self._is_older = not position.keys() >= LATER
        self._id, self._topic, self._key, self._partition, self._value = (
            position[name] for name in ("id", "aggregatetype", "aggregateid", "partition", "payload")
        )
        self._id_is_text = columns[self._id].type_oid in _TEXT
        self._names = [header for _, header in HEADER_COLUMNS]
        self._headers_of = itemgetter(*(position.get(column, len(columns)) for column, _ in HEADER_COLUMNS))
        self._topics: dict[bytes, str] = {}

    def record(self, values: Sequence[bytes | None]) -> Record:
        """The record of a row. A row that Kafka cannot take still becomes one: the sink refuses it by name."""
        if self._is_older:
            values = [*values, None]
        topic, partition, identity = values[self._topic], values[self._partition], values[self._id]
        identity = identity if self._id_is_text else uuid_text(identity)
        headers: list[Header] = [("id", identity), *zip(self._names, self._headers_of(values), strict=True)]
        return Record(
            self._topics.get(topic or b"") or self._remember(topic or b""),
            -1 if partition is None else int.from_bytes(partition, signed=True),
            values[self._key],
            values[self._value],
            headers,
        )

    def _remember(self, topic: bytes) -> str:
        # Services write to few topics; whoever writes to very many must not fill our memory.
        if len(self._topics) >= 10_000:
            self._topics.clear()
        return self._topics.setdefault(topic, topic.decode())


def check_columns(table: str, columns: Sequence[Column], lacking: Set[str] = frozenset()) -> None:
    """Raise BadTable unless every column that a record is made of is there, with a type we can read.

    Those of `lacking` need not be there.
    """
    types = {column.name: column.type_oid for column in columns}
    missing = [name for name in REQUIRED if name not in types and name not in lacking]
    if missing:
        raise BadTable(
            f"table {table}",
            "the columns of kompensate/outbox/schema.sql",
            f"none named {', '.join(missing)}",
            "run it again, or add them (columns may stand in any order, and others beside them)",
        )
    for name, allowed in REQUIRED.items():
        if name in types and types[name] not in allowed:
            raise BadTable(
                f"table {table}, column {name}",
                f"type {' or '.join(allowed.values())}",
                f"the type with oid {types[name]}",
                f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {next(iter(allowed.values()))}",
            )


def uuid_text(value: bytes | None) -> bytes | None:
    """A uuid's 16 bytes in its usual text form, as Debezium writes it."""
    if value is None:
        return None
    return b"-".join(_UUID_PARTS(hexlify(value)))
