"""Asks an example's HTTP front, with the standard library alone."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from examples.common.ground import Ground

TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.1


def ask(ground: Ground, path: str, value: Mapping[str, object] | None = None) -> tuple[int, Any]:
    """GET, or POST with `value`: the status and the JSON. Raises ChildEnded, TimeoutError where nobody answers."""
    data = None if value is None else json.dumps(value).encode()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ground.port}{path}", data, TIMEOUT_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as no:
            with no:
                return no.code, json.load(no)
        except urllib.error.URLError as error:  # it is just starting
            ground.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected the front to answer at {path}, got {error}") from error
        time.sleep(POLL_SECONDS)


def ask_until(ground: Ground, path: str, enough: Callable[[Any], bool]) -> Any:
    """GET it again until the answer is as wanted. Raises ChildEnded, TimeoutError."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        status, found = ask(ground, path)
        if status == 200 and enough(found):
            return found
        ground.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path}: expected another answer within {TIMEOUT_SECONDS:g} s, got {status} {found}")
        time.sleep(POLL_SECONDS)
