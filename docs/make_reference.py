"""Makes `docs/reference/*.md` from the code: the state machines' tables and diagrams, and the schemas.

Run `python docs/make_reference.py` after a change of `kernel/tables.py` or a schema, and commit what it wrote;
a test fails as long as the files are not what this makes.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from kompensate.orchestrator.kernel import events, tables
from kompensate.schemas import codec

REFERENCE = Path(__file__).parent / "reference"
MADE = "<!-- Made by docs/make_reference.py: change the code and run it again. -->"

Table = Mapping[tuple[Any, type], StrEnum]


def states_page() -> str:
    """The two state machines: a diagram and the whole table of each."""
    lines = [
        "# States",
        "",
        MADE,
        "",
        "A saga's status and a call's status change only by events, and only as these tables say: they are",
        "`orchestrator/kernel/tables.py`, which the code runs on. What is not in a table is illegal: it raises, and",
        "the state stays as it was. Diagrams leave out the events that lead from a status to itself.",
        "",
        "## A saga",
        "",
        *_diagram(tables.SAGA, tables.ENDS),
        "",
        "| status | |",
        "|---|---|",
        *[f"| {status} | {_status_text(status)} |" for status in tables.Status],
        "",
        *_table(tables.SAGA),
        "",
        "Beside the status stands the hold, a mark that loses nothing when it is released: "
        + " or ".join(f"*{hold}*" for hold in tables.Hold)
        + ".",
        "A held saga keeps what arrives and sends nothing.",
        "",
        "## A call",
        "",
        *_diagram(tables.CALL, frozenset()),
        "",
        *_table(tables.CALL),
        "",
    ]
    return "\n".join(lines)


def _status_text(status: tables.Status) -> str:
    return {
        tables.Status.PENDING: "signals came before the start, or the start is delayed",
        tables.Status.CONTINUED: "an end of the run only: it goes on as a new run with an empty history",
        tables.Status.RUNNING: "going forward",
        tables.Status.COMPENSATING: "going back: what was done or is in doubt is undone, the last completed first",
        tables.Status.COMPLETED: "an end: the program returned and every command was answered",
        tables.Status.COMPENSATED: "an end: a step did not succeed, all is undone",
        tables.Status.CANCELLED: "an end: it was asked for, all is undone",
        tables.Status.FAILED: "an end: the program raised FailSaga, all is undone",
    }[status]


def _diagram(table: Table, ends: frozenset[Any]) -> list[str]:
    moves: dict[tuple[str, str], list[str]] = {}
    for (status, kind), to in table.items():
        if status != to:
            moves.setdefault((str(status or "[*]"), str(to)), []).append(kind.__name__)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    {a} --> {b}: {', '.join(kinds)}" for (a, b), kinds in moves.items()]
    lines += [f"    {end} --> [*]" for end in sorted(ends)]
    return [*lines, "```"]


def _table(table: Table) -> list[str]:
    order = {kind: n for n, kind in enumerate(events.EVENTS)}
    statuses = list(dict.fromkeys(status for status, _ in table))
    rows = sorted(table.items(), key=lambda row: (statuses.index(row[0][0]), order[row[0][1]]))
    return [
        "| status | event | next status |",
        "|---|---|---|",
        *[f"| {status or '(none yet)'} | {kind.__name__} | {to} |" for (status, kind), to in rows],
    ]


def events_page() -> str:
    """Every kind of event, and the records that hold them, field by field."""
    page = codec.raw_schema(codec.PAGE)
    input_ = page["fields"][-1]["type"]["items"]
    kinds = input_["fields"][-1]["type"]["items"]
    lines = [
        "# Events and records",
        "",
        MADE,
        "",
        "The values of the state topic, as `schemas/*.avsc` have them: a zero byte, the schema's id in four bytes, and",
        "the Avro body. The number before an event is its place in the union, which is what stands on the wire: new",
        "kinds are added at the end.",
        "",
        "## Events",
        "",
    ]
    shown: set[str] = set()
    for n, schema in enumerate(kinds):
        lines += _record(f"### {n} {schema['name']}", schema, shown)
    lines += ["## Records", ""]
    for id_, file in codec.FILES.items():
        schema = codec.raw_schema(id_)
        lines += _record(f"### {schema['name']} (schema {id_}, `{file}`)", schema, shown)
    lines += _record("### Input", input_, shown)
    return "\n".join(lines)


def _record(heading: str, schema: Any, shown: set[str]) -> list[str]:
    lines = [heading, "", schema["doc"], ""]
    if not schema["fields"]:
        return lines
    lines += ["| field | type | |", "|---|---|---|"]
    inner = []
    for field in schema["fields"]:
        lines.append(f"| {field['name']} | {_type(field['type'])} | {field['doc']} |")
        type_ = field["type"]
        if isinstance(type_, dict) and type_["type"] == "record" and type_["name"] not in shown:
            shown.add(type_["name"])
            inner += _record(f"#### {type_['name']}", type_, shown)
    return [*lines, "", *inner]


def _type(type_: Any) -> str:
    if isinstance(type_, list):
        return " or ".join(_type(branch) for branch in type_)
    if isinstance(type_, str):
        return type_
    match type_["type"]:
        case "array":
            items = type_["items"]
            return f"array of {'events' if isinstance(items, list) else _type(items)}"
        case "map":
            return f"map of {_type(type_['values'])}"
        case "fixed":
            return f"{type_['name']}: {type_['size']} bytes"
    return str(type_["name"])


def pages() -> dict[Path, str]:
    """Every page that is made, by its file."""
    return {REFERENCE / "states.md": states_page(), REFERENCE / "events.md": events_page()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
