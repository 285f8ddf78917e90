"""`kompensate lint`: what a saga may not do, found in its source."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from inspect import unwrap
from pathlib import Path

import click

from kompensate.orchestrator.cli.exits import ERROR, leave
from kompensate.orchestrator.cli.options import load_application
from kompensate.orchestrator.cli.output import output_option, print_json, print_jsonl, say
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.linting.linter import Linted, lint_file

CODES = "Exit codes: 0 nothing but hints, 1 something found or a file that is no Python, 2 wrong usage."


@click.command(epilog=CODES)
@click.argument("targets", nargs=-1, metavar="[FILE|MODULE|MODULE:APP]...")
@click.option("--app-dir", default=".", show_default=True, help="Where MODULE is looked for first.")
@output_option("table", "json", "jsonl")
def lint(targets: tuple[str, ...], app_dir: str, output: str) -> None:
    """Find clocks, randomness, environment, files, network, threads and the like in the code of sagas.

    Reads files, directories and modules without running them; MODULE:APP imports the application and takes the
    files of its sagas. Without a target: this directory. What is given to ctx.run is left alone. A line
    with `# kompensate: allow CODE reason` is allowed.

    \b
    Examples:
      kompensate lint
      kompensate lint shop/sagas.py shop.sagas:app -o json
    """
    files = list(dict.fromkeys(file for target in targets or (".",) for file in _files(target, app_dir)))
    linted: list[Linted] = []
    for file in files:
        try:
            linted.append(lint_file(file))
        except (OSError, ValueError) as error:
            leave(ERROR, f"Error: {error}")
    findings = [finding for each in linted for finding in each.findings]
    if output == "table":
        for finding in findings:
            click.echo(str(finding))
    else:
        (print_json if output == "json" else print_jsonl)([asdict(finding) for finding in findings])
    wrong = sum(not finding.hint for finding in findings)
    code = sum(each.entries for each in linted)
    pieces = str(code) if code else "0 (declared steps are data: nothing to look at)"
    say(f"files: {len(files)}, pieces of sagas' code: {pieces}, found: {wrong}, hints: {len(findings) - wrong}")
    if wrong:
        raise SystemExit(ERROR)


def _files(target: str, app_dir: str) -> Iterator[Path]:
    path = Path(target)
    if path.is_dir():
        yield from _below(path)
    elif path.is_file():
        yield path
    elif ":" in target:
        yield from _of_application(load_application(target, app_dir), target.partition(":")[0])
    else:
        yield from _of_module(target, app_dir)


def _below(directory: Path) -> Iterator[Path]:
    """The Python files of a directory; hidden ones and what is installed there are not the user's."""
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(directory).parts
        if not any(part.startswith(".") or part in ("site-packages", "node_modules") for part in parts):
            yield path


def _of_module(name: str, app_dir: str) -> Iterator[Path]:
    directory = str(Path(app_dir).resolve())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise click.UsageError(f"expected a file, a directory, a module or MODULE:APP, got {name!r}")
    for location in spec.submodule_search_locations or ():
        yield from _below(Path(location))
    if not spec.submodule_search_locations:
        yield Path(spec.origin or "")


def _of_application(application: Application, module: str) -> Iterator[Path]:
    """The files that an application's sagas are written in, that of `module` first."""
    yield Path(sys.modules[module].__file__ or "")
    for saga in application.sagas.values():
        holders = [saga, *getattr(saga, "steps", {}).values()]
        for value in [value for holder in holders for value in vars(holder).values()]:
            code = getattr(unwrap(value), "__code__", None) if callable(value) else None
            if code is not None:
                yield Path(code.co_filename)
