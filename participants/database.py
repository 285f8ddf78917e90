"""Opens a participant's database, or takes the caller's, so that a transaction behaves as `unit.py` needs it."""

from typing import Any

from sqlalchemy import Connection, Dialect, Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.event import listen

from kompensate.outbox.answers import expect_answers
from kompensate.outbox.errors import with_advice
from kompensate.outbox.mysql import mysql_engine
from kompensate.outbox.naming import KINDS, MYSQL, check_dsn, is_of_several_hosts, plain_dsn
from kompensate.outbox.writer import driver_cursor

# A database whose host is gone is noticed in about half a minute, instead of the operating system's quarter of an hour.
_PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
_SERVERS_PATIENCE = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "client_connection_check_interval": "10s",
}
# What server, role or DSN say of these stays.
_SET = (
    "SELECT set_config(s.name, wanted.value, false) FROM unnest(%s::text[], %s::text[]) AS wanted (name, value)"
    " JOIN pg_settings s ON s.name = wanted.name WHERE s.source = 'default'"
)
STATEMENT_SECONDS = 300.0
"""How long a statement may be without any answer: Kafka has given the partitions to another by then
(`max.poll.interval.ms`), so nothing is won by waiting on."""
COMMIT_SECONDS = 30.0
"""The same for a COMMIT. Given up too early it costs nothing: the inbox answers for what was committed after all."""


# One thread, one transaction at a time; a second for housekeeping.
_POOL = {"pool_size": 1, "max_overflow": 1}


def connect(dsn: str, service: str) -> Engine:
    """An engine for `dsn`: a URL of one of KINDS, or libpq's `host=… dbname=…`. Connects later.

    With several hosts and `target_session_attrs=read-write` the one that takes writes is found at each connection.

    Raises ValueError for what is neither, or needs a package that is absent, and SQLAlchemy's ArgumentError for a URL
    that cannot be read.
    """
    check_dsn(dsn)
    if "://" not in dsn or is_of_several_hosts(dsn):
        text = plain_dsn(dsn)
        given = {name: value for name, value in _PATIENCE.items() if f"{name}=" not in text}
        return _postgresql("postgresql+psycopg://", service, given, text)
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


def _postgresql(url: str, service: str, arguments: dict[str, Any], text: str | None = None) -> Engine:
    """`text` is libpq's own, which goes to the driver as it is: SQLAlchemy has no place for it in a URL."""
    engine = create_engine(
        url,
        # Its errors would quote the values of a payload, in logs, replies and dead letters.
        hide_parameters=True,
        **_POOL,
        connect_args={"application_name": f"kompensate {service}", **arguments},
    )

    def connect(dialect: Dialect, _record: object, given: list[Any], named: dict[str, Any]) -> DBAPIConnection:
        assert dialect.loaded_dbapi is not None  # it is the engine's
        try:
            return dialect.connect(*(given if text is None else [text]), **named)
        except dialect.loaded_dbapi.OperationalError as error:
            raise type(error)(with_advice(str(error))) from error

    listen(engine, "do_connect", connect)
    listen(engine, "connect", _be_patient, insert=True)
    return engine


def _be_patient(driver: Any, _record: object) -> None:
    """TCP's patience ends with a host that is gone, not with a line that only fell silent.

    The server is told as much: a transaction of a client that it lost keeps its locks, on the inbox too, so that the
    same group on a new connection would wait for it, by the server's own settings for two hours.
    """
    patience = {**_SERVERS_PATIENCE, "idle_in_transaction_session_timeout": f"{STATEMENT_SECONDS:g}s"}
    driver.autocommit = True
    driver.execute(_SET, (list(patience), list(patience.values())))
    driver.autocommit = False
    commit = driver.commit

    def commit_soon() -> None:
        expect_answers(driver, COMMIT_SECONDS)
        commit()
        expect_answers(driver, STATEMENT_SECONDS)

    expect_answers(driver, STATEMENT_SECONDS)
    driver.commit = commit_soon


def _sqlite(url: str) -> Engine:
    """SQLite with real transactions: the driver's own begin too late and end at savepoints."""
    engine = create_engine(url, hide_parameters=True, connect_args={"isolation_level": None, "timeout": 30})
    listen(engine, "begin", _begin_immediate)
    return engine


def _begin_immediate(connection: Connection) -> None:
    driver_cursor(connection).execute("BEGIN IMMEDIATE")
