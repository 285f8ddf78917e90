"""The demo's kills: a service, a worker and the relay die with -9 in the middle of the work, and come back."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from examples.checkout.load import Load
from examples.checkout.shop import Shop


@dataclass(slots=True)
class _Kill:
    """`name` dies when `at` of all orders have ended; `down_seconds` None: until its work was taken over."""

    name: str
    at: float
    down_seconds: float | None
    killed_at: float | None = None


class Kills:
    """Kills by progress. `takeover_seconds` is how long the killed worker's partitions stood still."""

    def __init__(
        self, shop: Shop, load: Load, orders: int, say: Callable[[str], None], *, payments: bool = False
    ) -> None:
        """`payments`: that service dies, too."""
        self.done: list[str] = []
        self.takeover_seconds: float | None = None
        self._shop = shop
        self._load = load
        self._orders = orders
        self._say = say
        self._orphaned: set[int] = set()
        self._plan = [
            # Orders beyond their pivot wait for this one: only inventory can confirm them.
            _Kill("inventory", 0.2, 2.0),
            *([_Kill("payments", 0.35, 1.0)] if payments else []),
            _Kill("worker-1", 0.45, None),
            _Kill("relay", 0.75, 1.0),
        ]

    def tick(self) -> None:
        """Kill or start again what is due. One is down at a time."""
        if not self._plan:
            return
        kill = self._plan[0]
        if kill.killed_at is None:
            if self._load.ended >= kill.at * self._orders:
                self._kill(kill)
        elif self._over(kill, kill.killed_at):
            self._revive(kill)
            self._plan.pop(0)

    def finish(self) -> None:
        """All orders have ended: start again what is still down."""
        if self._plan and self._plan[0].killed_at is not None:
            self._revive(self._plan[0])

    def _kill(self, kill: _Kill) -> None:
        self._shop.children[kill.name].kill()
        kill.killed_at = time.time()
        self._orphaned = self._load.busy_partitions()
        self.done.append(kill.name)
        self._say(f"{kill.name} killed with -9")

    def _revive(self, kill: _Kill) -> None:
        self._shop.children[kill.name].start()
        self._say(f"{kill.name} started again")

    def _over(self, kill: _Kill, killed_at: float) -> bool:
        if kill.down_seconds is not None:
            return time.time() - killed_at >= kill.down_seconds
        # Every partition with work on it has been written to since: what the dead one had is in other hands.
        resumed = []
        for partition in self._orphaned:
            after = [at for at in self._load.reader.commits.get(partition, ()) if at > killed_at * 1000]
            if not after:
                return False
            resumed.append(after[0])
        if resumed:
            self.takeover_seconds = round(max(resumed) / 1000 - killed_at, 2)
            self._say(f"{kill.name}'s partitions taken over after {self.takeover_seconds} s")
        return True
