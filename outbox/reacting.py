"""SQLAlchemy's errors as those of the relay's loop: what somebody has to mend, and what passes by itself."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from kompensate.outbox.errors import Disconnected, Misconfigured

# MySQL's numbers that its driver does not tell from passing trouble: no such column or database, no right to the
# database, a table or a column, no such user or another password.
_MYSQL_WRONG = (1044, 1045, 1049, 1054, 1142, 1143)


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
    text, given = str(error.orig), error.orig.args if error.orig is not None else ()
    return (
        isinstance(error, exc.ProgrammingError)
        or text.startswith(("no such table", "no such column"))
        or (bool(given) and given[0] in _MYSQL_WRONG)
    )


def _line(error: exc.SQLAlchemyError) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())
