"""Every transition of both tables is taken by a story: those of the files named here."""

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from types import ModuleType
from typing import Any

import pytest

from kompensate.orchestrator.kernel.tables import CALL, SAGA
from tests.fixtures import driving
from tests.kernel import (
    test_attributes,
    test_children,
    test_forking,
    test_forward,
    test_keys,
    test_language,
    test_limits,
    test_local,
    test_orders,
    test_pivot,
    test_resetting,
    test_undoing,
    test_waiting,
)

STORIES = (
    *(test_attributes, test_children, test_forking, test_forward, test_keys, test_language, test_limits),
    *(test_local, test_orders, test_pivot, test_resetting, test_undoing, test_waiting),
)


def _run_stories() -> None:
    """Each story once more, in this process: a selection may have left some out."""
    for module in STORIES:
        for name, story in vars(module).items():
            if name.startswith("test_"):
                for arguments in _cases(story, module):
                    story(**arguments)


def _cases(story: Callable[..., None], module: ModuleType) -> Iterator[dict[str, Any]]:
    """The arguments of each of a story's cases, as its `parametrize` marks and its module's say."""
    common = getattr(module, "pytestmark", [])
    marks = [*getattr(story, "pytestmark", ()), *(common if isinstance(common, list) else [common])]
    marks = [mark if isinstance(mark, pytest.Mark) else mark.mark for mark in marks]
    marks = [mark for mark in marks if mark.name == "parametrize"]
    for values in product(*(mark.args[1] for mark in marks)):
        found: dict[str, Any] = {}
        for mark, value in zip(marks, values, strict=True):
            names = [mark.args[0]] if isinstance(mark.args[0], str) else mark.args[0]
            found.update(zip(names, value if len(names) > 1 else [value], strict=True))
        yield found


def _names(pairs: Iterable[tuple[object, type]]) -> list[str]:
    return sorted(f"{status} --{kind.__name__}" for status, kind in pairs)


@pytest.mark.slow
def test_every_transition_is_taken_by_a_story() -> None:
    """A transition that no story takes has no reason to be, or lacks its story."""
    _run_stories()

    assert _names(set(SAGA) - driving.SAGA_TAKEN) == []
    assert _names(set(CALL) - driving.CALL_TAKEN) == []
