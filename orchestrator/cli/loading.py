"""The modules that `kompensate dev light` is given: files, modules or objects of them, and what is found there."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import click

from kompensate.orchestrator.cli.exits import ERROR, leave
from kompensate.orchestrator.definitions.application import Application
from kompensate.participants.participant import Participant

PREPARE = "light_setup"


@dataclass
class Found:
    """What the modules have. `prepare` are their functions named light_setup."""

    application: Application
    participants: list[Participant] = field(default_factory=list)
    prepare: list[Callable[[str, Any], object]] = field(default_factory=list)


def find(targets: Sequence[str], app_dir: str) -> Found:
    """Import the targets and look through them. Raises click.UsageError; the author's own errors end the program."""
    directory = str(Path(app_dir).resolve())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    chosen: list[object] = []
    modules = []
    for target in targets:
        module, name = _imported(target)
        modules.append(module)
        if name:
            if not hasattr(module, name):
                raise click.UsageError(f"expected {name!r} in {target}, got nothing of that name")
            chosen.append(getattr(module, name))
    everything = [*chosen, *(value for module in modules for value in vars(module).values())]
    # One object may be in several modules: the one that made it, and those that import it.
    participants = {id(value): value for value in everything if isinstance(value, Participant)}
    prepare = {id(f): f for module in modules if callable(f := getattr(module, PREPARE, None))}
    named: dict[str, Participant] = {}
    for participant in participants.values():
        if named.setdefault(participant.name, participant) is not participant:
            raise click.UsageError(f"expected one participant named {participant.name!r}, got two")
    return Found(_application(chosen, everything, targets), list(named.values()), list(prepare.values()))


def _application(chosen: Sequence[object], everything: Sequence[object], targets: Sequence[str]) -> Application:
    for values in (chosen, everything):
        found = {id(value): value for value in values if isinstance(value, Application)}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            names = ", ".join(repr(each.name) for each in found.values())
            raise click.UsageError(f"expected one Application, got {names}: name it, as in {targets[0]}:app")
    raise click.UsageError(f"expected an Application in {', '.join(targets)}, got none")


def _imported(target: str) -> tuple[ModuleType, str]:
    """The module of PATH.py, MODULE or either with :OBJECT, and OBJECT."""
    place, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    try:
        return (_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)), name
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            _show(error)
        raise click.UsageError(f"expected module {place} on the path, or a file ending in .py, got {error}") from error
    except click.UsageError:
        raise
    except Exception as error:  # whatever the author's module raises
        _show(error)


def _file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise click.UsageError(f"expected a file, got {path}")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # what it imports lies beside it
    known = sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path:
            return known
        raise click.UsageError(f"{path}: expected a name that no other module has, got {path.stem!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _show(error: BaseException) -> NoReturn:
    """Print it from the author's first line on, and exit."""
    trace = error.__traceback__
    while trace is not None and _not_the_authors(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    leave(ERROR, "".join(traceback.format_exception(type(error), error, trace)).rstrip())


def _not_the_authors(filename: str) -> bool:
    return filename == __file__ or "importlib" in filename
