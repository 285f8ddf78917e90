"""Participants in other languages that break one rule: the conformance kit finds each by the case named for it."""

from pathlib import Path

import pytest

from examples.languages import build
from tests.fixtures.broken_languages import BREAKS
from tests.fixtures.conforming import failed
from tests.fixtures.conforming_languages import built, tried


@pytest.mark.slow
def test_they_are_found(kafka: str, topic_prefix: str, postgres: str, tmp_path: Path) -> None:
    """Four changes to the Java example and four to the Go one; each does its first command right, all the same."""
    telling = [one for one in BREAKS if one.telling]
    try:
        programs = built(telling, tmp_path)
    except build.Unavailable as error:
        pytest.skip(str(error))

    results = tried(programs, kafka, topic_prefix, postgres, whole=False)

    found = {one.name: failed(of_one) for one, of_one in results.items()}
    assert found == {one.name: {one.case} for one in telling}, results


def test_what_is_changed_is_there() -> None:
    """Of all broken participants, those that only the soak runs too: each old line is in the example once."""
    assert all(one.source() for one in BREAKS)
    assert len({one.name for one in BREAKS}) == len(BREAKS)
