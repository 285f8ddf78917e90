"""How relays stand: for an orchestrator of processes as JSON, for Prometheus as text. Pure; `main` asks and serves."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kompensate.outbox.pgoutput import EPOCH_SECONDS

State: TypeAlias = Literal["connecting", "standby", "publishing", "streaming", "stopped", "halted"]

STALL_SECONDS = 60.0
"""A relay that has not come round for so long hangs: its loop waits for nothing longer than a second."""


@dataclass(frozen=True, slots=True)
class RelayHealth:
    """`live`: the loop turns. `ready`: it reads its slot, or stands by for who does."""

    live: bool
    ready: bool
    state: State
    rows: int
    """Rows that Kafka was given, those after a crash once more, since the process began."""
    dead: int
    """Rows put on the dead-letter topic since then."""
    failure: str | None = None
    oldest: int | None = None
    """Commit time, by the database's clock in microseconds since 2000, of the oldest transaction that was read and of
    which Kafka lacks a row."""

    @classmethod
    def of(
        cls, state: State, *, turned: float, rows: int, dead: int, failure: str | None, oldest: int | None
    ) -> "RelayHealth":
        """`turned`: seconds since the loop came round; it does while it connects or stands by."""
        return cls(
            live=turned < STALL_SECONDS or state in ("connecting", "standby", "halted", "stopped"),
            ready=(turned < STALL_SECONDS and state == "streaming") or state == "standby",
            state=state,
            rows=rows,
            dead=dead,
            failure=failure,
            oldest=oldest,
        )


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """All relays of a process, by their databases. A halted one is not ready; to start it again would not help."""

    live: bool
    ready: bool
    relays: dict[str, RelayHealth]

    @classmethod
    def of(cls, relays: dict[str, RelayHealth]) -> "ProcessHealth":
        return cls(all(one.live for one in relays.values()), all(one.ready for one in relays.values()), relays)


@dataclass(frozen=True, slots=True)
class SlotStanding:
    """A slot as the server sees it now. `clock` is the server's, in seconds of Unix time."""

    clock: float
    active: bool
    lost: bool
    behind_bytes: int
    """Log that its reader has not confirmed."""
    kept_bytes: int
    """Log that the server keeps for it."""
    safe_bytes: int | None
    """So much more may be written before the slot is lost; None: without limit."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One relay, as `metrics` shows it. `slot` is None where the database does not answer or has none."""

    database: str
    slot_name: str
    health: RelayHealth
    slot: SlotStanding | None


_STATES: tuple[State, ...] = ("connecting", "standby", "publishing", "streaming", "stopped", "halted")


def metrics(observed: Iterable[Observed]) -> str:
    """All relays of a process in Prometheus' text format."""
    families: dict[tuple[str, str, str], list[str]] = {}
    for one in observed:
        for family, extra, value in _of_relay(one.health):
            families.setdefault(family, []).append(_line(family[0], one, extra, value))
        if one.slot is not None:
            for family, value in _of_slot(one.slot, one.health):
                families.setdefault(family, []).append(_line(family[0], one, "", value))
    lines = []
    for (name, kind, help_), samples in families.items():
        lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}", *samples]
    return "\n".join(lines) + "\n"


_RELAY, _SLOT = "kompensate_relay", "kompensate_relay_slot"
_STATE = (f"{_RELAY}_state", "gauge", "1 for the state that the relay is in.")
_ROWS = (f"{_RELAY}_rows_total", "counter", "Outbox rows handed to Kafka by this process.")
_DEAD = (f"{_RELAY}_dead_letters_total", "counter", "Outbox rows put on the dead-letter topic by this process.")
_SECONDS = (f"{_RELAY}_lag_seconds", "gauge", "Age of the oldest commit that was read and of which Kafka lacks a row.")
_BEHIND = (f"{_RELAY}_lag_bytes", "gauge", "Log that the slot's reader has not confirmed.")
_KEPT = (f"{_SLOT}_kept_bytes", "gauge", "Log that the server keeps for the slot.")
_SAFE = (f"{_SLOT}_safe_bytes", "gauge", "Log that may be written before the slot is lost; absent without a limit.")
_ACTIVE = (f"{_SLOT}_active", "gauge", "Whether any relay reads the slot.")
_LOST = (f"{_SLOT}_lost", "gauge", "Whether the server gave the slot up: a resync is needed.")


def _of_relay(health: RelayHealth) -> Iterator[tuple[tuple[str, str, str], str, float]]:
    for state in _STATES:
        yield _STATE, f',state="{state}"', state == health.state
    yield _ROWS, "", health.rows
    yield _DEAD, "", health.dead


def _of_slot(slot: SlotStanding, health: RelayHealth) -> Iterator[tuple[tuple[str, str, str], float]]:
    if health.state in ("publishing", "streaming"):
        age = 0.0 if health.oldest is None else slot.clock - (health.oldest / 1_000_000 + EPOCH_SECONDS)
        yield _SECONDS, round(max(age, 0.0), 3)
    yield _BEHIND, slot.behind_bytes
    yield _KEPT, slot.kept_bytes
    if slot.safe_bytes is not None:
        yield _SAFE, slot.safe_bytes
    yield _ACTIVE, slot.active
    yield _LOST, slot.lost


def _line(name: str, one: Observed, extra: str, value: float) -> str:
    return f'{name}{{database="{_quoted(one.database)}",slot="{_quoted(one.slot_name)}"{extra}}} {float(value):.15g}'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
