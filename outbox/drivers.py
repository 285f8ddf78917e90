"""What a database driver's error says: PostgreSQL's has an SQLSTATE, MySQL's a number, SQLite's only its text."""

import re
import sqlite3

# "Syntax Error or Access Rule Violation": a table, column or right is missing, whatever the values are.
_STATEMENT = "42"
# MySQL's, of which older drivers tell no SQLSTATE: no right to the database, the table, the column; no such table or
# column.
_STATEMENT_MYSQL = (1044, 1142, 1143, 1146, 1054)
_STATEMENT_SQLITE = re.compile(r"no such (table|column)\b|table \S+ has no column named")


def is_of_tables(error: BaseException | None) -> bool:
    """Whether it is the fault of the tables that a statement names, or of the role's rights, and of no value in it."""
    if isinstance(error, sqlite3.Error):
        return _STATEMENT_SQLITE.match(str(error)) is not None
    return mysql_number(error) in _STATEMENT_MYSQL or (sqlstate(error) or "").startswith(_STATEMENT)


def mysql_number(error: BaseException | None) -> object:
    """MySQL's number of an error of its driver; None of any other."""
    return error.args[0] if error and type(error).__module__.startswith("pymysql.") and error.args else None


def sqlstate(error: BaseException | None) -> str | None:
    """Its SQLSTATE, where the driver tells one."""
    found = getattr(error, "sqlstate", None)
    return found if isinstance(found, str) else None
