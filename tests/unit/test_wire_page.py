"""docs/guides/wire.md says what the code does: headers, columns, outcomes, cases and samples are the code's own."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kompensate.orchestrator.conformance.cases import CASES
from kompensate.orchestrator.conformance.subject import read
from kompensate.outbox.tables import HEADER_COLUMNS, INBOX
from kompensate.schemas.messages import OUTCOMES, PHASES, Command, Trace

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guides/wire.md").read_text(encoding="utf-8")
SCHEMA = (ROOT / "outbox/schema.sql").read_text(encoding="utf-8")
WHOLE = Command(
    *("id", "a.B", "kompensate:a", "s", "saga", "step", "compensate", 1, "a.replies.b", 0, b""),
    compensates="c",
    expires_at=0,
    trace=Trace("parent", "state"),
)
OF_SOME = {"ce_compensates", "ce_expirytime", "traceparent", "tracestate"}


def rows(title: str) -> Iterator[tuple[str, str]]:
    """The first two cells of each row of the table with this header, the first without its backticks."""
    table = PAGE.split(f"\n| {title} |", 1)[1].split("\n\n", 1)[0]
    for line in table.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        yield cells[0].strip("`"), cells[1]


def columns(table: str) -> list[str]:
    """The columns that schema.sql gives a table."""
    body = SCHEMA.split(f"CREATE TABLE IF NOT EXISTS {table} (", 1)[1].split("\n)", 1)[0]
    found = [line.split()[0] for line in body.splitlines() if line.strip()]
    return [name for name in found if name.islower()]


def test_the_commands_headers() -> None:
    """Every header that is written, in its order, and which are there always."""
    page = list(rows("header"))

    assert [name for name, _ in page] == [name for name, _ in WHOLE.headers()]
    assert {name for name, when in page if when != "always"} == OF_SOME


def test_the_outboxs_columns() -> None:
    """Every column of the table, in its order; those that are headers are there."""
    page = [name for name, _ in rows("column")]

    assert page == columns("outbox")
    assert {column for column, _ in HEADER_COLUMNS} <= set(page)
    renamed = {column: header for column, header in HEADER_COLUMNS if column != header}
    assert renamed == {"type": "ce_type", "content_type": "content-type"}
    assert all(f"header `{header}`" in dict(rows("column"))[column] for column, header in renamed.items())


def test_outcomes_and_phases() -> None:
    """All there are, and no other."""
    assert [name for name, _ in rows("outcome")] == list(OUTCOMES)
    assert dict(rows("header"))["ce_sagaphase"] == "always"
    assert all(f"`{phase}`" in PAGE for phase in PHASES)


def test_the_inboxs_states() -> None:
    """The states that the table allows are those the page speaks of."""
    allowed = re.search(r"CHECK \(state IN \((.*?)\)\)", SCHEMA)
    assert allowed is not None

    said = set(re.findall(r"`(\w+)`", " ".join(known for _, known in rows("what arrives"))))
    assert set(re.findall(r"'(\w+)'", allowed[1])) == said - {"ce_expirytime"}


@pytest.mark.parametrize("statement", re.findall(r"```sql\n(.*?);\n```", PAGE, re.DOTALL))
def test_statements_name_what_is_there(statement: str) -> None:
    """Statements of the page are on the inbox, and name its columns."""
    assert INBOX in statement
    words = set(re.findall(r"\b[a-z_]+\b", re.sub(r"'\w+'", "", statement)))
    assert words - {INBOX} <= set(columns(INBOX)), words


def test_the_cases() -> None:
    """Every case of the kit, in its order."""
    assert [name for name, _ in rows("case")] == [*(case.name for case in CASES), "replies"]


def test_the_samples_read() -> None:
    """The file that the page shows is one."""
    subject = read("payments", PAGE.split("```json\n", 1)[1].split("```", 1)[0])

    assert set(subject.samples) == {"done", "refused", "compensation"}
    assert subject.counter[0] == "psql"


@pytest.mark.parametrize("name", ["java/Payments.java", "go/main.go"])
def test_participants_that_are_small(name: str) -> None:
    """As the page says: less than 200 lines each."""
    assert len((ROOT / "examples/languages" / name).read_text(encoding="utf-8").splitlines()) < 200
