"""Declaring handlers: what the decorator understands, and what it refuses with a reason."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from kompensate.participants import Call, Participant
from kompensate.participants.participant import BadHandler


@dataclass
class Reserve:
    sku: str


class Release(TypedDict):
    sku: str


def test_the_types_name_is_the_contracts() -> None:
    """A handler serves the command named like its first parameter's type."""
    inventory = Participant("inventory")

    @inventory.handles
    def reserve(command: Reserve) -> None: ...

    @inventory.handles
    def release(command: Release) -> None: ...

    assert inventory.contracts == ("inventory.Release", "inventory.Reserve")
    assert inventory.source == "kompensate:inventory"
    found = inventory.handler("inventory.Reserve")
    assert found is not None
    assert found.function is reserve
    assert not found.writes
    assert inventory.handler("inventory.Nothing") is None


def test_a_plain_type_is_named_by_hand() -> None:
    """Where the type has no name to give, the decorator takes one."""
    inventory = Participant("inventory")

    @inventory.handles("Count")
    def count(command: dict[str, Any]) -> int:
        return len(command)

    assert inventory.contracts == ("inventory.Count",)


def test_a_handler_asks_for_what_it_needs() -> None:
    """Session, connection and call are given by annotation, or by name where there is none."""
    inventory = Participant("inventory")

    @inventory.handles("A")
    def by_annotation(command: Reserve, who: Call, db: Session, raw: Connection) -> None: ...

    @inventory.handles("C")
    async def of_asyncio(command: Reserve, db: AsyncSession) -> None: ...

    @inventory.handles("D")
    def of_psycopg(command: Reserve, raw: psycopg.Connection, cursor: psycopg.Cursor[dict[str, Any]]) -> None: ...

    @inventory.handles("B")
    def by_name(command: Reserve, session, call) -> None: ...  # type: ignore[no-untyped-def] # the untyped author's way

    offers = [handler.offers for handler in inventory.handlers]
    assert offers == [
        (("who", "call"), ("db", "session"), ("raw", "connection")),
        (("db", "async session"),),
        (("raw", "driver"), ("cursor", "cursor")),
        (("session", "session"), ("call", "call")),
    ]
    assert [handler.is_async for handler in inventory.handlers] == [False, True, False, False]
    assert [handler.wants_psycopg for handler in inventory.handlers] == [False, False, True, False]
    assert all(handler.writes for handler in inventory.handlers)


def _sync(command: Reserve, session: AsyncSession) -> None: ...
def _of_psycopg(command: Reserve, connection: psycopg.AsyncConnection) -> None: ...
def _none() -> None: ...
def _bare(command) -> None: ...  # type: ignore[no-untyped-def] # the mistake under test
def _plain(command: dict[str, int]) -> None: ...
def _odd(command: Reserve, wishes: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_sync, "expected async def, as it asks for an AsyncSession, got def"),
        (_of_psycopg, "psycopg's Connection or Cursor, got connection: psycopg.AsyncConnection"),
        (_none, "expected a first parameter annotated with the command's type"),
        (_bare, "expected a first parameter annotated with the command's type"),
        (_plain, "name it with handles"),
        (_odd, "expected parameters after the command to be .* got wishes: int"),
    ],
)
def test_what_is_no_handler_is_refused(function: Callable[..., Any], message: str) -> None:
    """A function that cannot serve says what it lacks, when it is declared."""
    with pytest.raises(BadHandler, match=message):
        Participant("inventory").handles(function)


def test_a_command_has_one_handler() -> None:
    """Two handlers of one command are refused, both named."""
    inventory = Participant("inventory")

    def one(command: Reserve) -> None: ...

    def two(command: Reserve) -> None: ...

    inventory.handles(one)
    with pytest.raises(BadHandler, match=r"inventory.Reserve: expected one handler, got .*one and .*two"):
        inventory.handles(two)


def test_a_name_is_a_topics() -> None:
    """A participant's name is checked, because topics are made of it."""
    with pytest.raises(ValueError, match="participant: expected 1 to 100"):
        Participant("in ventory")
