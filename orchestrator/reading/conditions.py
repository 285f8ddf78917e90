"""The text of a filter taken apart into conditions, and the conditions on attributes.

    status=running, attr.customer == "c-7" and attr.amount > 100

Conditions are joined by commas or `and`. A value in quotes is text, whatever it looks like; a bare one has no blanks,
and is compared as what the saga's own value is: a number, true or false, or text. By < and > numbers are compared with
numbers only.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kompensate.schemas.attributes import NAME

PREFIX = "attr."
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
_QUOTED = r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\''
_PIECE = re.compile(rf"{_QUOTED}|,|\s+and\s+|.", re.DOTALL)
_CONDITION = re.compile(rf"([^\s=!<>\"']+)\s*(==|=|!=|<=|<|>=|>)\s*({_QUOTED}|[^\s\"']+)")
_JOINS = re.compile(r",|\s+and\s+")


class BadFilter(ValueError):
    """The text names the condition, expected and got."""


@dataclass(frozen=True, slots=True)
class Condition:
    """`name` stands as `comparison` says to `value`; `quoted`: it is text."""

    name: str
    comparison: str
    value: str
    quoted: bool

    def holds(self, attributes: Mapping[str, Any]) -> bool:
        """For one on an attribute. It does not where the saga has none of that name, or one of another type."""
        found = attributes.get(self.name.removeprefix(PREFIX))
        wanted = self._as(found)
        return wanted is not None and COMPARE[self.comparison](found, wanted)

    def _as(self, found: object) -> object:
        """The value as what was found is; None where it is not of its type."""
        equality = self.comparison in ("=", "==", "!=")
        if isinstance(found, str):
            # "9" is more than "100": who writes a number without quotes means numbers.
            return self.value if self.quoted or equality or _number(self.value) is None else None
        if self.quoted or not isinstance(found, int | float):
            return None
        if isinstance(found, bool):
            return _BOOLS.get(self.value) if equality else None
        return _number(self.value)


_BOOLS = {"true": True, "false": False}


def _number(text: str) -> float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def conditions(text: str, names: str) -> Iterator[Condition]:
    """The conditions of a filter's text, in their order; `names` are those there are. Raises BadFilter."""
    for part in _parts(text):
        found = _CONDITION.fullmatch(part)
        if found is None:
            raise malformed(names, part)
        name, comparison, value = found.groups()
        quoted = value[0] in "\"'"
        condition = Condition(name, comparison, re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value, quoted)
        if name.startswith(PREFIX) and NAME.match(name.removeprefix(PREFIX)) is None:
            raise BadFilter(f"expected an attribute's name of A-Z a-z 0-9 _ after {PREFIX}, got {name!r}")
        yield condition


def malformed(names: str, got: str) -> BadFilter:
    """The error for what is no condition on any of `names`."""
    return BadFilter(
        f"expected NAME=VALUE with NAME one of {names}, joined by commas or 'and', a VALUE with blanks in quotes; "
        f"got {got!r}"
    )


def _parts(text: str) -> Iterator[str]:
    part = ""
    for piece in _PIECE.findall(text):
        if _JOINS.fullmatch(piece):
            yield part.strip()
            part = ""
        else:
            part += piece
    yield part.strip()
