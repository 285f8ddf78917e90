"""Payloads: what goes in comes out, and what cannot says so."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from kompensate.schemas.payloads import PAYLOAD_BYTES_MAX, BadPayload, check_type, decode, encode


@dataclass(frozen=True)
class Item:
    sku: str
    count: int = 1


class Order(msgspec.Struct):
    id: UUID
    at: datetime
    total: Decimal
    items: list[Item]


class Address(TypedDict):
    city: str


class Paid(pydantic.BaseModel):
    """Strict: it takes a date as JSON has it, and no other text."""

    model_config = pydantic.ConfigDict(strict=True)
    day: date
    item: Item


class Basket(msgspec.Struct):
    paid: list[Paid]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Item("a", 2), Item),
        (Order(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), Decimal("0.10"), [Item("é")]), Order),
        ({"city": "Zürich"}, Address),
        (Paid(day=date(2026, 1, 2), item=Item("a")), Paid),
        (Basket([Paid(day=date(2026, 1, 2), item=Item("a"))]), Basket),
        ({"any": [1, 2.5, None, True]}, dict[str, Any]),
        (None, type(None)),
    ],
)
def test_what_is_written_is_read_again(value: object, kind: Any) -> None:
    """Dataclasses, Structs, TypedDicts and JSON values come back equal."""
    assert decode(encode(value), kind) == value


def test_a_newer_sender_is_understood() -> None:
    """Unknown fields are ignored, absent ones take their default."""
    assert decode(b'{"sku":"a","colour":"red"}', Item) == Item("a", 1)


def test_no_value_reads_as_null() -> None:
    """A record without value is null: fine where null is, an error elsewhere."""
    assert decode(None, type(None)) is None
    with pytest.raises(BadPayload, match="got no value"):
        decode(None, Item)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"sku":1}', b"null"])
def test_what_is_not_the_type_is_named(data: bytes) -> None:
    """The error names the type, what is wrong and how the bytes begin."""
    with pytest.raises(BadPayload, match=r"payload Item: .*got (an object with |\d+ bytes beginning)"):
        decode(data, Item)


def test_the_error_names_expected_and_got() -> None:
    """A wrong field says which, what it should be and what it is."""
    with pytest.raises(BadPayload, match=r"Expected `int`, got `str` - at `\$.count`"):
        decode(b'{"sku":"a","count":"many"}', Item)


def test_a_model_says_what_is_wrong_and_shows_no_value() -> None:
    """Field and reason; pydantic's own text has the input in it, and that ends in logs."""
    with pytest.raises(BadPayload) as raised:
        decode(b'{"paid":[{"day":"secret","item":{"sku":"a"}}]}', Basket)

    assert "payload Basket: day: Input should be a valid date" in str(raised.value)
    assert str(raised.value).endswith("- at `$.paid[0]`; got an object with paid")
    assert "secret" not in str(raised.value)


def test_the_limit_is_exact() -> None:
    """A payload of exactly the limit passes, one byte more does not."""
    fits = "x" * (PAYLOAD_BYTES_MAX - 2)

    assert len(encode(fits)) == PAYLOAD_BYTES_MAX
    with pytest.raises(BadPayload, match=f"at most {PAYLOAD_BYTES_MAX} bytes, got {PAYLOAD_BYTES_MAX + 1}"):
        encode(fits + "x")


def test_what_json_cannot_hold_is_named() -> None:
    """A value that is no data is refused with its type."""
    with pytest.raises(BadPayload, match="payload object: expected a dataclass"):
        encode(object())


def test_a_type_that_cannot_be_read_is_found_early() -> None:
    """A type that JSON never makes is refused before any message."""
    with pytest.raises(BadPayload, match="expected a type that JSON can be read as"):
        check_type(Item | Address)
    check_type(Item)
