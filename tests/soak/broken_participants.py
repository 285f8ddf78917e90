"""Every broken participant in Java and Go through the whole conformance kit: which cases find it.

    .venv/bin/python -m tests.soak.broken_participants [--stack DIR] [--only NAME,…] [--at-once 4]

Exit status 0 only where each is found by the case that is named for it, and the kit passes those that it cannot see.
"""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from confluent_kafka.admin import AdminClient

from kompensate.compose.local.stack import Stack
from tests.fixtures.broken_languages import BREAKS, Break
from tests.fixtures.conforming import failed
from tests.fixtures.conforming_languages import built, tried

MEMBERS = 2


def main() -> int:
    """Build all, then try some at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stack", type=Path, metavar="DIR", help="use the running stack of DIR")
    parser.add_argument("--only", type=lambda names: names.split(","), default=[], metavar="NAMES")
    parser.add_argument("--at-once", type=int, default=4)
    options = parser.parse_args()
    breaks = [one for one in BREAKS if not options.only or one.name in options.only]
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(options.stack or folder)
        stack.up()
        try:
            missed = _run(stack, breaks, Path(folder), options.at_once)
        finally:
            if options.stack is None:
                stack.reset()
    print(f"{len(breaks)} broken participants, {missed} missed")
    return 1 if missed else 0


def _run(stack: Stack, breaks: list[Break], folder: Path, at_once: int) -> int:
    programs = built(breaks, folder)
    missed = 0
    for first in range(0, len(breaks), at_once):
        some = {one: programs[one] for one in breaks[first : first + at_once]}
        name = f"s{secrets.token_hex(3)}"
        dsn = stack.make_database(name)
        for one, results in tried(some, stack.bootstrap, f"{name}.", dsn, whole=True, members=MEMBERS).items():
            found = failed(results)
            good = one.case in found if one.case else not found
            missed += not good
            print(f"{'found' if good else 'MISSED':7} {one.name:24} {one.case or '-':28} {', '.join(sorted(found))}")
            sys.stdout.flush()
        _forget_topics(stack, f"{name}.")
    return missed


def _forget_topics(stack: Stack, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": stack.bootstrap})
    ours = [topic for topic in admin.list_topics(timeout=15).topics if topic.startswith(prefix)]
    for deleted in admin.delete_topics(ours).values() if ours else ():
        deleted.result(15)


if __name__ == "__main__":
    sys.exit(main())
