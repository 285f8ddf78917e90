"""Filters over sagas, and many sagas asked one after the other, on topics that are lists."""

from collections.abc import Sequence

import pytest

from kompensate.orchestrator.cli.batch import Batch
from kompensate.orchestrator.reading.conditions import BadFilter
from kompensate.orchestrator.reading.forking import point
from kompensate.orchestrator.reading.selecting import Filter, milliseconds
from kompensate.orchestrator.reading.stored import Stored, stored
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.schemas.messages import CANCEL, FORK_HELD, PAUSE, SIGNAL, START
from tests.fixtures.stage import Paper, all_done, silent_at

HOUR = 3_600_000


def begin(
    paper: Paper, saga_id: str, answered: object = "charge", saga: str = "checkout", attributes: bytes | None = None
) -> None:
    paper.ask(START, saga_id, saga_type=saga, payload=b'{"order_id": "1"}', attributes=attributes)
    paper.play(silent_at(answered) if isinstance(answered, str) else all_done)


@pytest.fixture
def paper() -> Paper:
    """old-1 and new-1 wait for payments, an hour apart; held-1 is paused; done-1 has completed; wait-1 receives."""
    made = Paper()
    begin(made, "old-1")
    made.now += HOUR
    begin(made, "new-1")
    begin(made, "held-1", "reserve")
    made.ask(PAUSE, "held-1")
    begin(made, "wait-1", saga="approval")
    begin(made, "done-1", None)
    made.ask(SIGNAL, "early-1", subject="approved", payload=b"1")
    made.play(silent_at("charge"))
    return made


def sagas(paper: Paper) -> list[Stored]:
    return list(stored(paper.state()))


def chosen(paper: Paper, *where: str) -> set[str]:
    found = Filter.parse(where)
    return {saga.saga_id for saga in sagas(paper) if found.matches("shop", saga, paper.now)}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["status=running"], "old-1 new-1 held-1 wait-1"),
        (["status=completed,status=pending"], "done-1 early-1"),
        (["definition=approval"], "wait-1"),
        (["hold=paused"], "held-1"),
        (["hold=any", "status=running"], "held-1"),
        (["hold=none,status=running"], "old-1 new-1 wait-1"),
        (["step=charge"], "old-1 new-1"),
        (["step=charge", "step=reserve"], "old-1 new-1 held-1"),
        (["step=charge,older-than=30m"], "old-1"),
        (["older-than=2h"], ""),
        (["definition=checkout,status=running", "hold=none"], "old-1 new-1"),
    ],
)
def test_conditions_are_joined(paper: Paper, where: Sequence[str], expected: str) -> None:
    """Different names: all must hold; one name twice: either."""
    assert chosen(paper, *where) == set(expected.split())


@pytest.fixture
def attributed() -> Paper:
    """Sagas with attributes: one under way, one that has ended, one whose amount is text, one without any."""
    made = Paper()
    begin(made, "big", attributes=b'{"amount":120,"customer":"c-7","express":true,"due":"2026-03-01T12:00:00.000Z"}')
    begin(made, "done", None, attributes=b'{"amount":99.5,"customer":"c 8, and co","express":false}')
    begin(made, "text", attributes=b'{"amount":"120","customer":"c-7"}')
    begin(made, "bare")
    return made


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (['attr.customer == "c-7" and attr.amount > 100'], "big"),
        (["attr.customer=c-7"], "big text"),
        (["attr.customer='c-7',status=running"], "big text"),
        (['attr.customer = "c 8, and co"'], "done"),
        (["attr.customer != c-7"], "done"),
        (["attr.amount=120"], "big text"),
        (['attr.amount = "120"'], "text"),
        (["attr.amount >= 99.5 and attr.amount < 100"], "done"),
        (["attr.amount>99", "attr.amount<=120"], "big done"),
        (["attr.amount > many"], ""),
        (["attr.express == true"], "big"),
        (["attr.express != true"], "done"),
        (["attr.express > false"], ""),
        (["attr.due < 2026-03-02"], "big"),
        (["attr.due > 2026-03-02"], ""),
        (['attr.due > "2026"'], "big"),
        (['attr.amount > "100"'], "text"),
        (["attr.nobody = 1"], ""),
        (["attr.customer != c-9 and status == completed"], "done"),
        (["definition=checkout and step=charge and attr.amount=120"], "big text"),
    ],
)
def test_conditions_on_attributes(attributed: Paper, where: Sequence[str], expected: str) -> None:
    """All must hold; a bare value is taken as what the saga's own is, one in quotes is text. Ended sagas count too."""
    assert chosen(attributed, *where) == set(expected.split())


def test_a_header_of_attributes_that_does_not_read_is_damage(attributed: Paper) -> None:
    """It is shown as what it is, and stops no other."""
    state = attributed.state()
    record = state[b"big"]
    wrong = [(name, b"{" if name == "kompensate-attributes" else value) for name, value in record.headers or ()]

    found = {saga.saga_id: saga for saga in stored({**state, b"big": record._replace(headers=wrong)})}

    assert "attributes: expected a JSON object, got b'{'" in found["big"].damaged
    assert found["done"].attributes == {"amount": 99.5, "customer": "c 8, and co", "express": False}


def test_a_value_that_can_be_none_of_ours_matches_nothing(attributed: Paper) -> None:
    """Somebody else wrote that header."""
    state = attributed.state()
    wrong = [
        (name, value if name == "kompensate" else b'{"amount":[1]}') for name, value in state[b"big"].headers or ()
    ]

    found = next(iter(stored({b"big": state[b"big"]._replace(headers=wrong)})))

    assert not Filter.parse(["attr.amount > 0"]).matches("shop", found, attributed.now)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attr.amount", "got 'attr.amount'"),
        ("attr.amount =< 3", "got 'attr.amount =< 3'"),
        ("attr. = 3", "expected an attribute's name of A-Z a-z 0-9 _ after attr., got 'attr.'"),
        ("attr.a-b = 3", "expected an attribute's name of A-Z a-z 0-9 _ after attr., got 'attr.a-b'"),
        ('attr.a = "x', "got 'attr.a = \"x'"),
        ("attr.a = 1 or attr.b = 2", "got 'attr.a = 1 or attr.b = 2'"),
        ("status=running or status=completed", "got 'status=running or status=completed'"),
        ("attr.a = 1 and", "got 'attr.a = 1 and'"),
        ("status != running", "got 'status!=running'"),
        (
            "state=running",
            "expected NAME=VALUE with NAME one of status, definition, hold, older-than, step, or attr.NAME with one",
        ),
        (
            "state=running",
            "one of == = != <= < >= >, joined by commas or 'and', a VALUE with blanks in quotes; got 'state=running'",
        ),
        ("status", "got 'status'"),
        ("", "got ''"),
        ("status=", "got 'status='"),
        ("status=run", "status: expected one of pending, running, compensating, completed, "),
        ("hold=yes", "hold: expected one of paused, quarantined, any, none, got 'yes'"),
        ("older-than=soon", "older-than: expected a duration like 90s, 15m, 2h or 7d, got 'soon'"),
    ],
)
def test_a_filter_that_says_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadFilter) as raised:
        Filter.parse([text])

    assert message in str(raised.value)


def test_durations() -> None:
    assert [milliseconds(text) for text in ("90", "90s", "15m", "2h", "7d")] == [
        *(90_000, 90_000, 900_000, 2 * HOUR, 168 * HOUR)
    ]


def ids(batch: Batch, paper: Paper, rate: float, seconds: float) -> list[str]:
    return [found.saga_id for found, _ in batch.next(rate, seconds, paper.now)]


def test_a_batch_keeps_its_rate(paper: Paper) -> None:
    """The first at once, then so many a second, those that changed longest ago first."""
    batch = Batch("cancel", Filter.parse(["status=running"]), "shop")
    batch.take(sagas(paper), paper.now)

    asked = [ids(batch, paper, 2.0, 100.0 + seconds) for seconds in (0.0, 0.4, 0.6, 0.6, 1.6)]

    assert asked == [["old-1"], [], ["new-1"], [], ["wait-1", "held-1"]]
    assert batch.done
    assert batch.told("asked") == "cancel: 4 sagas match, 4 asked, 0 left alone"


def test_what_a_saga_has_become_meanwhile_counts(paper: Paper) -> None:
    """One that went on, and does not match any more, is left alone, and one that came later is not asked."""
    batch = Batch("cancel", Filter.parse(["step=charge,status=running"]), "shop")
    batch.take(sagas(paper), paper.now)
    assert ids(batch, paper, 1.0, 100.0) == ["old-1"]
    paper.ask(CANCEL, "new-1")
    begin(paper, "late-1")

    batch.take(sagas(paper), paper.now)

    assert ids(batch, paper, 1.0, 200.0) == []
    assert batch.done
    assert batch.told("asked") == "cancel: 2 sagas match, 1 asked, 1 left alone (1 moved on meanwhile)"


@pytest.mark.parametrize(
    ("verb", "asked", "alone"),
    [
        ("cancel", "early-1 held-1 new-1 old-1 wait-1", "1 ended"),
        ("signal", "early-1 held-1 new-1 old-1 wait-1", "1 ended"),
        ("pause", "early-1 new-1 old-1 wait-1", "1 held already, 1 ended"),
        ("resume", "held-1", "4 not held, 1 ended"),
        ("compensate", "held-1 new-1 old-1 wait-1", "1 ended, 1 pending, not running"),
        ("close", "held-1 new-1 old-1 wait-1", "1 ended, 1 not begun"),
        ("retry", "held-1 new-1 old-1", "1 not one open step, 1 ended, 1 not begun"),
    ],
)
def test_who_cannot_take_it_is_left_alone(paper: Paper, verb: str, asked: str, alone: str) -> None:
    """So that nothing lands in the quarantine, and the same again asks nobody who has done it."""
    batch = Batch(verb, Filter(), "shop", steps=verb == "retry")
    batch.take(sagas(paper), paper.now)

    found = batch.everything(paper.now)

    assert sorted(view.saga_id for view, _ in found) == sorted(asked.split())
    told = batch.told("would be asked")
    assert set(told[told.index("(") + 1 : -1].split(", ")) == set(alone.split(", "))


@pytest.mark.parametrize(
    ("verb", "asked"), [("signal", ["fork-1"]), ("close", ["fork-1"]), ("resume", []), ("cancel", []), ("pause", [])]
)
def test_a_fork_that_waits_is_asked_little(paper: Paper, verb: str, asked: list[str]) -> None:
    """What it has are another saga's steps until that has ended."""
    old = next(saga for saga in sagas(paper) if saga.saga_id == "old-1")
    pages = read_pages([record.value or b"" for record in old.records])
    fork = point("old-1", pages, step="charge", reset=True, who="ann", reason="why").fork(
        "fork-1", source="t", held=True
    )
    paper.ask(FORK_HELD, "fork-1", payload=fork.payload, who="ann", subject="why")
    paper.play(silent_at("charge"))
    batch = Batch(verb, Filter(), "shop")
    batch.take([saga for saga in sagas(paper) if saga.saga_id == "fork-1"], paper.now)

    assert [view.saga_id for view, _ in batch.everything(paper.now)] == asked
    assert ("waits until old-1 has ended" in batch.told("would be asked")) == (not asked)


def test_an_order_is_about_the_step_as_it_stands(paper: Paper) -> None:
    """Each with the command that is its newest, so that a second run of the same rejects itself."""
    batch = Batch("skip", Filter.parse(["status=running"]), "shop", steps=True, step="charge")
    batch.take(sagas(paper), paper.now)

    found = batch.everything(paper.now)

    assert [(view.saga_id, step.step if step else "") for view, step in found] == [
        *(("old-1", "charge"), ("new-1", "charge"))
    ]
    assert all(step is not None and step.command_id for _, step in found)
    assert "2 left alone (2 step charge not open)" in batch.told("would be asked")


def test_a_batch_that_was_interrupted_says_what_is_left(paper: Paper) -> None:
    batch = Batch("resume", Filter.parse(["hold=any"]), "shop")
    batch.take(sagas(paper), paper.now)

    assert batch.told("asked") == "resume: 1 sagas match, 0 asked, 0 left alone, 1 to go"
