"""What a relay cannot start without, asked of the database: server, table, publication. Each answer is a `Finding`.

The relay stops at the first one that is wrong; `doctor` shows all of them, with its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from kompensate.outbox.naming import Names
from kompensate.outbox.pgoutput import Column
from kompensate.outbox.records import REQUIRED, BadTable, check_columns

Ask: TypeAlias = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]
"""Runs one statement and returns its rows."""
Level: TypeAlias = Literal["ok", "advice", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `wrong` has to be mended; an `advice` will hurt one day."""

    level: Level
    check: str
    """Which one, for programs: `publication`, `slot.lag`, …"""
    subject: str
    expected: str
    got: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: expected {self.expected}, got {self.got}" + (f": {self.remedy}" if self.remedy else "")


def finding(level: Level, check: str, subject: str, expected: str, got: str | None, remedy: str = "") -> Finding:
    """A Finding; with `got` None as expected. What is as it should be needs no remedy."""
    return Finding(level, check, subject, expected, expected if got is None else got, "" if level == "ok" else remedy)


def needed(ask: Ask, names: Names, database: str) -> Iterator[Finding]:
    """What has to be right before a relay may start; what rests on something wrong is left out."""
    [(standby,)] = ask("SELECT pg_is_in_recovery()", ())
    if standby:
        remedy = "give the DSN of the primary (target_session_attrs=read-write with several hosts)"
        yield finding(
            "wrong", "server.primary", "PostgreSQL", "a primary, which can be written to", "a standby", remedy
        )
        return
    [(level,)] = ask("SELECT current_setting('wal_level')", ())
    yield finding(
        "ok" if level == "logical" else "wrong",
        "server.wal_level",
        "PostgreSQL",
        "wal_level 'logical'",
        repr(level),
        "ALTER SYSTEM SET wal_level = logical, then restart the server",
    )
    table = found_table(ask, names, database)
    yield table
    if table.level == "ok":
        yield _columns(ask, names)
        yield _publication(ask, names, database)


def found_table(ask: Ask, names: Names, database: str) -> Finding:
    """Whether the outbox is there."""
    [(there,)] = ask("SELECT to_regclass(quote_ident(%s)) IS NOT NULL", [names.table])
    return finding(
        "ok" if there else "wrong",
        "table",
        f"database {database}",
        f"a table {names.table}",
        None if there else "none",
        "run kompensate/outbox/schema.sql in it, or start its participant with --create-tables",
    )


def columns(ask: Ask, table: str) -> list[Column]:
    """A table's columns as they stand; none where there is no such table."""
    rows = ask(
        "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0"
        " AND NOT attisdropped ORDER BY attnum",
        [table],
    )
    return [Column(name, type_oid) for name, type_oid in rows]


def _columns(ask: Ask, names: Names) -> Finding:
    try:
        check_columns(names.table, columns(ask, names.table))
    except BadTable as error:
        return finding("wrong", "table.columns", error.subject, error.expected, error.got, error.remedy)
    wanted = "the columns of kompensate/outbox/schema.sql"
    return finding("ok", "table.columns", f"table {names.table}", wanted, None)


def _publication(ask: Ask, names: Names, database: str) -> Finding:
    name, table = names.publication, names.table
    make = f"CREATE PUBLICATION {name} FOR TABLE {table} WITH (publish = 'insert', publish_via_partition_root = true)"
    again = f"DROP PUBLICATION {name}; {make}"

    def wrong(expected: str, got: str, remedy: str, subject: str = f"publication {name}") -> Finding:
        return finding("wrong", "publication", subject, expected, got, remedy)

    found = ask(
        "SELECT array_remove(ARRAY[CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,"
        " CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END], NULL), pubviaroot"
        " FROM pg_publication WHERE pubname = %s",
        [name],
    )
    if not found:
        return wrong(f"publication {name}", "none", make, f"database {database}")
    [(published, via_root)] = found
    if published != ["insert"] or not via_root:
        return wrong(
            "publish 'insert' via the partition root",
            f"{', '.join(published)!r} {'via' if via_root else 'not via'} the root",
            f"ALTER PUBLICATION {name} SET (publish = 'insert', publish_via_partition_root = true)",
        )
    tables = ask(
        "SELECT format('%%I.%%I', schemaname, tablename)::regclass = to_regclass(quote_ident(%s)),"
        " schemaname || '.' || tablename, rowfilter, attnames FROM pg_publication_tables WHERE pubname = %s ORDER BY 2",
        [table, name],
    )
    if [row[0] for row in tables] != [True]:
        return wrong(f"table {table} and no other", ", ".join(row[1] for row in tables) or "none", again)
    _, _, row_filter, published_columns = tables[0]
    if row_filter is not None:
        left_out = "what it leaves out would never be published. "
        return wrong(f"every row of {table}", f"the filter {row_filter}", left_out + again)
    if lacking := [column for column in REQUIRED if column not in published_columns]:
        return wrong(f"every column of {table}", f"a list without {', '.join(lacking)}", again)
    return finding("ok", "publication", f"publication {name}", f"inserts of {table} alone", None)
