"""Processes that a driver starts, kills and starts again, each with its log: `kompensate`, or a program of ours."""

import os
import signal
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 20.0
TAIL_LINES = 15
ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sysconfig.get_path("scripts")) / "kompensate")


class ChildEnded(RuntimeError):
    """A process ended that nobody told to; the text has the end of its log."""


class Child:
    """One process: `kompensate` with these `arguments`, or another `program`."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        logs: Path,
        environment: Mapping[str, str],
        *,
        program: Sequence[str] = (COMMAND,),
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._program = (*program, *arguments)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started, and neither killed nor stopped since."""
        return self._process is not None

    def start(self, *more: str, **environment: str) -> None:
        """Start it, in a session of its own: Ctrl-C at our terminal is ours to handle.

        `more` arguments and `environment` are for this life only.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                (*self._program, *more),
                cwd=ROOT,
                env={**os.environ, **self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """Its exit status (negative for a signal) if it has ended by itself; told once."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._process = None
        return code

    def check(self) -> None:
        """Raise ChildEnded where it should run and does not."""
        if (code := self.ended()) is not None:
            raise ChildEnded(f"{self.name} ended with status {code}. The end of {self.log}:\n{self.tail()}")

    def kill(self) -> None:
        """kill -9; returns when it is dead."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> bool:
        """SIGTERM, and wait. False where it had to be killed after STOP_SECONDS."""
        self.ask_to_stop()
        if self._process is None:
            return True
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self._process = None
        return True

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a `kompensate` command to its end, and return what it printed. Raises ChildEnded."""
    done = subprocess.run(
        (COMMAND, *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildEnded(f"kompensate {' '.join(arguments)} ended with status {done.returncode}:\n{done.stderr}")
    return done.stdout
