"""One file linted: its findings in the order of their lines, without those that comments allow."""

from dataclasses import dataclass
from pathlib import Path

from kompensate.orchestrator.linting.allowing import allowed, allows
from kompensate.orchestrator.linting.module import Module
from kompensate.orchestrator.linting.rules import RULES
from kompensate.orchestrator.linting.walking import Walk


@dataclass(frozen=True, slots=True)
class Finding:
    """A place where a saga does what a replay would not do the same. Lines and columns begin at 1."""

    file: str
    line: int
    column: int
    code: str
    message: str
    instead: str
    where: str
    hint: bool

    def __str__(self) -> str:
        kind = "hint: " if self.hint else ""
        where = f" [{self.where}]" if self.where else ""
        return f"{self.file}:{self.line}:{self.column}: {self.code} {kind}{self.message}: {self.instead}{where}"


@dataclass(frozen=True, slots=True)
class Linted:
    """What was found in one file, and in how many pieces of sagas' code."""

    entries: int
    findings: list[Finding]


def lint_file(path: Path, shown: str | None = None) -> Linted:
    """Lint one file. Raises OSError, and ValueError naming the place for what is no Python."""
    file = shown or str(path)
    try:
        return lint_source(path.read_text(encoding="utf-8"), file)
    except SyntaxError as error:
        raise ValueError(f"{file}:{error.lineno or 1}: expected Python, got {error.msg}") from error


def lint_source(source: str, file: str) -> Linted:
    """Lint a file's text. Raises SyntaxError."""
    module = Module(source, file)
    comments = allowed(source)
    walk = Walk(module)
    findings = []
    for found in walk.found:
        node = found.node
        if not allows(comments, found.code, node.lineno, node.end_lineno or node.lineno):
            findings.append(_finding(file, node.lineno, node.col_offset, found.code, found.name, found.where))
    for comment in comments:
        unknown = sorted(comment.codes - RULES.keys())
        if not comment.reason or not comment.codes or unknown:
            name = f"a comment with {', '.join(unknown)}, which is no rule," if unknown else "a comment"
            findings.append(_finding(file, comment.line, comment.column, "K00", name, ""))
    return Linted(walk.entries, sorted(set(findings), key=lambda f: (f.line, f.column, f.code)))


def _finding(file: str, line: int, column: int, code: str, name: str, where: str) -> Finding:
    rule = RULES[code]
    return Finding(file, line, column + 1, code, f"{name} {rule.says}", rule.instead, where, rule.hint)
