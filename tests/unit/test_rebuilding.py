"""Rebuilding from the topics, and the outcomes of requests judged from them: no difference goes unseen."""

from collections.abc import Callable

import pytest

from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.outcomes import Sent, begun_by, judged
from kompensate.orchestrator.reading.rebuilding import Cut, Rebuilt, rebuilt
from kompensate.orchestrator.reading.stored import Stored, stored
from kompensate.orchestrator.sagas.journal import read_page, read_pages
from kompensate.schemas.messages import SIGNAL, START
from tests.fixtures.stage import Paper, all_done, refusing, silent_at

ORDER = b'{"order_id": "o1"}'
WHOLE = Cut()


def played(answer: Callable[..., object] = all_done, page_bytes_max: int = 200) -> Paper:
    paper = Paper(page_bytes_max=page_bytes_max)
    paper.ask(START, "o-1", saga_type="checkout", payload=ORDER)
    paper.play(answer)  # type: ignore[arg-type]  # one of the stage's answers
    return paper


def found(paper: Paper) -> Stored:
    (only,) = stored(paper.state())
    return only


def pages(paper: Paper) -> dict[int, bytes]:
    return dict(enumerate(paper.history("o-1")))


def rebuild(paper: Paper, cut: Cut = WHOLE) -> Rebuilt:
    return rebuilt("shop", "o-1", found(paper), pages(paper), cut, 0)


@pytest.mark.parametrize("answer", [all_done, refusing("charge"), silent_at("ship")])
def test_what_a_worker_wrote_has_no_difference(answer: Callable[..., object]) -> None:
    """Under way or ended, forward or back, on many pages: fold, header, summary and history agree."""
    result = rebuild(played(answer))

    assert result.differences == []
    assert result.view is not None


def test_a_history_is_cut_at_an_event_or_a_time() -> None:
    """As of each event number the state is that of a saga which has come just so far; by time the same."""
    paper = played()
    events = [recorded for page in read_pages(paper.history("o-1")) for recorded in page.events]

    for recorded in events:
        by_number = rebuild(paper, Cut(at=recorded.sequence)).view
        by_time = rebuild(paper, Cut(as_of=recorded.origin.time)).view

        assert by_number is not None
        assert by_time is not None
        assert by_number.events == recorded.sequence
        assert by_time.events >= by_number.events
        assert by_time.updated_at == recorded.origin.time


def test_before_its_start_a_saga_is_not_there() -> None:
    """As of a time before the start there is no state, and that is no difference."""
    result = rebuild(played(), Cut(as_of=1))

    assert (result.view, result.differences) == (None, [])


def altered(record: Record, header: bytes) -> Record:
    return record._replace(headers=[("kompensate", header)])


def test_a_header_that_live_memory_wrote_otherwise_is_a_difference() -> None:
    """If the worker's memory had another state than its pages fold to, both are named."""
    paper = played(silent_at("charge"))
    saga = found(paper)
    saga.records[-1] = altered(saga.records[-1], b"0.0 99 0 running - checkout")
    (saga,) = stored({b"o-1" if not n else f"o-1/{n}".encode(): r for n, r in enumerate(saga.records)})

    result = rebuilt("shop", "o-1", saga, pages(paper), WHOLE, 0)

    assert len(result.differences) == 1
    assert result.differences[0].startswith("header: expected '0.0 99 0 running - checkout' as stored, got '0.0 4 ")


def test_a_closed_page_that_differs_in_the_history_is_a_difference() -> None:
    """State and history topic hold the same bytes of a page, or rebuild says which does not."""
    paper = played(silent_at("ship"))
    history = pages(paper)
    history[0] = history[1]

    result = rebuilt("shop", "o-1", found(paper), history, WHOLE, 0)

    assert result.differences == ["page 0: expected the same bytes in state and history, got others"]


@pytest.mark.parametrize("answer", [all_done, silent_at("ship")])
def test_a_page_that_is_gone_is_a_difference(answer: Callable[..., object]) -> None:
    """A page that the history lacks is named, and marked so that a second look may help."""
    paper = played(answer)
    history = pages(paper)
    del history[0]

    result = rebuilt("shop", "o-1", found(paper), history, WHOLE, 0)

    assert result.gone
    assert "page 0" in result.differences[0]


def test_a_summary_that_says_otherwise_is_a_difference() -> None:
    """The summary of another saga's end disagrees in everything that differs."""
    paper, other = played(refusing("charge")), played()
    saga = found(paper)
    saga.records[0] = saga.records[0]._replace(value=found(other).records[0].value)

    result = rebuilt("shop", "o-1", saga, pages(paper), WHOLE, 0)

    assert any(text.startswith("summary's status: expected 'completed' as stored") for text in result.differences)


def test_a_damaged_summary_is_told() -> None:
    """Bytes that are no summary are a difference, not an exception."""
    paper = played()
    saga = found(paper)
    saga.records[0] = saga.records[0]._replace(value=(saga.records[0].value or b"")[:9])

    result = rebuilt("shop", "o-1", saga, pages(paper), WHOLE, 0)

    assert result.view is None
    assert "saga_summary.avsc" in result.differences[0]


def test_a_forgotten_saga_is_rebuilt_from_the_history_alone() -> None:
    """Past the dedup window the history is all there is, and enough."""
    paper = played()

    result = rebuilt("shop", "o-1", None, pages(paper), WHOLE, 0)

    assert result.differences == []
    assert result.view is not None
    assert result.view.status == "completed"


def sent(record: Record, definition: str = "checkout", payload: bytes = ORDER) -> Sent:
    return Sent("r", START, "o-1", definition, payload, record.topic, record.partition, record.offset, 0)


def judge(paper: Paper, request: Sent) -> str:
    saga = found(paper)
    values = paper.history("o-1") if saga.ended else [record.value or b"" for record in saga.records]
    return judged(request, saga, [read_page(value) for value in values]).kind


@pytest.mark.parametrize("answer", [all_done, silent_at("ship")])
def test_a_start_is_told_from_its_duplicates_and_conflicts(answer: Callable[..., object]) -> None:
    """The saga names the request that began it; any other was a duplicate, or a conflict if it asked for another."""
    paper = Paper(page_bytes_max=200)
    first = paper.ask(START, "o-1", saga_type="checkout", payload=ORDER)
    second = paper.ask(START, "o-1", saga_type="checkout", payload=ORDER)
    paper.play(answer)  # type: ignore[arg-type]  # one of the stage's answers

    assert judge(paper, sent(first)) == "started"
    assert judge(paper, sent(second)) == "duplicate"
    assert judge(paper, sent(second, payload=b"{}")) == "conflict"
    assert judge(paper, sent(second, definition="approval")) == "conflict"


def test_a_start_after_a_signal_is_told() -> None:
    """A saga that a signal called into being was still started by its start, though its run is the signal's."""
    paper = Paper()
    paper.ask(SIGNAL, "o-1", subject="approved", payload=b'"yes"')
    paper.play()
    begun = paper.ask(START, "o-1", saga_type="approval", payload=ORDER)
    again = paper.ask(START, "o-1", saga_type="approval", payload=ORDER)
    paper.play()

    assert found(paper).ended
    assert judge(paper, sent(begun, "approval")) == "started"
    assert judge(paper, sent(again, "approval")) == "duplicate"


def test_a_record_that_does_not_read_began_nothing() -> None:
    """Damage is never taken for an answer."""
    paper = Paper()
    first = paper.ask(START, "o-1", saga_type="checkout", payload=ORDER)
    paper.play(silent_at("charge"))
    (record,) = found(paper).records

    assert begun_by(record, sent(first))
    assert not begun_by(record._replace(value=b"\0\0\0\0\1"), sent(first))
    assert not begun_by(record._replace(value=(record.value or b"")[:-3]), sent(first))
