"""What the intake's loop needs: the sources' records, and transactions that carry their offsets."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from kompensate.orchestrator.ports import OutRecord, Record


class Sources(Protocol):
    """The source topics' partitions that are this process's, as a member of the intake's group. One thread."""

    def poll(self, records_max: int, timeout: float) -> Sequence[Record]:
        """Committed records, in the order of each partition; waits up to `timeout` seconds for some.

        Raises Fenced, Fatal.
        """

    def commit(self, records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
        """Write `records` and `offsets` (next offset by source topic and partition) in one transaction.

        Raises as `Log.commit`: Aborted, Rejected, Fenced, Corrupted, Fatal.
        """

    def rewind(self) -> None:
        """Read on from the last commit: what was polled since comes again."""

    def close(self) -> None:
        """Leave the group and let go of everything."""


class Translates(Protocol):
    """What the loop makes of records."""

    def translate(self, record: Record) -> list[OutRecord]:
        """What a source record leads to. Raises nothing for bad input."""

    def quarantined(self, record: Record, reason: str, *, omit: bool = False) -> OutRecord:
        """The record put aside, for what Kafka refuses; with `omit` without its value."""
