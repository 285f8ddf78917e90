"""The limits of a participant, each with its unit and its reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """How a participant groups, waits and gives up."""

    # Commands in one transaction. PostgreSQL keeps 64 savepoints' ids of a transaction at hand
    # (PGPROC_MAX_CACHED_SUBXIDS); beyond them every reader of the rows has to look on disk.
    group_max: int = 64

    # Of a group's handlers together: what is left then is the next group's. The first of a group is answered with the
    # last, and its rows are locked as long; below this a COMMIT to a slow disk still costs each command little.
    group_seconds: float = 0.2

    # Runs of a handler that raises, before its command is answered failed; with the backoff about one second.
    tries_max: int = 4
    retry_seconds_first: float = 0.05

    # Transactions of a whole group that come to nothing before it is split; of a single command before it is
    # given up. Alone more often: contention passes, and a database that is restarted should not cost a saga.
    undone_max: int = 3
    undone_alone_max: int = 10
    undone_seconds_first: float = 0.01
    undone_seconds_max: float = 5.0

    # Between tries while the database or Kafka does not answer.
    outage_seconds_first: float = 0.1
    outage_seconds_max: float = 5.0

    # Commands kept back for another try. More: nothing is taken from Kafka until some are settled.
    waiting_max: int = 1000

    # How often offsets are committed under load. A crash repeats at most this much, and the inbox absorbs it.
    commit_interval_seconds: float = 0.1

    # One wait for records: how long a stop may take when there is nothing to do.
    poll_seconds: float = 0.5

    # Waits longer than this are spent as a member of the consumer group (which has to be polled).
    rest_seconds_min: float = 0.5

    # How often outbox and inbox are looked after; while there is more to forget, again after a second.
    chore_seconds: float = 600.0
    chore_again_seconds: float = 1.0

    # How long rows are kept (kompensate.outbox.retention). An inbox row must outlive the command topic's retention and
    # the longest time that the orchestrator may be down: what is repeated after that is new again.
    outbox_days: int = 7
    inbox_days: int = 30

    def retry_backoff(self, tries: int) -> float:
        """Seconds before a command is tried again, after `tries` tries that counted."""
        return float(self.retry_seconds_first * 4 ** max(0, min(tries, 8) - 1))

    def undone_backoff(self, undone: int) -> float:
        """Seconds before a group is tried again whose transaction came to nothing `undone` times."""
        return float(min(self.undone_seconds_max, self.undone_seconds_first * 3 ** min(undone - 1, 12)))

    def outage_backoff(self, waits: int) -> float:
        """Seconds before a database or broker is asked again that did not answer `waits` times before."""
        return float(min(self.outage_seconds_max, self.outage_seconds_first * 2 ** min(waits, 12)))
