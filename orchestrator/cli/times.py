"""Times as options: RFC 3339, in UTC where no offset is named."""

import time
from datetime import UTC, datetime, timedelta

import click


def time_given(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """Callback: a time, or milliseconds since the epoch; gives milliseconds. Raises click.BadParameter."""
    if text is None or text.isdigit():
        return None if text is None else int(text)
    return round(_time(text, "milliseconds").timestamp() * 1000)


def later_given(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """Callback: a time, or in how many seconds from now. Raises click.BadParameter."""
    if text is None:
        return None
    try:
        seconds = float(text)
        return datetime.fromtimestamp(time.time(), UTC) + timedelta(seconds=seconds)
    except OverflowError as error:
        raise click.BadParameter(f"expected seconds within the years a date can have, got {text!r}") from error
    except ValueError:
        return _time(text, "seconds from now")


def _time(text: str, otherwise: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"expected a time like 2026-03-01T12:00:00Z or {otherwise}, got {text!r}") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
