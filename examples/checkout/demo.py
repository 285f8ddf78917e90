"""The demo: real orders through three services, processes killed with -9 on the way, and the proof.

`./demo` starts a stack of its own below .kompensate, carries out the orders of `data/cdnow_sample.txt`,
kills a service, a worker and the relay, then asks the checker whether all is as it should be, and takes
everything away again. Exit status 0 only where nothing was lost, doubled, left unfinished or wrong.
"""

import argparse
import json
import logging
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from examples.checkout import orders
from examples.checkout.checker import Verdict, check
from examples.checkout.contracts import Order
from examples.checkout.kills import Kills
from examples.checkout.load import Load, Stalled
from examples.checkout.progress import Progress
from examples.checkout.reading import StateReader, request_times
from examples.checkout.shop import Shop, open_shop
from examples.common.children import ROOT, ChildEnded, run
from examples.common.ground import Program
from examples.languages import build
from kompensate.compose.local.errors import StackError

DIRECTORY = ROOT / ".kompensate" / "demo"
INTERRUPTED = 130


def main() -> int:
    options = _options()
    # A broker that has just started asks its clients for patience, and they say so.
    logging.getLogger("kompensate.librdkafka").setLevel(logging.ERROR)
    # A termination is cleaned up after like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _demo(options)
    except KeyboardInterrupt:
        print("interrupted")
        return INTERRUPTED
    except (ChildEnded, Stalled, StackError, TimeoutError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./demo", description=__doc__)
    parser.add_argument("--orders", type=int, metavar="N", help="only the first N orders of the file")
    parser.add_argument("--in-flight", type=int, default=200, metavar="N", help="sagas under way at a time (200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--keep", action="store_true", help="leave servers and data for a look around")
    parser.add_argument(
        "--mixed", action="store_true", help="payments in Java and inventory in Go (examples/languages); needs `go`"
    )
    parser.add_argument("--no-kills", action="store_true", help="kill nothing")
    parser.add_argument("--stack", type=Path, metavar="DIR", help="use the running stack of DIR, not one of its own")
    return parser.parse_args()


def _demo(options: argparse.Namespace) -> int:
    chosen = list(orders.read())[: options.orders]
    own = options.stack is None
    directory = DIRECTORY if own else options.stack
    with (
        TemporaryDirectory() as built,
        open_shop(directory, own=own, keep=options.keep, say=print, programs=_programs(options, Path(built))) as shop,
    ):
        figures, verdict = _carry_out(shop, chosen, options)
        _show_table(figures)
        for line in verdict.complaints():
            print(line)
        _show_history(shop, chosen)
        if options.json is not None:
            options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        if options.keep:
            print("left running; look around with: " + " ".join(f"{k}={v}" for k, v in shop.environment.items()))
        return 0 if verdict.good else 1


def _programs(options: argparse.Namespace, directory: Path) -> dict[str, Program]:
    return {"payments": build.java(directory), "inventory": build.go(directory)} if options.mixed else {}


def _carry_out(shop: Shop, chosen: list[Order], options: argparse.Namespace) -> tuple[dict[str, Any], Verdict]:
    """Run the orders, stop the shop and judge what is left in databases and topics."""
    load = Load(shop, chosen, options.in_flight)
    progress = Progress(len(chosen))
    kills = Kills(shop, load, len(chosen), progress.say, payments=options.mixed)

    def tick() -> None:
        if not options.no_kills:
            kills.tick()
        progress.show(load.ended, load.under_way)

    try:
        load.run(tick)
        kills.finish()
    except Stalled as error:
        progress.say(str(error))
    finally:
        progress.end()
        load.close()
    stubborn = shop.close()
    read = StateReader.of_all(shop.bootstrap, shop.topics)
    verdict = check(load.acknowledged, read.sagas, shop.databases)
    verdict.wrong += [f"{name} did not stop within its time when asked to" for name in stubborn]
    return _figures(shop, load, read, verdict, kills), verdict


def _figures(shop: Shop, load: Load, read: StateReader, verdict: Verdict, kills: Kills) -> dict[str, Any]:
    """Measured on the topics: a saga takes from its request's record to its last one. Without the warming up."""
    warm = (load.warm_at or 0) * 1000
    asked = {saga_id: at for saga_id, at in request_times(shop.bootstrap, shop.topics).items() if at >= warm}
    ends = {saga_id: saga.at for saga_id, saga in read.sagas.items() if saga.ended and saga_id in asked}
    took = sorted(at - asked[saga_id] for saga_id, at in ends.items())
    seconds = (max(ends.values()) - min(asked.values())) / 1000 if ends else 0.0
    return {
        "orders": verdict.orders,
        "completed": verdict.ends["completed"],
        "compensated": verdict.ends["compensated"],
        "lost": len(verdict.lost),
        "doubled": len(verdict.doubled),
        "unfinished": len(verdict.unfinished),
        "wrong": len(verdict.wrong),
        "killed": kills.done,
        "seconds": round(seconds, 1),
        "sagas_per_second": round(len(ends) / seconds, 1) if seconds else 0.0,
        "latency_p50_ms": took[len(took) // 2] if took else None,
        "latency_p99_ms": took[len(took) * 99 // 100] if took else None,
        "takeover_seconds": kills.takeover_seconds,
    }


def _show_table(figures: dict[str, Any]) -> None:
    print()
    for name, value in figures.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        print(f"  {name.replace('_', ' '):18} {'-' if shown is None else shown}")
    print()


def _show_history(shop: Shop, chosen: list[Order]) -> None:
    """One saga's history: one that went all the way to the pivot, and back."""
    turned = [order for order in chosen if orders.expected(order) is orders.Fate.ADDRESS_REFUSED]
    saga_id = (turned or chosen)[0].order_id
    print(f"$ kompensate history {saga_id}")
    print(run(["history", saga_id], shop.environment))


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    print(f"{time.monotonic() - started:.0f} s in all")
    sys.exit(status)
