"""What the kernel and a saga's code can raise.

SagaError                 a step's outcome, raised where the program awaits it
├── StepRefused           the participant said no: nothing was done
├── StepFailed            it failed for good: nothing was done
└── StepInDoubt           no answer in time: it may have been done
OperationCancelled        awaited after it was undone: a sleep or receive that was dropped
Refuse                    raise it in a local step's function: the business's no
NotDone                   raise it in a `reconcile` function: the step was not done
ContinueAsNew             what ctx.continue_as_new raises
FailSaga                  raise it to end a saga as failed, after its steps are undone
Rejected                  an input that cannot be handled: the shell quarantines it
IllegalTransition         an event that the tables do not allow: the history or the kernel is wrong
Nondeterminism            replay asked for something else than what is recorded
ForeignAwait              the program awaited something its context did not hand out
"""


class SagaError(Exception):
    """A step did not succeed. Uncaught, the saga turns back and undoes what was done."""

    def __init__(self, step: str, reason: str, detail: object = None) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason
        self.detail = detail


class StepRefused(SagaError):
    """The participant refused the command: a business no, nothing was done."""


class StepFailed(SagaError):
    """The command failed and its retries are used up, or it expired unhandled: nothing was done."""


class StepInDoubt(SagaError):
    """No answer within the step's time-out: it may have been done, and is undone with the others."""


class OperationCancelled(Exception):
    """The operation was undone (`ctx.undo`, or as a loser) before it ended."""


class Refuse(Exception):
    """Raised by a local step's function: the business says no, and it is not tried again. `detail` is JSON."""

    def __init__(self, reason: str, **detail: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class NotDone(Exception):
    """Raised by a `reconcile` function: the step was not done, and may be run again."""


class ContinueAsNew(BaseException):
    """Raised by `ctx.continue_as_new`; let it through. Not an Exception, so that no `except` in a saga takes it."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the run ends here and goes on as a new one")
        self.payload = payload


class FailSaga(Exception):
    """Raised by a program to end its saga as failed, after undoing what was done."""


class Rejected(Exception):
    """An input that this saga cannot take; nothing changed. The text says why."""


class IllegalTransition(Exception):
    """An event that the transition tables do not allow here; the state is untouched."""


class Nondeterminism(Exception):
    """The program, replayed, asked for something else than its history tells."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"replay: expected {expected}, got {got}")
        self.expected = expected
        self.got = got


class ForeignAwait(Exception):
    """The program awaited something that its context did not hand out."""
