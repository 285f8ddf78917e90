"""SQLAlchemy's errors as those of the relay's loop: what somebody has to mend, and what passes by itself."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from kompensate.outbox.drivers import is_of_tables, mysql_number
from kompensate.outbox.errors import Disconnected, Misconfigured

# Numbers that MySQL's driver does not tell from passing trouble: no such user or another password, no such database.
_MYSQL_REFUSED = (1045, 1049)


@contextmanager
def reacting() -> Iterator[None]:
    """Raises Misconfigured or Disconnected for what SQLAlchemy raises."""
    try:
        yield
    except exc.DBAPIError as error:
        if not _is_wrong(error):
            raise Disconnected(f"database: {_line(error)}") from error
        raise Misconfigured(
            "polling relay: expected a database with an outbox as create_tables() makes it, and the rights to read it "
            f"and to note there what was sent, got: {_line(error)}"
        ) from error
    except exc.ResourceClosedError as error:
        raise Disconnected(f"database: {_line(error)}") from error


def _is_wrong(error: exc.DBAPIError) -> bool:
    driver = error.orig
    return isinstance(error, exc.ProgrammingError) or is_of_tables(driver) or mysql_number(driver) in _MYSQL_REFUSED


def _line(error: exc.SQLAlchemyError) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())
