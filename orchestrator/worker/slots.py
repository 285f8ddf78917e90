"""A worker's slot: its place among the application's workers, from which its transactional ids are named.

A restart in the same slot ends what its former life left open, at once. On one machine a lock file sees to it
that no two workers share a slot; the system lets go of it when its process dies, however it dies.
"""

import fcntl
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import IO

from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.settings import Settings

SLOTS_MAX = 256
"""Workers of one application on one machine."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Slot:
    """A slot that is ours until it is released."""

    def __init__(self, name: str, file: IO[str]) -> None:
        self.name = name
        self._file = file

    def release(self) -> None:
        self._file.close()


def claim_slot(group: str, settings: Settings) -> Slot:
    """The slot that `settings` names, else the first free one of this host. Raises Fatal."""
    directory = settings.slot_directory or Path(tempfile.gettempdir()) / f"kompensate-{os.getuid()}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.slot is not None:
        if not NAME.match(settings.slot):
            raise Fatal(f"slot: expected 1 to 64 of A-Z a-z 0-9 _ -, got {settings.slot!r}")
        slot = _claim(directory, group, settings.slot)
        if slot is None:
            raise Fatal(
                f"slot {settings.slot}: another worker of {group} on this machine has it; choose another --slot"
            )
        return slot
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:48] or "host"
    for number in range(SLOTS_MAX):
        slot = _claim(directory, group, f"{host}-{number}")
        if slot is not None:
            return slot
    raise Fatal(f"slots {host}-0 to {host}-{SLOTS_MAX - 1} of {group} are all taken on this machine")


def _claim(directory: Path, group: str, name: str) -> Slot | None:
    file = (directory / f"{group}.{name}.lock").open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return Slot(name, file)
