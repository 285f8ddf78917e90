"""What the shell must do in the transaction that stores the events, or once it stands.

Timers are no effect: the shell arms whatever `SagaState.next_timer` says. Nor is forgetting: an ended
state says so itself.
"""

from typing import NamedTuple, TypeAlias

from kompensate.orchestrator.kernel.operation import Work
from kompensate.orchestrator.kernel.values import value


@value
class SendCommand:
    """Send this command. `expires_at` in milliseconds since the epoch; `compensates` the id it undoes, if any.

    `key` is its record's; empty: the saga's id.
    """

    id: str
    service: str
    type: str
    step: str
    phase: str
    attempt: int
    payload: bytes
    compensates: str | None
    expires_at: int | None
    key: str = ""


class RunWork(NamedTuple):
    """Run this function, once the transaction stands; answer with a reply to `id`, its idempotency key.

    `number` is the operation's: of one operation only one function runs at a time. `reconciling`: it looks whether
    the step was done. `once`: nobody may run it a second time, nor could say what became of it.
    """

    id: str
    number: int
    work: Work
    reconciling: bool = False
    once: bool = False


class StartChild(NamedTuple):
    """Ask for this saga. `answers` is the id of the call that waits for its end; None: nobody does."""

    id: str
    saga_id: str
    definition: str
    payload: bytes
    answers: str | None
    attributes: bytes = b""


class CancelChild(NamedTuple):
    """Ask this saga to be cancelled."""

    id: str
    saga_id: str
    reason: str


class AnswerParent(NamedTuple):
    """Tell the parent how this saga ended: a reply to its call `command_id`."""

    saga_id: str
    command_id: str
    outcome: str
    payload: bytes


class ReleaseFork(NamedTuple):
    """Tell the saga that goes on from this one's history that this one has ended."""

    saga_id: str


Effect: TypeAlias = SendCommand | RunWork | StartChild | CancelChild | AnswerParent | ReleaseFork
