"""Dead letters as they are read: what is one letter, what was disposed of it, and what may be done about it."""

from collections.abc import Mapping

import pytest

from kompensate.orchestrator.ports import HeaderList, Record
from kompensate.orchestrator.reading.conditions import BadFilter
from kompensate.orchestrator.reading.letters import Letter, LetterFilter, letters_of, unfit
from kompensate.schemas import letters as q

HEADERS = {
    "ce_id": "c-1",
    "ce_type": "wallet.Pay",
    "ce_correlationid": "o-1",
    "ce_sagastep": "pay",
    q.REASON: "handler of wallet.Pay: ValueError: what is this?",
    q.TOPIC: "wallet.commands",
    q.PARTITION: "2",
    q.OFFSET: "42",
    q.TIME: "2026-03-01T12:00:00.000Z",
}


def record(offset: int, headers: Mapping[str, str], time: int = 0, topic: str = "wallet.dead") -> Record:
    given: HeaderList = [(name, value.encode()) for name, value in headers.items()]
    return Record(topic, 0, offset, time or offset, b"o-1", b"{}", given)


def letter(topic: str = "wallet.dead", **headers: str) -> Letter:
    [found] = letters_of([record(0, {**HEADERS, **headers}, topic=topic)])
    return found


def disposal(of: Letter, offset: int, verb: str = q.RETRIED, time: int = 0) -> Record:
    return record(offset, {q.DONE: verb, q.OF: of.identity, q.WHO: "ann", q.WHY: "mended"}, time)


def test_a_letter_says_where_it_came_from() -> None:
    """Its place, its origin, when and why; and the headers it came with, which are what goes back."""
    found = letter(note="kept", **{q.STACK: "File …"})

    assert (found.name, found.identity, found.origin) == (
        "wallet.dead/0@0",
        "wallet.commands/2@42",
        ("wallet.commands", 2),
    )
    assert (found.reason, found.stack, found.saga_id) == (HEADERS[q.REASON], "File …", "o-1")
    assert found.put_aside_at == 1_772_366_400_000
    assert [name for name, _ in found.original_headers] == [
        "ce_id",
        "ce_type",
        "ce_correlationid",
        "ce_sagastep",
        "note",
    ]


@pytest.mark.parametrize("told", ["2026-03-01T12:00:00.000Z", "1772366400000"])
def test_its_time_is_read_in_both_ways_that_it_was_written(told: str) -> None:
    """Quarantines of earlier versions have milliseconds."""
    assert letter(**{q.TIME: told}).put_aside_at == 1_772_366_400_000


@pytest.mark.parametrize("time", [0, 1_772_366_400_000, 2**63 - 1, -1, -(2**63)])
def test_a_record_is_put_aside_whatever_time_it_says(time: int) -> None:
    """A producer may write any: it is text all the same, and comes back where a date can say it."""
    headers = {name: value.decode() for name, value in q.put_aside("shop.requests", 2, 42, "why", time)}

    assert (headers[q.TOPIC], headers[q.PARTITION], headers[q.OFFSET]) == ("shop.requests", "2", "42")
    assert letter(**headers).put_aside_at == (time if time > -(2**63) else 0), "a minus is no number: the letter's own"


def test_a_letter_written_twice_is_one() -> None:
    """A crash between the dead letter and its group's commit writes it again: the last copy stands for both."""
    found = letters_of([record(0, HEADERS), record(1, {**HEADERS, q.OFFSET: "43"}), record(2, HEADERS)])

    assert [each.name for each in found] == ["wallet.dead/0@1", "wallet.dead/0@2"]


def test_a_decision_holds_for_copies_and_not_for_what_comes_after() -> None:
    """It says who, why and when. The same record put aside once more is new: it was read again."""
    copies = [record(0, HEADERS), record(1, HEADERS)]
    disposed = disposal(letters_of(copies)[0], 2, time=7)
    [found] = letters_of([*copies, disposed])
    [again] = letters_of([*copies, disposed, record(3, HEADERS, time=8)])

    assert found.disposal is not None
    assert (found.disposal.verb, found.disposal.who, found.disposal.why, found.disposal.time) == (
        *(q.RETRIED, "ann", "mended"),
        7,
    )
    assert again.disposal is None


def test_letters_of_unknown_origin_are_told_apart() -> None:
    """Records without our headers are letters too, each by its own place; one's disposal is not another's."""
    plain = [record(0, {"ce_type": "x"}), record(1, {"ce_type": "y"})]
    first, second = letters_of(plain)
    disposed = letters_of([*plain, disposal(first, 2)])

    assert (first.origin, second.identity) == (None, "wallet.dead/0@1")
    assert [each.disposal is not None for each in disposed] == [True, False]


@pytest.mark.parametrize(
    ("found", "word", "told"),
    [
        (letter(), "", ""),
        (letter(**{q.ANSWERED: "failed"}), "answered", "as by `kompensate retry o-1 --step pay`"),
        (letter(ce_type="kompensate.start", **{q.ANSWERED: "refused"}), "answered", "has gone on without it"),
        (letter(**{q.OMITTED: "value of 9 bytes"}), "without value", "value of 9 bytes"),
        (letter(**{q.TOPIC: ""}), "of no origin", "expected headers q_topic and q_partition"),
        (letter(**{q.PARTITION: "-1"}), "of no origin", "expected headers q_topic and q_partition"),
        (letter("shop.quarantine", ce_type="kompensate.skip"), "orders", "as by `kompensate skip`"),
        (letter("shop.quarantine", **{q.TOPIC: "others.events"}), "of other people's topics", "others.events"),
        (letter("shop.quarantine", **{q.TOPIC: "shop.requests"}), "", ""),
        (letter("shop.quarantine", **{q.TOPIC: "shop.control"}), "", ""),
        (letter("p.shop.quarantine", **{q.TOPIC: "p.shop.replies.wallet"}), "", ""),
        (letter("wallet.dead", **{q.TOPIC: "wallet.events"}), "", ""),
    ],
)
def test_which_letters_are_handed_in_again(found: Letter, word: str, told: str) -> None:
    """What was answered is final, and what would be wrong or seen twice stays; the reason says what to do instead."""
    got, why = unfit("retry", found)

    assert got == word
    assert told in why
    assert unfit("discard", found) == ("", "")


def test_what_was_disposed_of_stays_so() -> None:
    """Neither again nor otherwise; the reason names who and why."""
    [found] = letters_of([record(0, HEADERS), disposal(letter(), 1, q.DISCARDED)])

    for verb in ("retry", "discard"):
        assert unfit(verb, found) == ("discarded already", "discarded by ann: mended")


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        ("saga=o-1,type=wallet.Pay", True),
        ("saga=o-2,saga=o-1", True),
        ("saga=o-1,type=wallet.Undo", False),
        ("in=wallet.dead and from=wallet.commands", True),
        ("answered=yes", False),
        ("answered=no,step=pay", True),
        ("reason=ValueError", True),
        ('reason="what was"', False),
        ("older-than=1h", True),
        ("older-than=3h", False),
    ],
)
def test_a_filter(where: str, matches: bool) -> None:
    """All names must hold, of one name either value."""
    two_hours_later = 1_772_366_400_000 + 2 * 3_600_000

    assert LetterFilter.parse([where]).matches(letter(), two_hours_later) is matches


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("status=running", "expected NAME=VALUE with NAME one of in, from, saga, type, step, answered, reason, older"),
        ("saga!=o-1", "got 'saga!=o-1'"),
        ("answered=perhaps", "answered: expected yes or no, got 'perhaps'"),
        ("older-than=soon", "older-than: expected a duration"),
    ],
)
def test_a_filter_that_cannot_be(where: str, told: str) -> None:
    """Expected and got."""
    with pytest.raises(BadFilter, match=told):
        LetterFilter.parse([where])
