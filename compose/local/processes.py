"""Server processes that outlive their starter, found again by pid and start time.

A pid alone is not an identity: after a reboot or a long while it is somebody else's. Together with the
time the kernel started it, it is; so a stale record never stops a stranger.
"""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from kompensate.compose.local.errors import StackError

POLL_SECONDS = 0.05
LOG_TAIL_LINES = 12

# Children of this interpreter, kept so that they can be reaped: an unreaped one looks alive.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one server."""

    argv: tuple[str, ...]
    log: Path  # receives standard output and error, appended
    environment: dict[str, str]
    user: str | None = None  # run as this user; None: as ours


@dataclass(frozen=True, slots=True)
class Running:
    """A started server: its pid and the time it was started, in the kernel's own words."""

    pid: int
    started: str


def start(launch: Launch) -> Running:
    """Start a server in a session of its own, so that Ctrl-C at our terminal is not sent to it."""
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    with launch.log.open("ab") as log:
        child = subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=launch.environment,
            start_new_session=True,
            **as_user(launch.user),
        )
    _children[child.pid] = child
    return Running(child.pid, _started(child.pid) or "")


class AsUser(TypedDict, total=False):
    """Arguments of Popen that name who runs a process."""

    user: str
    group: int
    extra_groups: Sequence[int]
    cwd: str


def as_user(user: str | None) -> AsUser:
    """Arguments of Popen that run a process as `user` with nothing of root's left."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": (), "cwd": "/"}


def alive(running: Running) -> bool:
    """Whether that very process still runs."""
    child = _children.get(running.pid)
    if child is not None and child.poll() is not None:
        del _children[running.pid]
        return False
    return bool(running.started) and _started(running.pid) == running.started


def _started(pid: int) -> str | None:
    """When the kernel started `pid`, or None where it does not run (a zombie does not)."""
    try:
        # proc(5): the name in parentheses may hold anything, so count the fields from its end.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        listed = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607 (POSIX: ps is on the path)
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split(maxsplit=1)
        return None if len(listed) < 2 or listed[0].startswith("Z") else listed[1].strip()
    # The first thread of a killed process is a zombie while the others, and the open ports, still go away.
    gone = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if gone else fields[19]


def stop(running: Running, stop_signal: int, deadline_seconds: float) -> None:
    """Ask the process to end, insist after the deadline; returns when it is gone."""
    for number, seconds in ((stop_signal, deadline_seconds), (signal.SIGKILL, deadline_seconds)):
        if not alive(running):
            return
        with contextlib.suppress(ProcessLookupError):
            # Insisting takes its helpers along; asked in order, it ends them itself.
            (os.killpg if number == signal.SIGKILL else os.kill)(running.pid, number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not alive(running):
                return
            time.sleep(POLL_SECONDS)
    raise StackError(f"process {running.pid} did not end within {deadline_seconds:g} s of SIGKILL")


def tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log, indented for an error's text."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (empty log)"


def becomes_free(port: int, grace_seconds: float) -> bool:
    """Whether the port is free, or will be once a server that has just ended has let go of it."""
    until = time.monotonic() + grace_seconds
    while not port_is_free(port):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def port_answers(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
