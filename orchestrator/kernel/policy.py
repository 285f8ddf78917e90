"""How long a call is waited for and how often it is tried: in seconds as authors say it, in ms as it is stored."""

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

UNLIMITED = 0
MS_MAX = 36_600 * 24 * 3600 * 1000
"""100 years: the longest anybody waits. Times stay such that every language can write them as a date."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a definite failure is tried again. Intervals in seconds.

    `maximum_attempts` 0 is without limit; None is as the step's kind has it: three, or without limit past the pivot.
    """

    initial_interval: float = 1.0
    backoff_coefficient: float = 2.0
    maximum_interval: float = 60.0
    maximum_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in milliseconds.

    Two clocks: after `resend_after` without an answer the same command id is sent again (the inbox
    absorbs it), each time waiting twice as long up to 32 times; after `timeout` in all the step is in
    doubt (None: never). A definite failure is tried again with a new id: `attempts` in all (0: without
    limit), waiting `retry_initial`, growing by `retry_percent`/100, at most `retry_max`. A compensation
    is tried `undo_attempts` times before the saga is held for somebody to look.
    """

    resend_after: int = 15_000
    timeout: int | None = None
    attempts: int = 3
    retry_initial: int = 1_000
    retry_percent: int = 200
    retry_max: int = 60_000
    undo_attempts: int = 10

    def __post_init__(self) -> None:
        for name, least, most in _LIMITS:
            value = getattr(self, name)
            if value is None and name == "timeout":
                continue
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"policy {name}: expected a whole number from {least} to {most}, got {value!r}")
        if self.retry_max < self.retry_initial:
            raise ValueError(
                f"policy retry_max: expected at least retry_initial {self.retry_initial}, got {self.retry_max}"
            )

    @classmethod
    def of(
        cls,
        default: "Policy",
        retry: "RetryPolicy | None" = None,
        resend_after: float | None = None,
        timeout: float | None = None,
    ) -> "Policy":
        """`default` with what an author gave, in seconds. Raises ValueError, OverflowError for times that cannot be."""
        changes: dict[str, Any] = {}
        if retry is not None:
            changes = {
                "retry_initial": round(retry.initial_interval * 1000),
                "retry_percent": round(retry.backoff_coefficient * 100),
                "retry_max": round(retry.maximum_interval * 1000),
            }
            if retry.maximum_attempts is not None:
                changes["attempts"] = retry.maximum_attempts
        if resend_after is not None:
            changes["resend_after"] = round(resend_after * 1000)
        if timeout is not None:
            changes["timeout"] = round(timeout * 1000)
        return replace(default, **changes) if changes else default

    def resend_at(self, sent: int, resends: int) -> int:
        """When a command sent at `sent`, after so many resends, is sent again."""
        return sent + (self.resend_after << min(resends, 5))

    def retry_delay(self, attempt: int, command_id: str) -> int:
        """Milliseconds before the attempt after `attempt`; jittered down to half by a hash of the command's id."""
        delay = self.retry_initial
        for _ in range(min(attempt - 1, 64)):
            delay = min(delay * self.retry_percent // 100, self.retry_max)
        spread = int.from_bytes(blake2b(command_id.encode(), digest_size=2).digest(), "big")
        return delay - delay * spread // 131_072

    def another(self, attempt: int) -> bool:
        """Is there one more attempt after `attempt`?"""
        return self.attempts == UNLIMITED or attempt < self.attempts


_LIMITS = (
    ("resend_after", 1, MS_MAX),
    ("timeout", 1, MS_MAX),
    ("attempts", 0, 1_000_000),
    ("retry_initial", 0, MS_MAX),
    ("retry_percent", 100, 100_000),
    ("retry_max", 0, MS_MAX),
    ("undo_attempts", 1, 1_000_000),
)


DEFAULT_POLICIES = {
    "compensatable": Policy(timeout=300_000),
    "pivot": Policy(),
    "retriable": Policy(attempts=0),
    "notification": Policy(),
}
"""A compensatable step is in doubt after five minutes; the pivot and what follows are never given up."""
LOCAL_POLICIES = {"compensatable": Policy(), "pivot": Policy(), "retriable": Policy(attempts=0)}
"""A local step is waited for as long as it takes: the worker knows whether it still runs."""
LOCAL_ONCE = Policy(attempts=1)
CHILD_POLICY = Policy(attempts=1)
COMPENSATION_POLICY = Policy()


def command_id(app: str, saga_id: str, run: str, number: int, phase: str, attempt: int) -> str:
    """The id of a command and idempotency key of its effect: 32 hexadecimal characters.

    It grows a new attempt only after a definite failure; after an unknown outcome the same id goes out
    again, so that a provider that remembers its keys cannot do it twice.
    """
    text = f"{app}\0{saga_id}\0{run}\0{number}\0{phase}\0{attempt}"
    return blake2b(text.encode(), digest_size=16).hexdigest()
