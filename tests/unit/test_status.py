"""The read model: what people are told about a saga, from nothing but the topics' records."""

from dataclasses import replace

import pytest

from kompensate.orchestrator.cli.output import view_json
from kompensate.orchestrator.client_errors import DamagedSaga
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.status import SagaView, fold, view
from kompensate.orchestrator.reading.stored import stored
from kompensate.orchestrator.reading.words import error_text, readable
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.schemas.messages import CANCEL, PAUSE, SIGNAL, START, Command
from tests.fixtures.stage import Answer, Paper, refusing, silent_at

ORDER = b'{"order_id": "o1"}'


def start(paper: Paper, saga_id: str = "o-1", definition: str = "checkout") -> None:
    paper.ask(START, saga_id, saga_type=definition, payload=ORDER)


def seen(paper: Paper, saga_id: str = "o-1") -> SagaView:
    """The view that the topics give of a saga, its history included if it ended."""
    found = next(found for found in stored(paper.state()) if found.saga_id == saga_id)
    return view("shop", found, paper.history(saga_id) if found.ended else None)


def test_a_saga_that_waits_for_a_reply_says_for_which() -> None:
    """The view names step, attempt, the service that is waited for, and when the saga wakes by itself."""
    paper = Paper()
    start(paper)
    paper.play(silent_at("charge"))

    found = seen(paper)

    assert (found.type, found.shown_status, found.step, found.attempt) == ("checkout", "running", "charge", 1)
    assert found.waits[0].startswith("for a reply from payments to payments.Charge (step charge), out since 2023-")
    assert found.wakes_at == found.updated_at + 15_000 - (found.updated_at - found.steps[1].sent_at)
    assert [(step.step, step.status) for step in found.steps] == [("reserve", "done"), ("charge", "sent")]
    assert found.input == {"order_id": "o1"}


def test_a_command_sent_again_is_counted() -> None:
    """After its resend time the view says how often the command went out again."""
    paper = Paper()
    start(paper)
    paper.play(silent_at("reserve"))
    paper.fire(paper.now + 60_000)

    found = seen(paper)

    assert found.steps[0].resends == 1
    assert found.waits[0].endswith("sent again 1 times")


def test_a_refused_saga_tells_why_and_what_was_undone() -> None:
    """After a refusal the view has the error, the reason of turning back, and each step's undo."""
    paper = Paper()
    start(paper)
    paper.play(refusing("ship"))

    found = seen(paper)

    assert (found.status, found.last_error, found.reason) == ("compensated", "card declined", "ship: card declined")
    assert [(step.step, step.status) for step in found.steps] == [
        ("reserve", "undone"),
        ("charge", "undone"),
        ("ship", "refused"),
    ]
    assert found.ended
    assert found.compensations_left == 0


def test_compensations_left_are_counted() -> None:
    """While the saga goes back, the view counts what is still to be undone, what is out included."""
    paper = Paper()
    start(paper)

    def answer(command: Command) -> Answer:
        return None if command.phase == "compensate" else refusing("ship")(command)

    paper.play(answer)

    found = seen(paper)

    assert (found.status, found.step, found.compensations_left) == ("compensating", "undo charge", 2)


def test_a_completed_saga_has_its_result() -> None:
    """The summary alone tells status, result and times; with the history come the steps."""
    paper = Paper()
    start(paper)
    paper.play()
    (summary,) = stored(paper.state())

    bare, full = view("shop", summary), seen(paper)

    assert (bare.status, bare.result, bare.detailed) == ("completed", {"shipped": "o1"}, False)
    assert (full.status, full.result, full.detailed) == ("completed", {"shipped": "o1"}, True)
    assert (bare.started_at, bare.updated_at, bare.events) == (full.started_at, full.updated_at, full.events)
    assert len(full.steps) == 3


def test_the_parent_of_a_child_is_told_or_unknown() -> None:
    """A summary does not know it, which is not the same as having none."""
    running, ended = Paper(), Paper()
    for paper in (running, ended):
        paper.ask(START, "o-1", saga_type="checkout", payload=ORDER, parent="o-0", command_id="c-7")
    running.play(silent_at("charge"))
    ended.play()
    (summary,) = stored(ended.state())

    assert (seen(running).parent, seen(ended).parent) == ("o-0", "o-0")
    assert view_json(view("shop", summary))["parent"] is None


def test_a_paused_saga_says_by_whom_and_what_it_would_wait_for() -> None:
    """A hold stands beside the status, with its reason, and a held saga wakes at no time."""
    paper = Paper()
    start(paper, definition="approval")
    paper.ask(PAUSE, "o-1", subject="lunch")
    paper.play()

    found = seen(paper)

    assert (found.shown_status, found.step, found.wakes_at) == ("running, paused", "(signal approved)", None)
    assert found.waits == ("paused by an operator: lunch", "for a signal 'approved'")


def test_a_saga_that_only_got_signals_is_pending() -> None:
    """Signals before the start are kept, and the view says what is missing."""
    paper = Paper()
    paper.ask(SIGNAL, "o-1", subject="approved", payload=b'"yes"')
    paper.play()

    found = seen(paper)

    assert (found.status, found.type, found.signals_kept) == ("pending", "-", 1)
    assert found.waits == ("for its start: only signals have come",)


def test_a_history_of_many_pages_reads_as_one() -> None:
    """However small the pages, the view tells the same steps and events."""
    small, large = Paper(page_bytes_max=200), Paper()
    for paper in (small, large):
        start(paper)
        paper.play(silent_at("ship"))

    assert len(small.state()) > len(large.state())
    assert seen(small).events == seen(large).events
    assert [(s.step, s.status) for s in seen(small).steps] == [(s.step, s.status) for s in seen(large).steps]


def test_lines_name_step_attempt_and_cause() -> None:
    """Each event of a history names the record that caused it and the time since the event before."""
    paper = Paper()
    start(paper)
    asked = paper.ask(CANCEL, "o-1", subject="no more")
    paper.play(silent_at("reserve"))
    (found,) = stored(paper.state())

    lines = fold("shop", "o-1", read_pages([r.value or b"" for r in found.records])).lines

    turned = next(line for line in lines if line.kind == "CompensationStarted")
    assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
    assert (turned.detail, turned.cause.topic, turned.cause.offset) == ("cancel: no more", asked.topic, asked.offset)
    assert turned.time == asked.timestamp
    assert sum(line.since_previous for line in lines) == lines[-1].time - lines[0].time
    assert (lines[1].kind, lines[1].step, lines[1].attempt) == ("CallMade", "reserve", 1)


def test_a_damaged_page_damages_one_saga() -> None:
    """A flipped bit shows as `damaged` with the page and the checksums; the other saga is as it was."""
    paper = Paper()
    start(paper, "o-1")
    start(paper, "o-2")
    paper.play(silent_at("charge"))
    state = paper.state()
    record = state[b"o-1"]
    value = bytearray(record.value or b"")
    value[-20] ^= 1
    state[b"o-1"] = record._replace(value=bytes(value))

    views = {found.saga_id: view("shop", found) for found in stored(state)}

    assert views["o-1"].shown_status == "damaged"
    assert "checksum" in views["o-1"].damaged or "expected a whole" in views["o-1"].damaged
    assert (views["o-1"].status, views["o-1"].type) == ("running", "checkout")
    assert views["o-2"].shown_status == "running"


@pytest.mark.parametrize("key", [b"o-1/x", b"o-1/", b"o-1/1/1"])
def test_a_strange_key_is_shown_not_skipped(key: bytes) -> None:
    """What is no page's key is told, and hides nothing."""
    paper = Paper()
    start(paper)
    paper.play(silent_at("charge"))
    state = paper.state()
    state[key] = state[b"o-1"]

    found = list(stored(state))

    assert any(saga.saga_id == "o-1" for saga in found)
    assert any(view("shop", saga).damaged for saga in found)


def test_a_missing_header_is_damage() -> None:
    """A page without our header is told to be damaged, naming its place."""
    paper = Paper()
    start(paper)
    paper.play(silent_at("charge"))
    record = paper.state()[b"o-1"]

    (found,) = stored({b"o-1": record._replace(headers=None)})

    assert found.damaged.startswith(f"shop.state/0@{record.offset}: header kompensate: expected")


def test_a_missing_first_page_is_damage() -> None:
    """Later pages without the first are told to be damaged, not taken for a whole history."""
    paper = Paper(page_bytes_max=200)
    start(paper)
    paper.play(silent_at("ship"))
    state = paper.state()
    del state[b"o-1"]

    (found,) = stored(state)

    assert "page 0: expected run, number" in view("shop", found).damaged


def test_an_event_that_cannot_follow_is_damage() -> None:
    """Pages that read but tell what the tables do not allow are damage, naming the event."""
    paper = Paper()
    start(paper)
    paper.play()
    pages = read_pages(paper.history("o-1"))
    twice = pages[0]._replace(events=[pages[0].events[0], pages[0].events[0]])

    with pytest.raises(DamagedSaga, match=r"saga 'o-1': page 0, event 1: .*SagaStarted is not allowed while running"):
        fold("shop", "o-1", [twice])


def test_payloads_that_are_no_json_are_shown_as_text() -> None:
    """Nothing is hidden: what is no JSON is shown as it is."""
    assert readable(b"\xff{") == "\\xff{"
    assert readable(b"") is None
    assert error_text(b'{"reason": "no stock", "detail": {"left": 0}}') == "no stock ({'left': 0})"
    assert error_text(b"[1]") == "[1]"


def test_a_record_is_all_it_takes() -> None:
    """The header alone places, names and times a saga: nothing is decoded to list it."""
    header = b"3.17 9 1700000000500 running paused checkout"
    record = Record("shop.state", 3, 40, 1_700_000_000_000, b"o-1", b"\xff not decoded", [("kompensate", header)])

    (found,) = stored({b"o-1": record})

    assert (found.partition, found.header.definition, found.header.hold) == (3, "checkout", "paused")
    assert not found.damaged
    assert replace(found, records=[]).header.due == 1_700_000_000_500
