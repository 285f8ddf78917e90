"""How a process of ours is told to end."""

import signal

import pytest

from kompensate.schemas.signals import when_told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_inside_and_as_before_afterwards(number: signal.Signals) -> None:
    """Inside it asks; whoever goes on afterwards is interrupted as before."""
    told, before = [], signal.getsignal(number)

    with when_told(lambda: told.append(number)):
        signal.raise_signal(number)

    assert told == [number]
    assert signal.getsignal(number) is before
