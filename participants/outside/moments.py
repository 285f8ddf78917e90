"""Moments in the tables of outside calls: seconds since the epoch here, timestamps there."""

from datetime import UTC, datetime


def epoch(moment: datetime | None) -> float | None:
    """What a row has, in seconds since the epoch."""
    # SQLite keeps no zone: all moments are in UTC.
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def moment(epoch: float | None) -> datetime | None:
    """The same for a row."""
    return None if epoch is None else datetime.fromtimestamp(epoch, UTC)
