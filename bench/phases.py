"""Where a loop's time goes: by phase, each without the phases called from it."""

import json
import time
from collections.abc import Callable
from typing import Any


class Phases:
    """Seconds by the clock and of the thread's CPU, by phase. One thread calls what is watched."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._inner = [(0.0, 0.0)]

    def watch(self, owner: type, method: str, phase: str) -> None:
        """Count the time of a method. Once a batch costs nothing; do not watch what is called for each record."""
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **named: Any) -> Any:
            self._inner.append((0.0, 0.0))
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return inner(*args, **named)
            finally:
                wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
                of_it_wall, of_it_cpu = self._inner.pop()
                self.wall[phase] = self.wall.get(phase, 0.0) + wall - of_it_wall
                self.cpu[phase] = self.cpu.get(phase, 0.0) + cpu - of_it_cpu
                outer_wall, outer_cpu = self._inner[-1]
                self._inner[-1] = outer_wall + wall, outer_cpu + cpu

        setattr(owner, method, timed)

    def clear(self) -> None:
        self.wall.clear()
        self.cpu.clear()

    def line(self) -> str:
        """What was counted, as a line of JSON."""
        return json.dumps({"phases": self.cpu, "waits": self.wall})
