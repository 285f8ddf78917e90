"""A command topic in a file, for a story that needs no servers: what Kafka promises of it, and no more.

Records are appended as lines and read in order; the offset is committed to a file beside it, and a consumer that died
reads on from there. Real services use `kompensate participant`, whose topic is Kafka's.
"""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kompensate.participants.ports import DeadLetter, Leaving, Place, Record
from kompensate.schemas.messages import Command

PLACE = Place("payments.commands", 0)


def send(path: Path, command: Command) -> None:
    """Append a command."""
    headers = [(name, base64.b64encode(value).decode()) for name, value in command.headers() if value is not None]
    line = {"key": command.saga_id, "value": (command.payload or b"").decode(), "headers": headers}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class FileTopic:
    """Reads it, as its only consumer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._committed = path.with_suffix(".offset")
        self._next = int(self._committed.read_text()) if self._committed.exists() else 0

    def open(self, leaving: Leaving) -> None:
        """There is nobody to share it with."""

    def poll(self, records_max: int, timeout: float) -> Sequence[Record]:
        """What there is; looks again until `timeout` seconds are over."""
        until = time.monotonic() + timeout
        while not (found := self._read(records_max)) and time.monotonic() < until:
            time.sleep(min(0.02, timeout))
        return found

    def rest(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def commit(self, offsets: Mapping[Place, int], *, wait: bool) -> None:  # noqa: ARG002  # it is never in the background
        """Keep the offset, whole or not at all."""
        new = self._committed.with_suffix(".new")
        new.write_text(str(offsets[PLACE]))
        new.replace(self._committed)

    def close(self) -> None:
        """Nothing is held."""

    def _read(self, records_max: int) -> list[Record]:
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        found = []
        for offset, line in list(enumerate(lines))[self._next : self._next + records_max]:
            content = json.loads(line)
            headers = [(name, base64.b64decode(value)) for name, value in content["headers"]]
            found.append(Record(PLACE, offset, content["key"].encode(), content["value"].encode(), headers))
        self._next += len(found)
        return found


class FileGrave:
    """Dead letters, a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Append them."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"offset": x.record.offset, "reason": x.reason}) + "\n" for x in letters)

    def close(self) -> None:
        """Nothing is held."""
