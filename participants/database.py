"""Opens a participant's database, or takes the caller's, so that a transaction behaves as `unit.py` needs it."""

from typing import Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.event import listen

from kompensate.outbox.mysql import mysql_engine
from kompensate.outbox.naming import KINDS, MYSQL, check_dsn
from kompensate.outbox.writer import driver_cursor

# A database whose host is gone is noticed in about half a minute, instead of the operating system's quarter of an hour.
_PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


# One thread, one transaction at a time; a second for housekeeping.
_POOL = {"pool_size": 1, "max_overflow": 1}


def connect(dsn: str, service: str) -> Engine:
    """An engine for `dsn`: a URL of one of KINDS, or libpq's `host=… dbname=…`. Connects later.

    Raises ValueError for what is neither, or needs a package that is absent, and SQLAlchemy's ArgumentError for a URL
    that cannot be read.
    """
    check_dsn(dsn)
    if "://" not in dsn:
        return _libpq(dsn, service)
    url = make_url(dsn)
    if url.get_backend_name() == "sqlite":
        return _sqlite(dsn)
    if url.get_backend_name() in MYSQL:
        return mysql_engine(url, "READ COMMITTED", **_POOL)
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"database: expected {KINDS}, got {url.get_backend_name()}://")
    url = url.set(drivername="postgresql+psycopg")
    given = {name: value for name, value in _PATIENCE.items() if name not in url.query}
    return _postgresql(url.render_as_string(hide_password=False), service, given)


def adopt(engine: Engine) -> Engine:
    """The caller's engine, if it suits.

    Raises TypeError for what is no Engine (an AsyncEngine), and ValueError for one of another driver.
    """
    hint = "give the database's URL: the participant then makes an engine of its own"
    if not isinstance(engine, Engine):
        raise TypeError(f"database: expected a URL or a SQLAlchemy Engine, got {type(engine).__name__}: {hint}")
    if engine.dialect.name == "sqlite":
        return engine
    if engine.dialect.driver not in ("psycopg", "pymysql") or engine.dialect.is_async:
        got = f"{engine.dialect.name}+{engine.dialect.driver}{' of an AsyncEngine' if engine.dialect.is_async else ''}"
        raise ValueError(
            f"database: expected an Engine of postgresql+psycopg, mysql+pymysql or sqlite, got {got}: {hint}"
        )
    return engine


def _postgresql(url: str, service: str, arguments: dict[str, Any]) -> Engine:
    return create_engine(
        url,
        # Its errors would quote the values of a payload, in logs, replies and dead letters.
        hide_parameters=True,
        **_POOL,
        connect_args={"application_name": f"kompensate {service}", **arguments},
    )


def _libpq(text: str, service: str) -> Engine:
    """libpq's own text goes to the driver as it is: SQLAlchemy has no place for it in a URL."""
    engine = _postgresql("postgresql+psycopg://", service, {})

    def give_text(_dialect: object, _record: object, arguments: list[Any], _named: dict[str, Any]) -> None:
        arguments[:] = [text]

    listen(engine, "do_connect", give_text)
    return engine


def _sqlite(url: str) -> Engine:
    """SQLite with real transactions: the driver's own begin too late and end at savepoints."""
    engine = create_engine(url, hide_parameters=True, connect_args={"isolation_level": None, "timeout": 30})
    listen(engine, "begin", _begin_immediate)
    return engine


def _begin_immediate(connection: Connection) -> None:
    driver_cursor(connection).execute("BEGIN IMMEDIATE")
