"""Errors of the shell, named by what the loop does next.

KompensateError
├── Aborted     the transaction did not happen: rewind and handle the batch again
│   └── Rejected    and would not in the same form: handle less at once, quarantine what is left
├── Fenced      somebody else owns what we wrote for: drop it and rejoin
├── Corrupted   memory and log may differ, or the log contradicts itself: stop or restore that partition
└── Fatal       nothing here can be trusted or done: stop the worker
"""


class KompensateError(Exception):
    """Base of what the shell raises."""


class Aborted(KompensateError):
    """The transaction was aborted; nothing of it is visible. Rewind and handle the batch again."""


class Rejected(Aborted):
    """The transaction was aborted because the log refuses one of its records, whenever it is tried."""


class Fenced(KompensateError):
    """Another worker took over. Drop memory, rejoin."""


class Corrupted(KompensateError):
    """The log contradicts itself, or a commit's outcome is unknown. `partition` must be read again or stop.

    With `retry` reading the log again will settle it; without, the partition stops until a person looks.
    """

    def __init__(self, message: str, partition: int | None = None, *, retry: bool = False) -> None:
        super().__init__(message)
        self.partition = partition
        self.retry = retry


class Fatal(KompensateError):
    """The worker cannot go on. The message says what to mend."""


class NoAnswer(Fatal):
    """Kafka does not answer at the address given."""
