"""Reading records as commands: who can still be told when one is spoilt."""

import pytest

from kompensate.participants.ports import Place, Record
from kompensate.participants.reading import read
from tests.fixtures.participants import compensation, forward


def _record(changes: dict[str, bytes | None], headers: list[tuple[str, bytes | None]] | None = None) -> Record:
    own = dict(forward("a").headers() if headers is None else headers)
    return Record(Place("stock.commands", 2), 7, b"saga-1", b"{}", list((own | changes).items()))


def test_a_command_reads_as_it_was_sent() -> None:
    """What was written as headers comes back as the command, with nothing to complain about."""
    sent = forward("a")
    command, problem = read(Record(Place("t", 0), 0, b"saga-1", sent.payload, sent.headers()))

    assert (command, problem) == (sent, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"ce_sagaphase": b"sideways"},
        {"ce_sagaphase": None},
        {"ce_type": None},
        {"ce_sagaattempt": b"many"},
        {"ce_expirytime": b"tomorrow"},
        {"ce_sagastep": b"\xff\xfe"},
        {"ce_compensates": b"b"},
        {"traceparent": b"\xff"},
    ],
)
def test_a_spoilt_header_is_answered(changes: dict[str, bytes | None]) -> None:
    """Where the sender can still be told, there is a command to answer and the header at fault is named."""
    command, problem = read(_record(changes))

    assert command is not None
    assert (command.id, command.reply_to, command.reply_partition) == ("a", "shop.replies.stock", 3)
    assert next(iter(changes)) in str(problem)


def test_a_compensation_of_itself_is_refused() -> None:
    """A command cannot undo itself."""
    _, problem = read(_record({}, compensation("a", "a").headers()))

    assert problem == "header ce_compensates: expected the id of another command, got its own, 'a'"


@pytest.mark.parametrize(
    "changes",
    [
        {"ce_id": None},
        {"ce_id": b""},
        {"ce_id": b"a\x00b"},
        {"ce_id": b"a" * 513},
        {"ce_id": b"a "},
        {"ce_correlationid": None},
        {"ce_replyto": b"\xff"},
        {"ce_replypartition": b"-1"},
        {"ce_replypartition": b"2147483648"},
        {"tracestate": b"\x00"},
    ],
)
def test_nobody_to_answer(changes: dict[str, bytes | None]) -> None:
    """Where no answer could be written or sent there is no command, only the reason."""
    command, problem = read(_record(changes))

    assert command is None
    assert next(iter(changes)) in str(problem)


def test_no_headers_at_all() -> None:
    """A record without headers is no command."""
    command, problem = read(Record(Place("t", 0), 0, None, b"junk", None))

    assert command is None
    assert "expected text, got nothing" in str(problem)
