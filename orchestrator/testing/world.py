"""Another world for the double run: what a saga reads of clocks, randomness and the environment is not what it was.

Only sagas are told otherwise: whoever else asks (a library, another thread, the test runner) gets what is true. Each
read by a saga is noted with the author's line, and so is each line that asks for an operation.

What modules imported by name (`from time import time`) is replaced in the modules that are not installed packages:
the author's.
"""

import builtins
import datetime as dt
import errno
import io
import os
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack
from functools import partial
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

from kompensate.orchestrator.kernel.context import Context
from kompensate.orchestrator.kernel.operation import Operation

MOVED_SECONDS = 1_000 * 86_400 + 12_345
"""How much later it is: other than any sensible time-out, in another year, month, week day, hour and minute."""
MOVES_SECONDS = 977
"""How much later still with each transaction: two reads in one saga differ by another time than they did."""
ELSEWHERE = "another environment than the first run's"
_INSTALLED = ("site-packages", "dist-packages")

_ABOUT_CODE = frozenset({"logging", "traceback", "linecache", "warnings", "importlib", "_frozen_importlib"})
"""What these read on the way is not what the saga reads."""

_CLOCKS = {
    "time": 1,
    "monotonic": 1,
    "perf_counter": 1,
    "time_ns": 10**9,
    "monotonic_ns": 10**9,
    "perf_counter_ns": 10**9,
}
_DRAWS = {
    random: (
        "random",
        "uniform",
        "randint",
        "randrange",
        "choice",
        "choices",
        "shuffle",
        "sample",
        "getrandbits",
        "gauss",
    ),
    uuid: ("uuid1", "uuid4", "uuid6", "uuid7"),
    secrets: ("token_hex", "token_bytes", "token_urlsafe", "choice", "randbelow"),
    os: ("urandom",),
}


class OtherWorld:
    """A context in which sagas read other values.

    `reads` are (what, file:line); `asked` are the lines that asked for operations, by saga id and number.
    """

    def __init__(self) -> None:
        self.reads: list[tuple[str, str]] = []
        self.asked: dict[tuple[str, int], str] = {}
        self._moved = float(MOVED_SECONDS)
        self._drawing = False
        self._random = random.Random(MOVED_SECONDS)  # noqa: S311  # not a secret
        self._undo = ExitStack()

    def moves_on(self) -> None:
        """The next transaction: it is later again."""
        self._moved += MOVES_SECONDS

    def __enter__(self) -> "OtherWorld":
        with ExitStack() as undo:
            by_identity: dict[int, Any] = {}
            for module, name, other in self._others():
                by_identity[id(getattr(module, name))] = other
                _replace(undo, module, name, other)
            for module in _authors_modules():
                for name, value in list(vars(module).items()):
                    if id(value) in by_identity:
                        _replace(undo, module, name, by_identity[id(value)])
            for kind in Context.__mro__[:-1]:
                for name, verb in list(vars(kind).items()):
                    if isinstance(verb, FunctionType) and not name.startswith("_"):
                        _replace(undo, kind, name, self._noting(verb))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def read(self, what: str) -> bool:
        """Is it a saga that reads this? Then it is noted."""
        line = None if self._drawing else _sagas_line()
        if line is not None and (what, line) not in self.reads:
            self.reads.append((what, line))
        return line is not None

    def _others(self) -> Iterator[tuple[Any, str, Any]]:
        """What is replaced: (module, name, by what)."""
        for name, unit in _CLOCKS.items():
            yield time, name, self._clock(getattr(time, name), f"time.{name}", unit)
        for name in ("localtime", "gmtime"):
            yield time, name, self._broken_down(getattr(time, name), f"time.{name}")
        for module, names in _DRAWS.items():
            for name in filter(partial(hasattr, module), names):
                other = getattr(self._random, name) if module is random else getattr(module, name)
                yield module, name, self._draw(getattr(module, name), other, f"{module.__name__}.{name}")
        yield os, "environ", _Environment(os.environ, self)
        for module in (builtins, io):
            yield module, "open", self._no_file(open)
        yield dt, "datetime", self._datetime()
        yield dt, "date", self._date()

    def _clock(self, real: Callable[[], Any], what: str, unit: int) -> Callable[[], Any]:
        def moved() -> Any:
            return real() + type(real())(self._moved * unit) if self.read(what) else real()

        return moved

    def _broken_down(self, real: Callable[..., Any], what: str) -> Callable[..., Any]:
        def moved(seconds: float | None = None) -> Any:
            if seconds is not None or not self.read(what):
                return real(seconds)
            return real(self._truly(time.time) + self._moved)

        return moved

    def _draw(self, real: Callable[..., Any], other: Callable[..., Any], what: str) -> Callable[..., Any]:
        def drawn(*args: Any, **named: Any) -> Any:
            if not self.read(what):
                return real(*args, **named)
            return self._truly(other, *args, **named)

        return drawn

    def _no_file(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, *args: Any, **named: Any) -> Any:
            if self.read(f"file {file}"):
                raise FileNotFoundError(errno.ENOENT, "sagas read no files: another worker may not have it", file)
            return real(file, *args, **named)

        return opened

    def _datetime(self) -> type:
        real = dt.datetime

        def now(_: type, tz: dt.tzinfo | None = None) -> Any:
            return self._later(partial(real.now, tz), "datetime.now")

        def utcnow(_: type) -> Any:
            return self._later(lambda: real.now(dt.UTC).replace(tzinfo=None), "datetime.utcnow")

        def today(_: type) -> Any:
            return self._later(real.now, "datetime.today")

        return _stand_in(real, now=now, utcnow=utcnow, today=today)

    def _date(self) -> type:
        real = dt.date

        def today(_: type) -> Any:
            return self._later(real.today, "date.today")

        return _stand_in(real, today=today)

    def _later(self, real: Callable[[], Any], what: str) -> Any:
        return self._truly(real) + dt.timedelta(seconds=self._moved) if self.read(what) else real()

    def _truly(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call it with the true world beneath: what it reads in turn was not the saga's idea."""
        self._drawing = True
        try:
            return function(*args, **named)
        finally:
            self._drawing = False

    def _noting(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        def noting(context: Context, *args: Any, **named: Any) -> Any:
            found = verb(context, *args, **named)
            if isinstance(found, Operation):
                line = _sagas_line()
                if line is not None:
                    self.asked[context.saga_id, found.number] = line
            return found

        return noting


class _Environment(MutableMapping[str, str]):
    """`os.environ`; for a saga every variable has a value that it had not."""

    def __init__(self, real: MutableMapping[str, str], world: OtherWorld) -> None:
        self._real, self._world = real, world

    def __getitem__(self, name: str) -> str:
        return ELSEWHERE if self._world.read(f"os.environ[{name!r}]") else self._real[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._real[name] = value

    def __delitem__(self, name: str) -> None:
        del self._real[name]

    def __iter__(self) -> Iterator[str]:
        return iter(()) if self._world.read("os.environ") else iter(self._real)

    def __len__(self) -> int:
        return len(self._real)

    def copy(self) -> dict[str, str]:
        return dict(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _replace(undo: ExitStack, owner: ModuleType | type, name: str, other: Any) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, other)


def _stand_in(real: type, **others: Callable[..., Any]) -> type:
    """A class like `real`, but for these class methods. Its values are plain ones, and plain ones are its instances."""

    class AsIf(type(real)):  # type: ignore[misc]  # the metaclass of what is there
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, real)

    def new(_: type, *args: Any, **named: Any) -> Any:
        return real(*args, **named)

    methods = {name: classmethod(other) for name, other in others.items()}
    made: type = AsIf(real.__name__, (real,), {"__new__": new, **methods})
    return made


def _sagas_line() -> str | None:
    """The author's innermost line, if it is a saga's program that led here; None where it is anybody else."""
    frame: FrameType | None = sys._getframe(2)
    own, any_line = None, None
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        top = name.partition(".")[0]
        if name == "kompensate.orchestrator.kernel.program":
            return own or any_line
        if top in _ABOUT_CODE:
            return None
        if top != "kompensate" and top not in sys.stdlib_module_names:
            line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            any_line = any_line or line
            if own is None and not any(part in frame.f_code.co_filename for part in _INSTALLED):
                own = line
        frame = frame.f_back
    return None


def _authors_modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        if top == "kompensate" or top in sys.stdlib_module_names or not isinstance(module, ModuleType):
            continue
        file = module.__dict__.get("__file__")
        if file is not None and not any(part in file for part in _INSTALLED):
            yield module
