"""What the stack needs to know of each server; kafka, postgres and connect are the three."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kompensate.compose.local.java import Jit
from kompensate.compose.local.processes import Launch

TEMPLATES = Path(__file__).parent.parent  # compose/: the configuration files that compose.yaml mounts too


@dataclass(frozen=True, slots=True)
class Home:
    """What a server finds on this machine: the stack's `.kompensate`, ports by name, the one password."""

    folder: Path
    ports: Mapping[str, int]
    password: str
    mirror: str | None = None  # Maven repository to fetch jars from
    jit: Jit = "quick"

    def log(self, service: str) -> Path:
        """Where the server's output goes."""
        return self.folder / "logs" / f"{service}.log"


class Service(Protocol):
    """One server."""

    @property
    def name(self) -> str:
        """Word used on the command line."""

    @property
    def port_names(self) -> tuple[str, ...]:
        """Ports it listens on; the first is the one people connect to."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Servers that must run for it to run."""

    @property
    def stop_signal(self) -> int:
        """Asks it to end in order, at once."""

    def fetch(self, home: Home) -> None:
        """Have on this machine what it runs from. Called before every start, one server after the other."""

    def prepare(self, home: Home) -> Launch:
        """Make folders and files ready, and say how to start. Called after `fetch`, beside other servers'."""

    def answers(self, home: Home) -> bool:
        """Whether it does what clients want of it; never raises for a server that is not there yet."""

    def forget(self, home: Home) -> None:
        """Remove the data."""
