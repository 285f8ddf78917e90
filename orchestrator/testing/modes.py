"""The modes that rerun a test of a saga: what may happen to a saga in production and must not change what it does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mode:
    """What is done to the saga while its test runs."""

    name: str
    does: str
    replays: bool = False
    evicts: bool = False
    crashes: bool = False
    copies: int = 1
    shuffles: bool = False


_ALL = (
    Mode("cached", "nothing: the program stays in memory, messages come in order and once"),
    Mode("always-replay", "the program is thrown away after each input, and replayed for the next", replays=True),
    Mode(
        "evict-after-every-step",
        "the saga is put back to bytes after each input, and decoded for the next",
        evicts=True,
    ),
    Mode(
        "crash-at-every-commit",
        "each input is handled by a worker that dies before its commit, and by one that dies right after it",
        crashes=True,
    ),
    Mode("duplicate-every-message", "each request and reply comes twice", copies=2),
    Mode("reorder", "requests and replies of different services and sagas come in random order", shuffles=True),
)

MODES: dict[str, Mode] = {mode.name: mode for mode in _ALL}
"""Every mode by its name."""


def mode_named(name: str) -> Mode:
    """Raises ValueError naming the modes there are."""
    if name not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {name!r}")
    return MODES[name]
