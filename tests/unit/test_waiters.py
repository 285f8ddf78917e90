"""Those who wait on a tail, fed by hand: they hear of what they wait for once, whenever they came."""

from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.outcomes import Outcome, Sent
from kompensate.orchestrator.reading.waiters import End, Fate
from kompensate.schemas.formats import PLAIN
from kompensate.schemas.messages import START
from tests.fixtures.stage import Paper, all_done, silent_at


class Nowhere:
    """A lookup that may not be asked anything but the application's name and its payload format."""

    payloads = PLAIN

    class topics:  # noqa: N801  # as the attribute
        app = "shop"


NOWHERE: Lookup = Nowhere()  # type: ignore[assignment]  # only what the waiters need of it


def sent(record: Record) -> Sent:
    value = record.value or b""
    return Sent("r", START, "o-1", "checkout", value, record.topic, record.partition, record.offset, record.timestamp)


def log(paper: Paper) -> list[Record]:
    return paper.logs.get((paper.topics.state, 0), [])


def test_an_end_is_heard_of_whenever_one_came() -> None:
    """From the past, from what comes, or from both at once: the result is the same, and told once."""
    paper = Paper()
    paper.ask(START, "o-1", saga_type="checkout", payload=b'{"order_id": "1"}')
    paper.play(all_done)
    records = log(paper)

    for past, comes in (True, False), (False, True), (True, True):
        end = End("o-1", 0)
        assert not end.settle(NOWHERE)
        if past:
            end.past({key: record for key, record in paper.state().items() if end.wants(key)})
        for record in records if comes else ():
            end.see(record)
        assert end.settle(NOWHERE)
        assert end.future.result(0).status == "completed"


def test_an_end_that_has_not_come_is_waited_for() -> None:
    """Under way it says how far; another saga's end is none of its business."""
    paper = Paper()
    for saga_id, answer in (("o-1", silent_at("ship")), ("o-2", all_done)):
        paper.ask(START, saga_id, saga_type="checkout", payload=b'{"order_id": "1"}')
        paper.play(answer)
    end = End("o-1", 0)

    for record in log(paper):
        end.see(record)

    assert not end.settle(NOWHERE)
    assert end.newest is not None
    assert end.newest.header.status == "running"


def test_a_fate_is_heard_of_whenever_the_acknowledgement_comes() -> None:
    """The worker may be faster than the broker's acknowledgement: what was seen before it counts."""
    paper = Paper()
    request = paper.ask(START, "o-1", saga_type="checkout", payload=b'{"order_id": "1"}')
    paper.play(all_done)
    records = log(paper)

    for asked_before in range(len(records) + 1):
        fate = Fate("o-1", 0)
        for number, record in enumerate(records):
            if number == asked_before:
                fate.ask(sent(request))
            fate.see(record)
        fate.caught_up()
        if asked_before == len(records):
            assert not fate.settle(NOWHERE)
            fate.ask(sent(request))
        assert fate.settle(NOWHERE)
        assert fate.future.result(0) == Outcome("started")


def test_who_gave_up_is_told_nothing() -> None:
    """A cancelled future takes neither an answer nor an error, and its waiter is settled."""
    paper = Paper()
    paper.ask(START, "o-1", saga_type="checkout", payload=b'{"order_id": "1"}')
    paper.play(all_done)
    end = End("o-1", 0)
    end.past(paper.state())
    end.future.cancel()

    assert end.settle(NOWHERE)
    assert end.future.cancelled()
    other = End("o-1", 0)
    other.future.cancel()
    other.failed(RuntimeError("too late"))
