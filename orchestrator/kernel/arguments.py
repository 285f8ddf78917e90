"""What an author hands to the context's verbs, checked and made what the kernel wants."""

from kompensate.orchestrator.kernel.policy import LOCAL_POLICIES, MS_MAX
from kompensate.orchestrator.kernel.tables import KINDS

SECONDS_MAX = MS_MAX // 1000
PRIORITY_MAX = 1_000_000
"""Of either sign: more than anybody tells apart."""
KEY_CHARS_MAX = 200
"""Of an ordering key: as long as a saga's id, in whose place it stands."""


def check_priority(where: str, priority: object, limit: str) -> None:
    """Raise ValueError unless it is one, and there is a limit that it counts under."""
    if type(priority) is not int or abs(priority) > PRIORITY_MAX:
        raise ValueError(f"{where}: expected a whole number up to {PRIORITY_MAX} as priority, got {priority!r}")
    if not limit:
        raise ValueError(f"{where}: expected a limit with the priority {priority}: it says who goes first under one")


def check_limit(where: str, limit: str, priority: object, limits: tuple[str, ...], *, answered: bool = True) -> None:
    """Raise ValueError unless it is one of `limits`, and what is under it is `answered`."""
    if limit and limit not in limits:
        raise ValueError(f"{where}: expected a limit of this application ({', '.join(limits)}), got {limit!r}")
    if limit and not answered:
        raise ValueError(f"{where}: expected no limit where nobody waits for an answer, got {limit!r}")
    if priority != 0 or type(priority) is not int:
        check_priority(where, priority, limit)


def note_key(keys: dict[int, str], number: int, where: str, key: object) -> None:
    """Keep the key of the call of that number, if it has one. Raises ValueError for what is no record's key."""
    if key is None:
        return
    if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARS_MAX:
        raise ValueError(f"{where}: expected a text of 1 to {KEY_CHARS_MAX} characters as key, got {key!r}")
    keys[number] = key


def check_local(kind: str, functions: dict[str, object], once: bool) -> None:
    """Raise ValueError, or TypeError for what is no function; `functions` by what they are for."""
    if kind not in LOCAL_POLICIES:
        raise ValueError(f"run: expected a kind of {tuple(LOCAL_POLICIES)}, got {kind!r}")
    for role, given in functions.items():
        if given is not None and not callable(given):
            raise TypeError(f"run: expected a function as {role}, got {type(given).__name__}")
    if functions["reconcile"] is not None and not once:
        raise ValueError("run: expected reconcile only with at_most_once: other steps are run again")


def ms_of(verb: str, seconds: float) -> int:
    if not 0 <= seconds <= SECONDS_MAX:
        raise ValueError(f"{verb}: expected 0 to {SECONDS_MAX} seconds (100 years), got {seconds}")
    return round(seconds * 1000)


def check_kind(kind: str, undo: object | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")
    if undo is not None and kind != "compensatable":
        got = getattr(undo, "__name__", type(undo).__name__)
        raise ValueError(f"a {kind} step is never undone, got undo {got}")
