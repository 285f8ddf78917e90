"""Values: what events, inputs and effects have in common."""

from typing import Any

import pytest

from kompensate.orchestrator.kernel import events as e


def test_values_are_told_apart_by_kind_and_fields() -> None:
    """Two kinds with the same fields differ; equal ones are one in a set."""
    ended: e.Event = e.SleepEnded(1)
    resent: e.Event = e.CommandResent(1)

    assert ended == e.SleepEnded(1)
    assert ended != e.SleepEnded(2)
    assert ended != resent
    assert len({ended, e.SleepEnded(1), resent}) == 2


def test_a_value_has_its_fields_and_no_others() -> None:
    """Slots: a misspelt field is an error, not a new attribute."""
    event: Any = e.SleepEnded(1)

    with pytest.raises(AttributeError):
        event.nummer = 2
