"""Search attributes: what may be one, their limits, and where they travel and stand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompensate.orchestrator import Application, Context, FromTopic, saga
from kompensate.orchestrator.definitions.steps import DefinitionError
from kompensate.orchestrator.intake.translate import Translator
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.testing import SagaTest
from kompensate.schemas.attributes import BYTES_MAX, NAMES_MAX, BadAttributes, changed, checked, read
from kompensate.schemas.encryption import AesGcm
from kompensate.schemas.formats import PayloadFormat
from kompensate.schemas.messages import START, BadMessage, Request
from kompensate.schemas.requests import make_request
from kompensate.schemas.topics import Topics
from tests.fixtures.driving import CHECKOUT, SERVICES, Order, Reserve, inventory


class Stage(StrEnum):
    BEGUN = "begun"


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("c-7", "c-7"),
        ("Müller «𝄞»", "Müller «𝄞»"),
        ("", ""),
        (120, 120),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        (True, True),
        (Stage.BEGUN, "begun"),
        (Level.HIGH, 3),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), "2026-03-01T12:00:00.000Z"),
        (datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2))), "2026-02-28T23:30:00.000Z"),
    ],
)
def test_values_and_what_is_kept_of_them(value: object, kept: object) -> None:
    """Datetimes as text in UTC, which sorts as time does."""
    found = read(changed({"it": value}))

    assert found == {"it": kept}
    assert type(found["it"]) is type(kept)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("a", 1)], "attributes: expected a mapping of names to values, got list"),
        ({"order-id": 1}, "attribute: expected a name of 1 to 64 of A-Z a-z 0-9 _ not beginning .*, got 'order-id'"),
        ({"7": 1}, "got '7'"),
        ({"é": 1}, "got 'é'"),
        ({"": 1}, "got ''"),
        ({"n" * 65: 1}, "got 'nnn"),
        ({7: 1}, "got 7"),
        ({"a": [1]}, "attribute 'a': expected str, int, float, bool, a datetime with a time zone or None, got list"),
        ({"a": b"x"}, "got bytes"),
        ({"a": 2**63}, "attribute 'a': expected a whole number of 64 bits, got one of 65"),
        ({"a": float("nan")}, "attribute 'a': expected a finite number, got nan"),
        ({"a": datetime(2026, 3, 1)}, "expected a datetime with a time zone, got 2026-03-01T00:00:00"),
        ({"a": "\ud800"}, "attribute 'a': expected text that UTF-8 can hold"),
        ({f"n{n:02}": 1 for n in range(17)}, "attributes: expected at most 16, got 17: n00, n01, "),
        ({"a": 1, "b": "x" * 1020}, "attributes: expected at most 1024 bytes of JSON in all, got 1034, most for 'b'"),
    ],
)
def test_what_cannot_be_one_is_refused_before_anything_is_sent(given: Any, message: str) -> None:
    with pytest.raises(BadAttributes, match=message):
        make_request(START, "o-1", source="test", saga_type="checkout", attributes=given)


def test_the_limits_are_reached() -> None:
    """As many names, and as many bytes, as the message says."""
    assert len(read(changed({f"n{n}": n for n in range(NAMES_MAX)}))) == 16
    assert len(changed({"a": "x" * (BYTES_MAX - 8)})) == BYTES_MAX


def test_none_removes() -> None:
    before = changed({"a": 1, "b": 2})

    assert changed({"a": None, "c": 3, "d": None}, before) == b'{"b":2,"c":3}'
    assert changed({"a": None, "b": None}, before) == b""


values = st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)


@given(st.dictionaries(names, values | st.booleans(), max_size=8))
def test_what_was_written_reads_the_same_and_is_written_the_same(found: dict[str, Any]) -> None:
    """Whatever the order in which they were set: what is folded and what is live are the same bytes."""
    data = changed(found)

    assert read(data) == found
    assert changed(dict(reversed(found.items()))) == data
    if data:
        assert checked(data) == data


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', '{"a": {}}', '{"a-b": 1}', '{"a": NaN}', "[" * 100_000])
def test_a_header_that_is_wrong_is_a_bad_message(text: str) -> None:
    """Another language's start is put aside with the reason, and stops nobody."""
    request = Request("r1", START, "o-1", "elsewhere", "checkout", attributes=text.encode())

    with pytest.raises(BadMessage, match="header ce_sagaattributes: attribute"):
        Request.parse(request.headers(), None)


def test_a_header_as_somebody_else_writes_it() -> None:
    """It is kept as we would have written it; null is no attribute, and neither is an empty header."""
    request = Request("r1", START, "o-1", "elsewhere", "checkout")

    for text, kept in (('{ "b": 1.50, "a": "\\u00fc", "c": null }', '{"a":"ü","b":1.5}'), ("", None), ("{}", "")):
        headers = [*request.headers(), ("ce_sagaattributes", text.encode())]
        found = Request.parse(headers, None).attributes
        assert found == (None if kept is None else kept.encode())


@saga("labelled")
async def labelled(ctx: Context, order: Order) -> None:
    ctx.set_attributes(stage="reserving", at=datetime(2026, 3, 1, tzinfo=UTC))
    await ctx.call(inventory, Reserve(order.order_id))
    ctx.set_attributes(stage=None, rounds=1)
    await ctx.child("rounds", 1, saga_id="c-1", attributes={"of": ctx.saga_id})


@saga("rounds")
async def rounds(ctx: Context, round_: int) -> int:
    ctx.set_attributes(round=round_)
    await ctx.sleep(60)
    if round_ < 3:
        ctx.continue_as_new(round_ + 1)
    return round_


SECRETLY = PayloadFormat([AesGcm({"2026": b"\x01" * 32}, write="2026")])
APP = Application("shop", [labelled, rounds, CHECKOUT], services=SERVICES, payloads=SECRETLY)


def test_a_sagas_attributes_over_its_life(saga_test: Callable[..., SagaTest]) -> None:
    """From its start, changed inside, a child's own, kept over continue_as_new; in the clear whatever the codecs."""
    shop = saga_test(APP)
    found = shop.start(labelled, Order("o-1"), saga_id="o-1", attributes={"customer": "c-7", "amount": 120, "no": None})
    shop.run_until(lambda: found.attributes.get("stage") == "reserving", "its first line")
    assert found.attributes == {
        "amount": 120,
        "at": "2026-03-01T00:00:00.000Z",
        "customer": "c-7",
        "stage": "reserving",
    }
    assert b'"customer":"c-7"' in b"".join(found.pages)
    shop.run()

    found.assert_completed()
    assert found.attributes == {"amount": 120, "at": "2026-03-01T00:00:00.000Z", "customer": "c-7", "rounds": 1}
    child = shop.saga("c-1")
    child.assert_completed(3)
    assert child.attributes == {"of": "o-1", "round": 3}


def test_a_topic_gives_attributes() -> None:
    """What a mapping gives wrongly costs its own record."""
    mapping = FromTopic(
        "orders",
        start="checkout",
        saga_id=lambda record: str(record.value["id"]),
        attributes=lambda record: {"customer": record.value["customer"]},
    )
    translator = Translator(Application("shop", [CHECKOUT], services=SERVICES, intake=[mapping]), Topics("shop"))

    def translated(value: bytes) -> dict[str, bytes | None]:
        (out,) = translator.translate(Record("orders", 0, 7, 1, None, value, []))
        return dict(out.headers or ())

    assert translated(b'{"id": "o-1", "customer": "c-7"}')["ce_sagaattributes"] == b'{"customer":"c-7"}'
    assert b"attribute 'customer': expected str" in (translated(b'{"id": "o-2", "customer": []}')["q_reason"] or b"")


def test_a_signal_from_a_topic_has_none() -> None:
    with pytest.raises(DefinitionError, match="expected attributes with start=, got them with signal="):
        FromTopic("payments", signal="paid", saga_id=str, attributes=lambda _: {})
