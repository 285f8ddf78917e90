"""Comments that allow a finding: `# kompensate: allow K01 the reason`, on its line or alone on the line above."""

import re
import tokenize
from dataclasses import dataclass
from io import StringIO

_COMMENT = re.compile(r"#\s*kompensate:\s*allow\b\s*(?P<codes>[A-Z]\d+(?:\s*,\s*[A-Z]\d+)*)?\s*(?P<reason>.*)")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one comment allows on line `line`, where it stands at `column`."""

    line: int
    column: int
    codes: frozenset[str]
    reason: str
    alone: bool


def allowed(source: str) -> list[Allowed]:
    """Every such comment of a file."""
    found = []
    for token in tokenize.generate_tokens(StringIO(source).readline):
        match = _COMMENT.match(token.string) if token.type == tokenize.COMMENT else None
        if match is not None:
            codes = frozenset(re.findall(r"[A-Z]\d+", match["codes"] or ""))
            alone = not token.line[: token.start[1]].strip()
            found.append(Allowed(*token.start, codes, match["reason"].strip(), alone))
    return found


def allows(comments: list[Allowed], code: str, first: int, last: int) -> bool:
    """Does one of them allow `code` for what stands on lines `first` to `last`? Without a reason none does."""
    return any(
        code in comment.codes
        and comment.reason
        and (first <= comment.line <= last or (comment.alone and comment.line == first - 1))
        for comment in comments
    )
