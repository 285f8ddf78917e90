"""How far a loop on one database connection has come, and what that cost it and its server process."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Mark:
    """Seconds: by the clock, of this process's CPU, and of the CPU of PostgreSQL's process for its connection."""

    wall: float
    cpu: float
    server: float

    @classmethod
    def now(cls, backend: int) -> "Mark":
        """Now; `backend` is PostgreSQL's process, on this machine."""
        # /proc/PID/stat: the name is in parentheses and may hold blanks; 14 and 15 are utime and stime (man proc).
        fields = Path(f"/proc/{backend}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return cls(time.perf_counter(), time.process_time(), (int(fields[11]) + int(fields[12])) / _TICKS)

    def since(self, before: "Mark", commands: int) -> dict[str, float]:
        """Microseconds a command."""
        return {
            "wall": (self.wall - before.wall) / commands * 1e6,
            "cpu": (self.cpu - before.cpu) / commands * 1e6,
            "server": (self.server - before.server) / commands * 1e6,
        }
