"""The stack of a handler's error, for its dead letter: where it was raised, and in which code.

No values: neither variables nor what exceptions say, which may quote a payload. What the last of them says stands in
the letter's reason, and there only. Lines of source are the author's code.
"""

from pathlib import Path
from traceback import FrameSummary, StackSummary, TracebackException

STACK_CHARACTERS_MAX = 8_000  # beside a record at its limit; the innermost frames are what is looked for
_OURS = str(Path(__file__).parent)


def stack_of(error: BaseException) -> str:
    """The frames of the error and of those that it came from, the innermost last; each with its type."""
    text = "\n".join(_chain(TracebackException.from_exception(error, lookup_lines=True)))
    return text if len(text) <= STACK_CHARACTERS_MAX else "… " + text[2 - STACK_CHARACTERS_MAX :]


def _chain(error: TracebackException) -> list[str]:
    earlier = error.__cause__
    link = "was the cause of"
    if earlier is None and not error.__suppress_context__:
        earlier, link = error.__context__, "was being handled at"
    lines = [] if earlier is None else [*_chain(earlier), link]
    frames = "".join(StackSummary.from_list(_authors(error.stack)).format()).rstrip()
    return [*lines, *([frames] if frames else []), _type(error)]


def _authors(frames: StackSummary) -> list[FrameSummary]:
    """Without ours, by which every handler is called."""
    begin = next((n for n, frame in enumerate(frames) if not frame.filename.startswith(_OURS)), len(frames))
    return list(frames)[begin:]


def _type(error: TracebackException) -> str:
    kind = error.exc_type
    return "" if kind is None else f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
