"""What a stack remembers between commands: `.kompensate/state.json`, and the lock that lets one change it."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kompensate.compose.local.errors import StackError
from kompensate.compose.local.processes import Running


@dataclass(slots=True)
class State:
    """Ports and processes by name, and the password that PostgreSQL was made with."""

    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Running] = field(default_factory=dict)


def load(folder: Path) -> State | None:
    """The state kept in `folder`; None where no stack was ever started. Raises StackError if unreadable."""
    path = folder / "state.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        processes = {name: Running(**each) for name, each in content["processes"].items()}
        return State(content["password"], content["ports"], processes)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(
            f"{path}: expected a stack's state, got {type(error).__name__}: {error}. End its servers "
            f"by hand, then remove {folder} to begin anew."
        ) from error


def save(folder: Path, state: State) -> None:
    """Replace the state in one step. Readable by its owner only: it holds the password."""
    path, fresh = folder / "state.json", folder / "state.json.new"
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(state), file, indent=1)
    fresh.replace(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other command changes this stack; the kernel frees the lock of one that died."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
