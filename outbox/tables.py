"""Outbox, inbox and the tables of outside calls: their columns, how they are made, the outbox's daily partitions.

The statements stand in `schema.sql` (`schema_sqlite.sql`, `schema_mysql.sql`), which may be run by hand or by a
migration tool. Whoever carries rows to Kafka, our relay or Debezium, makes a record's headers by HEADER_COLUMNS.
"""

import re
from collections.abc import Mapping
from datetime import date, timedelta
from importlib.resources import files

from sqlalchemy import Connection, inspect, text

from kompensate.outbox.naming import KINDS, MYSQL

# (column, header), in the order in which the headers stand in the record, after `id`, the row's uuid.
# A NULL column is a header with a null value: that is what Debezium's event router makes of it.
HEADER_COLUMNS: tuple[tuple[str, str], ...] = (
    ("ce_specversion", "ce_specversion"),
    ("ce_id", "ce_id"),
    ("ce_source", "ce_source"),
    ("type", "ce_type"),
    ("content_type", "content-type"),
    ("ce_correlationid", "ce_correlationid"),
    ("ce_causationid", "ce_causationid"),
    ("ce_replyoutcome", "ce_replyoutcome"),
    ("ce_sagatype", "ce_sagatype"),
    ("ce_subject", "ce_subject"),
    ("ce_time", "ce_time"),
    ("ce_sagaattributes", "ce_sagaattributes"),
    ("traceparent", "traceparent"),
    ("tracestate", "tracestate"),
)

OUTBOX, INBOX = "outbox", "inbox"
IDEMPOTENCY, BREAKER = "idempotency", "breaker"
PUBLICATION = "kompensate_outbox"

_SCHEMAS = {
    "postgresql": "schema.sql",
    "sqlite": "schema_sqlite.sql",
    **dict.fromkeys(MYSQL, "schema_mysql.sql"),
}
# Which columns the outbox has, by schema: our own names.
_COLUMNS = {
    "schema.sql": f"SELECT attname FROM pg_attribute WHERE attrelid = '{OUTBOX}'::regclass",  # noqa: S608
    "schema_sqlite.sql": f"SELECT name FROM pragma_table_info('{OUTBOX}')",  # noqa: S608
    "schema_mysql.sql": "SELECT column_name FROM information_schema.columns "  # noqa: S608
    f"WHERE table_schema = DATABASE() AND table_name = '{OUTBOX}'",
}

# Partitions are made this many days ahead, so that a participant that was stopped over a weekend, or may
# not create tables for a while, still writes into a day's partition.
DAYS_AHEAD = 2

_LOCK = 0x6B6F6D70  # advisory lock "komp": services that start together make the tables one after the other


class MissingTables(RuntimeError):
    """The database lacks the outbox or the inbox; the text says how to make them."""


def schema_of(connection: Connection) -> str:
    """The file that makes the tables in that kind of database. Raises ValueError for one of no known kind."""
    found = _SCHEMAS.get(connection.dialect.name)
    if found is None:
        raise ValueError(f"database: expected {KINDS}, got {connection.dialect.name}://")
    return found


def create_tables(connection: Connection) -> None:
    """Make the tables, the publication and the first partitions, where absent. The caller commits.

    MySQL commits by itself what was begun before.
    """
    if connection.dialect.name != "postgresql":
        for statement in _statements(schema_of(connection)):
            connection.exec_driver_sql(statement)
        return
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    # Without parameters the driver uses the simple protocol, which takes several statements at once.
    connection.exec_driver_sql(_read("schema.sql"), execution_options={"no_parameters": True})
    ensure_partitions(connection)


def drop_tables(connection: Connection) -> None:
    """Undo `create_tables`, and lose what the tables hold: for a migration that goes back. The caller commits."""
    script = _read(schema_of(connection))

    def made(what: str) -> list[str]:
        return re.findall(rf"CREATE (?:OR REPLACE )?{what} (?:IF NOT EXISTS )?(\w+)", script)

    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"DROP PUBLICATION IF EXISTS {PUBLICATION}")
    for kind in ("TABLE", "SEQUENCE", "FUNCTION"):
        for name in made(kind):
            connection.exec_driver_sql(f"DROP {kind} IF EXISTS {name}")


def check_tables(connection: Connection, *, outside: bool = False) -> None:
    """Raise MissingTables where the outbox or the inbox is not there, or the outbox is of an older form.

    `outside`: the tables of outside calls are needed too.
    """
    found, schema = inspect(connection), schema_of(connection)
    needed = (OUTBOX, INBOX, IDEMPOTENCY, BREAKER) if outside else (OUTBOX, INBOX)
    missing = [table for table in needed if not found.has_table(table)]
    if missing:
        raise MissingTables(
            f"database {connection.engine.url.database!r}: expected tables {' and '.join(needed)}, "
            f"got no {' and no '.join(missing)}: run kompensate/outbox/{schema} in it, or create_tables()"
        )
    # Not by SQLAlchemy's inspector, which warns of xid8; nor from the table, which a service may only write to.
    columns = set(connection.exec_driver_sql(_COLUMNS[schema]).scalars())
    lacking = [column for column, _ in HEADER_COLUMNS if column not in columns]
    if lacking:
        raise MissingTables(
            f"database {connection.engine.url.database!r}, table {OUTBOX}: expected the columns of "
            f"kompensate/outbox/{schema}, got none named {', '.join(lacking)}: run it again, or create_tables()"
        )


def ensure_partitions(connection: Connection, today: date | None = None) -> list[str]:
    """Make the outbox's partitions of today (UTC) and DAYS_AHEAD days; return those made. The caller commits.

    A day whose rows already went to the default partition stays there: it gets no partition of its own.
    """
    if connection.dialect.name != "postgresql":
        return []
    first = today or database_day(connection)
    made = []
    for day in (first + timedelta(days=n) for n in range(DAYS_AHEAD + 1)):
        name = f"{OUTBOX}_{day:%Y%m%d}"
        if inspect(connection).has_table(name):
            continue
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if _add_partition(connection, name, day):
            made.append(name)
    return made


def database_day(connection: Connection) -> date:
    """Today (UTC) by the clock that dates the rows: the service's own may differ."""
    found = connection.execute(text("SELECT (now() AT TIME ZONE 'UTC')::date")).scalar_one()
    assert isinstance(found, date)
    return found


def _add_partition(connection: Connection, name: str, day: date) -> bool:
    """Make and attach one day's partition, unless another did or rows of that day lie in the default one.

    Attaching takes a weaker lock on the outbox than creating the partition in place, which would stop
    every writer (PostgreSQL, "ddl-partitioning", maintenance).
    """
    low, high = (f"{d.isoformat()} 00:00:00+00" for d in (day, day + timedelta(days=1)))
    taken = connection.execute(
        text(
            f"SELECT to_regclass('{name}') IS NOT NULL OR EXISTS (SELECT FROM {OUTBOX}_default "  # noqa: S608 our own names
            "WHERE created_at >= CAST(:low AS timestamptz) AND created_at < CAST(:high AS timestamptz))"
        ),
        {"low": low, "high": high},
    ).scalar_one()
    if taken:
        return False
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {OUTBOX} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    connection.exec_driver_sql(f"ALTER TABLE {OUTBOX} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')")
    return True


def made_tables(script: str = "schema.sql") -> list[str]:
    """Names of the tables that `script` makes; the outbox's later partitions are not among them."""
    return re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", _read(script))


def include_name(name: str | None, type_: str, _parent_names: Mapping[str, str | None]) -> bool:
    """Alembic's `include_name` for `--autogenerate`: all but our tables, which are in no metadata of the service's.

    What begins with `outbox_` counts as ours: the outbox's days, and where its relay stands.
    """
    ours = {table for script in _COLUMNS for table in made_tables(script)}
    return type_ != "table" or name is None or (name not in ours and not name.startswith(f"{OUTBOX}_"))


def _read(name: str) -> str:
    return files("kompensate.outbox").joinpath(name).read_text(encoding="utf-8")


def _statements(name: str) -> list[str]:
    """The statements of a file one by one, for drivers that take no script; comments are dropped."""
    bare = re.sub(r"--[^\n]*", "", _read(name))
    return [statement for statement in (part.strip() for part in bare.split(";")) if statement]
