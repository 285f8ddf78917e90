"""What a dead letter tells of its handler's error: where and what, and no values but what the error itself says."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from kompensate.participants import Participant
from kompensate.participants.database import connect
from kompensate.participants.kafka import _headers
from kompensate.participants.ports import DeadLetter, Place, Record
from kompensate.participants.stack import STACK_CHARACTERS_MAX, stack_of
from kompensate.schemas import letters as q
from tests.fixtures.participants import Take, World, forward

CANARY = "4111-1111-1111-1111"


def _charge(card: str) -> None:
    try:
        raise LookupError(f"no such card: {card}")
    except LookupError as error:
        raise ValueError(f"cannot charge {card}") from error


def _deep(depth: int) -> None:
    if depth:
        _deeper(depth)
    raise RuntimeError("the bottom")


def _deeper(depth: int) -> None:
    _deep(depth - 1)


def test_it_has_code_and_types_and_no_values() -> None:
    """Each error of the chain with its frames; what they say, which may quote a payload, is left out."""
    with pytest.raises(ValueError, match="cannot charge") as caught:
        _charge(CANARY)

    told = stack_of(caught.value)

    assert CANARY not in told
    assert "in _charge" in told
    assert 'raise LookupError(f"no such card: {card}")' in told
    assert told.index("LookupError\nwas the cause of") < told.rindex("ValueError")


def test_it_is_bounded_from_the_outside() -> None:
    """Of a deep one the innermost frames are kept: that is where it was raised."""
    with pytest.raises(RuntimeError) as caught:
        _deep(300)

    told = stack_of(caught.value)

    assert len(told) == STACK_CHARACTERS_MAX
    assert told.startswith("… ")
    assert told.endswith('raise RuntimeError("the bottom")\nRuntimeError')


def test_a_failing_handlers_letter_has_its_stack(tmp_path: Path) -> None:
    """It begins in the handler; the first tries leave none, and nor does what never came to a handler."""
    world = World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"))
    world.handle(forward("a", "raise"), last=False)
    assert world.stacks == []
    world.handle(forward("a", "raise"), forward("b", saga_id="s2"), last=True)
    world.handle(forward("c", saga_id="s3"), doom="unreadable")

    [stack, none] = world.stacks
    assert none is None
    assert stack is not None
    assert stack.startswith(f'  File "{__file__.rpartition("/tests/")[0]}/tests/fixtures/participants.py"')
    assert stack.endswith("ValueError")
    assert "what is this?" not in stack.replace('raise ValueError("what is this?")', "")


def test_statements_are_told_without_their_values(tmp_path: Path) -> None:
    """SQLAlchemy puts parameters into its errors: not into logs, replies and letters of ours."""
    shop = Participant("stock")

    @shop.handles
    def take(command: Take, connection: Connection) -> None:
        connection.execute(text("INSERT INTO effect (nothing) VALUES (:card)"), {"card": CANARY})

    world = World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"), shop)
    world.handle(forward("a"))

    [(_, reason)] = world.dead
    assert "INSERT INTO effect" in reason
    assert CANARY not in reason
    assert CANARY not in str(world.stacks) + str(world.payload("a"))


def test_a_letter_fits_where_its_record_did() -> None:
    """However much an exception has to say: a letter too large for its topic would stop its participant."""
    letter = DeadLetter(Record(Place("t", 0), 5, b"k", b"v", None), "x" * 5_000_000, "failed", "File …")

    headers = dict(_headers(letter))

    assert len(headers[q.REASON] or b"") == q.REASON_CHARACTERS_MAX
    assert (headers[q.ANSWERED], headers[q.STACK]) == ("failed", "File …".encode())
    assert q.ANSWERED not in dict(_headers(DeadLetter(letter.record, "why")))
