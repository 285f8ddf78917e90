"""What the shell must do in the transaction that stores the events.

Timers are no effect: the shell arms whatever `SagaState.next_due` says. Nor is forgetting: an ended
state says so itself.
"""

from typing import NamedTuple, TypeAlias


class SendCommand(NamedTuple):
    """Send this command. `expires_at` in milliseconds since the epoch; `compensates` the id it undoes."""

    id: str
    service: str
    type: str
    step: str
    phase: str
    attempt: int
    payload: bytes
    compensates: str | None
    expires_at: int | None


Effect: TypeAlias = SendCommand
