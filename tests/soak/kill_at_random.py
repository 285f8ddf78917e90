"""kill -9 at random, under load, for minutes; at the end every saga is accounted for by the demo's checker.

    .venv/bin/python -m tests.soak.kill_at_random --minutes 10 [--seed N] [--kill relay,payments,postgres] [--mixed]

Services, relay and workers of the checkout die at random moments, several at a time too, and come back after
a random while; with `--kill` those that it names, the servers kafka and postgres among them. Kafka, and programs in
Java, take some ten seconds until they are at work again: with `--between 15,30` they come to it. The seed is
printed; what it fixes is who is killed and when, not what the machine does.
Exit status 0 only where nothing was lost, doubled, left unfinished or wrong.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.checkout import orders
from examples.checkout.checker import check
from examples.checkout.contracts import Order
from examples.checkout.load import Load, Stalled
from examples.checkout.progress import Progress
from examples.checkout.reading import StateReader
from examples.checkout.shop import Shop, open_shop
from examples.common.children import ROOT, Child, ChildEnded
from examples.common.ground import Program
from examples.languages import build
from kompensate.compose.local.errors import StackError
from kompensate.compose.local.stack import Stack

DIRECTORY = ROOT / ".kompensate" / "soak"
DOWN_SECONDS = (0.0, 6.0)
SERVERS = ("kafka", "postgres")


class Server:
    """A server of the stack. PostgreSQL's other processes see that the first one is gone, and end."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self._name = name

    def kill(self) -> None:
        os.kill(self._stack.pid(self._name), signal.SIGKILL)

    def start(self) -> None:
        self._stack.up()


class Reaper:
    """Kills at random until `ends_at` (monotonic seconds), and starts again what it killed.

    `names`: whom; of nobody, every process of the shop. `between`: from one kill to the next, seconds at least and
    at most.
    """

    def __init__(
        self,
        shop: Shop,
        stack: Stack,
        names: Sequence[str],
        between: tuple[float, float],
        seed: int,
        ends_at: float,
        progress: Progress,
    ) -> None:
        servers = {name: Server(stack, name) for name in SERVERS}
        self.killed: Counter[str] = Counter()
        self._mortals: dict[str, Child | Server] = {
            name: (shop.children | servers)[name] for name in names or shop.children
        }
        self._servers_die = any(name in servers for name in self._mortals)
        self._random = random.Random(seed)
        self._between = between
        self._ends_at = ends_at
        self._progress = progress
        self._down: dict[str, float] = {}
        self._next = time.monotonic() + self._random.uniform(*between)

    def tick(self) -> None:
        now = time.monotonic()
        # Servers first: a participant whose database is away ends when it starts.
        for name in sorted(self._down, key=lambda name: name not in SERVERS):
            waits = name not in SERVERS and any(server in self._down for server in SERVERS)
            if now >= self._down[name] and not waits:
                self._mortals[name].start()
                del self._down[name]
        if now >= self._next and now < self._ends_at:
            self._next = now + self._random.uniform(*self._between)
            name, down = self._random.choice(sorted(self._mortals)), self._random.uniform(*DOWN_SECONDS)
            if name not in self._down:
                self._mortals[name].kill()
                self._down[name] = now + down
                self.killed[name] += 1
                self._progress.say(f"{name} killed with -9, for {down:.1f} s")
        for name, child in self._mortals.items():
            # A participant ends where its database dies while it starts: a supervisor would start it again.
            if isinstance(child, Child) and self._servers_die and child.ended() is not None:
                self._progress.say(f"{name} ended while it started")
                self._down[name] = now

    def leave(self) -> None:
        """Start the servers that are down: what became of the load is read from them."""
        for name in SERVERS:
            if self._down.pop(name, None) is not None:
                self._mortals[name].start()


def rounds() -> Iterator[Order]:
    """The purchases over and over, under new ids."""
    purchases = list(orders.read())
    for number in count(1):
        for order in purchases:
            yield replace(order, order_id=f"r{number}-{order.order_id}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--in-flight", type=int, default=200, help="sagas under way at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--kill", type=lambda names: names.split(","), default=[], metavar="NAMES", help="only these")
    parser.add_argument("--between", type=_between, default=(0.5, 8.0), metavar="A,B", help="seconds between kills")
    parser.add_argument("--mixed", action="store_true", help="payments in Java, inventory in Go (examples/languages)")
    parser.add_argument("--stack", type=Path, metavar="DIR", help="use the running stack of DIR")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return soak(options)
    except (ChildEnded, StackError, TimeoutError) as error:
        print(f"seed {options.seed}: {error}", file=sys.stderr)
        return 1


def _between(text: str) -> tuple[float, float]:
    low, high = text.split(",")
    return float(low), float(high)


def _programs(options: argparse.Namespace, directory: str) -> dict[str, Program]:
    return {"payments": build.java(Path(directory)), "inventory": build.go(Path(directory))} if options.mixed else {}


def soak(options: argparse.Namespace) -> int:
    """Run, then judge."""
    own = options.stack is None
    directory = DIRECTORY if own else options.stack
    with TemporaryDirectory() as built, open_shop(directory, own=own, programs=_programs(options, built)) as shop:
        progress = Progress(None)
        load = Load(shop, rounds(), options.in_flight)
        ends_at = time.monotonic() + options.minutes * 60
        reaper = Reaper(shop, Stack(directory), options.kill, options.between, options.seed, ends_at, progress)

        def tick() -> None:
            reaper.tick()
            if time.monotonic() >= ends_at:
                load.stop_feeding()
            progress.show(load.ended, load.under_way)

        try:
            load.run(tick)
        except Stalled as error:
            print(error)
        finally:
            progress.end()
            load.close()
        reaper.leave()
        stubborn = shop.close()
        read = StateReader.of_all(shop.bootstrap, shop.topics)
        verdict = check(load.acknowledged, read.sagas, shop.databases)
        verdict.wrong += [f"{name} did not stop within its time when asked to" for name in stubborn]
    figures = {
        "seed": options.seed,
        "minutes": options.minutes,
        "orders": verdict.orders,
        **verdict.ends,
        "killed": dict(reaper.killed),
        **{name: len(getattr(verdict, name)) for name in ("lost", "doubled", "unfinished", "wrong")},
    }
    print(json.dumps(figures))
    print("\n".join(verdict.complaints()))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
