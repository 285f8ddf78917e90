"""A card is charged RM45.00: by the service as one would write it first, and by the guarded one. The ledger tells.

    python -m examples.gateway.demo

Real processes, real HTTP, real kill -9 at every point around the call; the service's database is SQLite and its topic a
file, so it needs no servers. About a minute. Ends with 0 if the guarded service charged RM45.00 each time.
"""

import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from examples.common.children import Child
from examples.gateway.gateway import Gateway, entries
from examples.gateway.service import Charge
from examples.gateway.topic import send
from kompensate.schemas.messages import Command
from kompensate.schemas.payloads import encode

CENTS = 4500
FIRST_POINTS = ("participant.after_handler", "participant.before_db_commit")
POINTS = (
    "outside.after_intent",
    "outside.before_call",
    "outside.after_call",
    "outside.before_result_commit",
    "outside.after_result_commit",
)
RESEND_SECONDS = 2.0
DEADLINE_SECONDS = 120.0
SIDE_BY_SIDE = 3  # they wait more than they work
KILLED = -9


class Unfinished(RuntimeError):
    """The command was not answered in time; the text has the end of the service's log."""


def story(kind: str, folder: Path, words: Sequence[str], point: str = "") -> int:
    """The cents that one charge of RM45.00 came to, with the provider doing `words`, and a kill -9 at `point`."""
    commands, ledger = folder / "commands.jsonl", folder / "ledger.jsonl"
    with provider(ledger, words) as gateway:
        program = (sys.executable, "-m", "examples.gateway.service")
        child = Child("payments", (kind, str(folder)), folder, {"GATEWAY": gateway.address}, program=program)
        sent = [time.monotonic()]
        send(commands, _command())
        fault = {"KOMPENSATE_FAULT": f"{point}:kill:1"} if point else {}
        child.start(**fault)
        killed = False
        try:
            while not (_answers(folder) and _taken(folder) == len(sent) and (killed or not point)):
                if (code := child.ended()) is not None:
                    if code != KILLED:
                        raise Unfinished(f"{kind} ended with status {code}:\n{child.tail()}")
                    killed = True
                    child.start()
                if time.monotonic() - sent[-1] > RESEND_SECONDS:  # as the saga's worker does, until it has an answer
                    send(commands, _command())
                    sent.append(time.monotonic())
                if time.monotonic() - sent[0] > DEADLINE_SECONDS:
                    raise Unfinished(f"{kind}, {point}: no answer in {DEADLINE_SECONDS:g} s:\n{child.tail()}")
                time.sleep(0.02)
        finally:
            child.stop()
    return sum(cents for _, cents in entries(ledger))


@contextmanager
def provider(ledger: Path, words: Sequence[str], window: float = 86_400.0) -> Iterator[Gateway]:
    """The gateway at work, with its ledger."""
    gateway = Gateway(0, ledger, window)
    gateway.script = list(words)
    thread = threading.Thread(target=gateway.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield gateway
    finally:
        gateway.ends.set()
        gateway.shutdown()
        thread.join()
        gateway.server_close()


def _command() -> Command:
    return Command(
        id="charge-order-1",
        type="payments.Charge",
        source="kompensate:shop",
        saga_id="order-1",
        saga_type="checkout",
        step="charge",
        phase="forward",
        attempt=1,
        reply_to="shop.replies.payments",
        reply_partition=0,
        payload=encode(Charge(CENTS)),
    )


def _answers(folder: Path) -> int:
    """Rows in the service's outbox: what a relay would carry to the saga."""
    path = folder / "payments.db"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])
        except sqlite3.OperationalError:  # its tables are not made yet
            return 0


def _taken(folder: Path) -> int:
    """The offset that the service has committed."""
    path = folder / "commands.offset"
    return int(path.read_text()) if path.exists() else 0


def _in_a_folder(told: tuple[str, list[str], str]) -> int:
    kind, words, point = told
    with tempfile.TemporaryDirectory(prefix="kompensate-gateway-") as folder:
        return story(kind, Path(folder), words, point)


def money(cents: int) -> str:
    return f"RM{cents / 100:.2f}"


def main() -> int:
    """Tell the story; the exit status."""
    stories: list[tuple[str, list[str], str]] = [("first", ["drop-after"], "")]
    stories += [("first", [], point) for point in FIRST_POINTS]
    stories += [("guarded", ["drop-after"], point) for point in ("", *POINTS)]
    wrong = 0
    print(f"one command: charge {money(CENTS)}\n\n{'service':10}{'the provider':34}{'kill -9 at':32}charged")
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        outcomes = pool.map(_in_a_folder, stories)
        for (kind, words, point), cents in zip(stories, outcomes, strict=True):
            behaves = "charges, drops the connection" if words else "answers"
            print(f"{kind:10}{behaves:34}{point or 'never':32}{money(cents)}", flush=True)
            wrong += kind == "guarded" and cents != CENTS
    print("\nguarded: charged once, whatever happened" if not wrong else f"\nguarded: WRONG in {wrong} cases")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
