"""What a scripted participant answers to a command: done, refused, failed; late, twice or never; in turn."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from kompensate.schemas.messages import Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `outcome` None: there is none, ever. `after` are virtual seconds, `copies` how often it comes."""

    outcome: Outcome | None
    value: object = None
    after: float = 0.0
    copies: int = 1


@dataclass(frozen=True, slots=True)
class InTurn:
    """An answer for each command in turn; the last one for all that follow."""

    answers: tuple[Answer, ...]


Script: TypeAlias = Answer | InTurn | Callable[[Any], object] | object
"""An answer, answers in turn, a function of the command that returns an answer or a result, or a plain result."""


def done(result: object = None) -> Answer:
    """It was done; `result` is what a participant's handler would return."""
    return Answer("done", result)


def refused(reason: str = "refused", detail: object = None) -> Answer:
    """A business no: nothing was done."""
    return Answer("refused", {"reason": reason, "detail": detail})


def failed(reason: str = "failed", detail: object = None) -> Answer:
    """It failed, and nothing was done: the step's retry policy says what follows."""
    return Answer("failed", {"reason": reason, "detail": detail})


def expired() -> Answer:
    """It came too late to be handled: nothing was done."""
    return Answer("expired", {"reason": "expired", "detail": None})


def never() -> Answer:
    """No answer, however often the command is sent again."""
    return Answer(None)


def late(seconds: float, answer: object = None) -> Answer:
    """This answer (default: done), but only after so many virtual seconds."""
    if seconds < 0:
        raise ValueError(f"late: expected 0 seconds or more, got {seconds}")
    return replace(as_answer(answer), after=seconds)


def twice(answer: object = None) -> Answer:
    """This answer (default: done), sent twice."""
    return replace(as_answer(answer), copies=2)


def in_turn(*answers: object) -> InTurn:
    """The first of them to the first command of this type, and so on; the last to all that follow."""
    if not answers:
        raise ValueError("in_turn: expected at least one answer, got none")
    return InTurn(tuple(map(as_answer, answers)))


def as_answer(value: object) -> Answer:
    """A plain value is a result. Raises ValueError for what only `on` takes."""
    if isinstance(value, InTurn) or callable(value):
        got = "answers in turn" if isinstance(value, InTurn) else f"the function {value!r}"
        raise ValueError(f"answer: expected an answer or a result here, got {got}: give it to `on` itself")
    return value if isinstance(value, Answer) else done(value)
