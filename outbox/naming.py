"""Which database a DSN names, and how its replication slots are called. Pure: needs no database library.

libpq's two spellings are read as far as names go: `postgresql://user:password@host:port/database?…` and
`host=… dbname=…`; SQLAlchemy's `postgresql+psycopg://…` too, so that a service and its relay can share a setting.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

_SQLALCHEMY = re.compile(r"postgres(?:ql)?\+psycopg://")

MYSQL: Final = ("mysql", "mariadb")
"""What SQLAlchemy calls them, in a URL and as a dialect. Their tables and statements are the same."""
KINDS: Final = "postgresql://, mysql://, mariadb:// or sqlite://"
"""What a service's database may be."""
_POLLED: Final = re.compile(r"(?:sqlite|mysql|mariadb)\b")


@dataclass(frozen=True, slots=True)
class Names:
    """What the relay reads, by name: outbox table, publication, replication slot."""

    table: str
    publication: str
    slot: str


def plain_dsn(dsn: str) -> str:
    """`dsn` as libpq takes it."""
    return _SQLALCHEMY.sub("postgresql://", dsn, count=1)


def is_of_several_hosts(dsn: str) -> bool:
    """Whether `dsn` is a URL as libpq alone takes it: `postgresql://user@one:5432,two:5432/database`."""
    return "://" in dsn and "," in urlsplit(dsn).netloc.rpartition("@")[2]


def is_polled(dsn: str) -> bool:
    """Whether it names a database whose log is not read: its outbox is asked instead."""
    return _POLLED.match(dsn) is not None


def check_dsn(dsn: str) -> None:
    """Raise ValueError where `dsn` is neither a URL nor keyword=value: an empty variable, say, or a bare name."""
    option = dsn.startswith("--")  # what follows on a command line where an unquoted variable is empty
    if not option and ("://" in dsn or "=" in dsn):
        return
    if not dsn.strip():
        got = "empty text"
    elif option or re.fullmatch(r"[\w.-]+", dsn):
        got = repr(dsn)
    else:
        got = "text that is neither (not repeated: a password may stand in it)"
    raise ValueError(
        f"expected a PostgreSQL URL (postgresql://user@host/db) or libpq text (host=… dbname=…), got {got}"
    )


def database_of(dsn: str) -> dict[str, str]:
    """libpq's keywords (host, port, user, password, dbname, …) that `dsn` gives; dbname always.

    Raises ValueError where it is no DSN or names no database.
    """
    check_dsn(dsn)
    dsn = plain_dsn(dsn)
    if dsn.startswith("sqlite"):
        return {"dbname": PurePath(urlsplit(dsn).path).stem or "sqlite"}
    scheme, is_url, _ = dsn.partition("://")
    if is_url and scheme.removesuffix("+pymysql") not in ("postgresql", "postgres", *MYSQL):
        raise ValueError(f"database: expected {KINDS}, got {scheme}://…")
    try:
        found = _of_url(dsn) if is_url else _of_text(dsn)
    except ValueError as error:
        raise ValueError(
            f"database: expected postgresql://user:password@host:port/database or host=… dbname=…, got what cannot be "
            f"read so: {error}"
        ) from error
    dbname = found.get("dbname") or found.get("user")
    if not dbname:
        raise ValueError("database: expected a DSN that names its database, got one without (postgresql://host/NAME)")
    return {**found, "dbname": dbname}


def _of_url(dsn: str) -> dict[str, str]:
    url = urlsplit(dsn)
    if is_of_several_hosts(dsn):
        places = [urlsplit(f"//{place}") for place in url.netloc.rpartition("@")[2].split(",")]
        host = ",".join(place.hostname or "" for place in places)
        port = ",".join(str(place.port or "") for place in places)
    else:
        host, port = url.hostname or "", str(url.port or "")
    parts = {
        "host": host,
        "port": port,
        "user": None if url.username is None else unquote(url.username),
        "password": None if url.password is None else unquote(url.password),
        "dbname": unquote(url.path[1:]),
    }
    return {**{name: value for name, value in parts.items() if value}, **dict(parse_qsl(url.query))}


def _of_text(dsn: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in shlex.split(dsn)]
    if not pairs or any(not (name and equals) for name, equals, _ in pairs):
        # The text itself may hold a password: it is not repeated.
        raise ValueError("a word that is no keyword=value")
    return {name: value for name, _, value in pairs}


def slot_name(database: str, purpose: str = "outbox") -> str:
    """The usual slot of a database. Names are one space for a whole server: of a-z, 0-9 and _, at most 63."""
    return re.sub(r"[^a-z0-9_]", "_", f"kompensate_{purpose}_{database}".lower())[:63]
