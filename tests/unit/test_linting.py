"""The lint of sagas: each thing that a replay would not do the same is found by its names, and nothing else is."""

import json
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kompensate.orchestrator.cli import main
from kompensate.orchestrator.linting.linter import Finding, lint_file, lint_source
from kompensate.orchestrator.linting.rules import RULES

ROOT = Path(__file__).parents[2]
HEAD = "from kompensate.orchestrator import Application, Context, Saga, Service, Step, saga\n"


def lint(source: str) -> list[Finding]:
    return lint_source(HEAD + textwrap.dedent(source), "sagas.py").findings


def in_saga(line: str, imports: str = "") -> list[Finding]:
    """The findings of a saga that does this, with these imports at its file's top."""
    body = textwrap.indent(textwrap.dedent(line), "    ")
    return lint(f'{imports}\n@saga("one")\nasync def one(ctx: Context, order: dict) -> None:\n{body}\n')


FORBIDDEN = [
    ("K01", "import time", "x = time.time()"),
    ("K01", "import time as t", "x = t.monotonic_ns()"),
    ("K01", "from time import perf_counter as watch", "x = watch()"),
    ("K01", "import time", "x = time.gmtime().tm_year"),
    ("K01", "from datetime import datetime", "x = datetime.now()"),
    ("K01", "import datetime as dt", "x = dt.datetime.utcnow().isoformat()"),
    ("K01", "from datetime import date", "x = date.today()"),
    ("K01", "import time\nnow = time.time", "x = now()"),
    ("K01", "", "import time\nx = time.time()"),
    ("K01", "import time", "clock = time.time\nx = clock()"),
    ("K01", "import time", "x = sorted(order, key=lambda _: time.time())"),
    ("K01", "import time", "x = dict(default=time.time)"),
    ("K02", "import random", "x = random.choice([1, 2])"),
    ("K02", "from random import shuffle", "shuffle(order)"),
    ("K02", "import random", "x = random.Random().random()"),
    ("K02", "import numpy as np", "x = np.random.rand()"),
    ("K02", "import secrets", "x = secrets.token_hex()"),
    ("K02", "import os", "x = os.urandom(8)"),
    ("K03", "import uuid", "x = str(uuid.uuid4())"),
    ("K03", "from uuid import uuid1", "x = uuid1().hex"),
    ("K04", "import os", 'x = os.environ["HOME"]'),
    ("K04", "from os import getenv", 'x = getenv("HOME")'),
    ("K04", "from os import environ as env", 'x = env.get("HOME")'),
    ("K04", "import sys", "x = sys.argv[1]"),
    ("K04", "import socket", "x = socket.gethostname()"),
    ("K05", "", 'x = open("rates.json").read()'),
    ("K05", "from pathlib import Path", 'x = Path("rates.json").exists()'),
    ("K05", "from pathlib import Path", 'file = Path("rates.json")\nx = file.stat()'),
    ("K05", "", 'x = order["file"].read_text()'),
    ("K05", "import os", 'x = os.listdir(".")'),
    ("K05", "", 'with open("a") as f:\n    x = f.read()'),
    ("K06", "import requests", 'x = requests.get("http://a").json()'),
    ("K06", "import httpx\nclient = httpx.Client()", 'x = client.get("http://a")'),
    ("K06", "import urllib.request", 'x = urllib.request.urlopen("http://a")'),
    ("K06", "import subprocess", 'subprocess.run(["ls"])'),
    ("K07", "import threading", "threading.Thread(target=print).start()"),
    ("K07", "from concurrent.futures import ThreadPoolExecutor", "pool = ThreadPoolExecutor()"),
    ("K08", "import asyncio", "await asyncio.sleep(1)"),
    ("K08", "from asyncio import gather", "await gather()"),
    ("K08", "import time", "time.sleep(1)"),
    ("K09", "", "for x in {1, 2}:\n    pass"),
    ("K09", "", "names = set(order)\nfor x in names:\n    pass"),
    ("K09", "", "x = [y for y in frozenset(order)]"),
    ("K09", "", "x = list({y for y in order})"),
    ("K09", "", "names = {1, 2} | {3}\nx = [*names]"),
    ("K09", "", "x = set(order).union({1}).pop()"),
    ("K09", "", "x = ','.join(set(order))"),
    ("K09", "", "x = list(y for y in set(order))"),
    ("K09", "", "a, b = {1, 2}"),
    ("K09", "", "for x in order.keys() - {1}:\n    pass"),
    ("K10", "seen = []", "seen.append(order)"),
    ("K10", "seen = {}", 'seen["a"] = order'),
    ("K10", "count = 0", "global count\ncount = 1"),
    ("K10", "count = 0\ndef more():\n    global count\n    count += 1", "x = count"),
    ("K10", "rates = {}\ndef load():\n    rates.update(a=1)", 'x = rates["a"]'),
    ("K10", "from itertools import count\nnumbers = count()", "x = next(numbers)"),
    ("K10", "import random\nrng = random.Random(7)", "x = rng.random()"),
    ("K03", "import uuid\nPROCESS = uuid.uuid4()", "x = PROCESS"),
    ("K01", "import time", "x = time.time()\ny = x + 1"),
    ("K11", "", "x = hash(order)"),
    ("K11", "", "x = id(order)"),
    ("K12", "", "print(order)"),
    ("K01", "import time", "await ctx.run(len, [time.time()])"),
    ("K01", "import time, functools", "await ctx.run(functools.partial(len, time.time()))"),
    ("K01", "import time", "async def body():\n    return time.time()\nawait ctx.block(body)"),
    ("K12", "import logging", 'logging.info("here")'),
    ("K12", "import logging\nlog = logging.getLogger(__name__)", 'log.info("here")'),
]


@pytest.mark.parametrize(("code", "imports", "line"), FORBIDDEN)
def test_what_differs_is_found(code: str, imports: str, line: str) -> None:
    """Whatever it was imported as, and whether it is called or handed on: one finding, of the rule that it breaks."""
    (found,) = in_saga(line, imports)

    assert found.code == code
    assert found.where == "saga 'one'"
    assert found.instead == RULES[code].instead


def test_every_rule_is_tried() -> None:
    """No rule stands in the table that no code above breaks; K00 is about the comments."""
    assert {code for code, _, _ in FORBIDDEN} == RULES.keys() - {"K00"}


def test_every_rule_is_documented() -> None:
    """The guide has a row for each rule that code can break."""
    text = (ROOT / "docs/guides/determinism.md").read_text()

    assert [code for code in RULES if f"| {code} |" not in text] == ["K00"]


def test_our_examples_keep_the_rules() -> None:
    """What the documentation shows is what the lint wants, and the lint does see it."""
    linted = [lint_file(path) for path in sorted((ROOT / "examples").rglob("*.py"))]

    assert [str(finding) for each in linted for finding in each.findings] == []
    assert sum(each.entries for each in linted) > 0


FINE = [
    ("", "x = ctx.now(), ctx.random(), ctx.uuid()\nawait ctx.sleep(1)"),
    ("import random", "x = random.Random(ctx.random()).choice([1, 2])"),
    ("import random", "rng = random.Random(7)\nx = rng.random()"),
    ("import time", "x = time.gmtime(ctx.now() / 1000).tm_year"),
    ("from uuid import UUID, uuid5", "x = uuid5(UUID(ctx.uuid()), 'a')"),
    ("from datetime import datetime, timedelta", "x: datetime = datetime(2026, 1, 1) + timedelta(days=1)"),
    ("import asyncio", "try:\n    await ctx.sleep(1)\nexcept asyncio.CancelledError:\n    pass"),
    ("import requests", "x: requests.Response | None = None"),
    ("import requests", "await ctx.run(lambda: requests.get('http://a'))"),
    ("import requests", "await ctx.run(requests.get, 'http://a')"),
    ("import os", "def read():\n    return os.environ\nawait ctx.run(read)"),
    ("import time, functools", "await ctx.run(functools.partial(time.time))"),
    ("import time\ndef local():\n    return time.time()", "await ctx.run(local)"),
    ("import os", "def un(x):\n    os.remove(x)\nawait ctx.run(open, 'a', undo=un, reconcile=lambda x: os.stat(x))"),
    ("import os", "ctx.compensate(os.remove, 'a')"),
    ("import time", "def unused():\n    return time.time()"),
    ("", "x = sorted({1, 2}), len({1}), max({1}), 3 in {3}\nfor y in sorted(set(order)):\n    pass"),
    ("", "x = sorted(y for y in set(order))\nz = {y for y in set(order)}"),
    ("", "for x in dict(order).keys():\n    pass"),
    ("RATES = {'a': 1}\nNAMES = ['b']", "x = RATES['a']\nfor y in NAMES:\n    pass"),
    ("seen = []", "seen = []\nseen.append(1)"),
    ("", "time = order\nx = time.time()"),
    ("import time", "time = order\nx = time.time()"),
    ("", "open = order.get\nx = open('a')"),
    ("from pathlib import Path", "x = Path('a').name"),
]


@pytest.mark.parametrize(("imports", "line"), FINE)
def test_what_is_the_same_is_not(imports: str, line: str) -> None:
    """Names that mean something else here, what ctx gives, what ctx.run is given, and orders that do not show."""
    assert in_saga(line, imports) == []


def test_what_a_saga_calls_belongs_to_it() -> None:
    """Functions and classes of the same file that a saga uses are searched, through each other, and told once."""
    found = lint(
        """
        import time, requests

        def helper():
            return deeper()

        def deeper():
            return time.time()

        class Quote:
            def __init__(self):
                self.at = time.time()

        def nobody():
            return requests.get("http://a")

        @saga("one")
        async def one(ctx: Context, order: dict) -> None:
            def inner():
                return helper()
            inner(), helper(), Quote()

        async def part(context: "Context") -> None:
            await requests.get("http://a")
        """
    )

    assert [(f.line, f.column, f.code, f.where) for f in found] == [
        (9, 12, "K01", "saga 'one', in deeper()"),
        (13, 19, "K01", "saga 'one', in Quote()"),
        (25, 11, "K06", "part"),
    ]


def test_callables_of_declared_sagas_belong_to_them() -> None:
    """make and its kin run in the saga: functions and lambdas given to Step or Saga are searched."""
    found = lint(
        """
        from uuid import uuid4
        import time
        import kompensate.orchestrator as k

        def charge(s):
            return str(uuid4())

        checkout = Saga("checkout", dict, [
            Step("reserve", "stock", dict, make=lambda s: time.time()),
            k.Step("charge", "bank", dict, make=charge, undo=dict, make_undo=charge),
            k.Parallel(k.SubSaga("call", "other", when=lambda s: s.input["at"] < time.time())),
        ], result=lambda s: time.time())
        other = dict(make=lambda s: time.time())
        """
    )

    assert [(f.line, f.code, f.where) for f in found] == [
        (8, "K03", "step 'charge', make"),
        (11, "K01", "step 'reserve', make"),
        (13, "K01", "subsaga 'call', when"),
        (14, "K01", "saga 'checkout', result"),
    ]


def test_a_comment_allows_with_a_reason() -> None:
    """On the line or alone above it, for the codes that it names; one without a reason or a rule is told itself."""
    found = lint(
        """
        import time

        @saga("one")
        async def one(ctx: Context, order: dict) -> None:
            a = time.time()  # kompensate: allow K01 only shown to people
            # kompensate: allow K01, K12 the same
            print(time.time())
            b = time.time()  # kompensate: allow K02 another rule
            c = time.time()  # kompensate: allow K01
            d = order  # kompensate: allow K77 no such rule
        """
    )

    assert [(f.line, f.code) for f in found] == [(10, "K01"), (11, "K01"), (11, "K00"), (12, "K00")]


class Cli:
    """`kompensate lint` in a directory of a user's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, source: str) -> str:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + textwrap.dedent(source))
        return str(path)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["lint", "--app-dir", str(self.directory), *words])


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Cli(tmp_path)


SAGAS = """
import time

@saga("one")
async def one(ctx: Context, order: dict) -> None:
    {line}

app = Application("shop", [one])
"""


def test_a_finding_is_exit_code_1(cli: Cli) -> None:
    """Place, code, what and what instead on a line; as JSON a field each; the summary goes to standard error."""
    file = cli.write("sagas.py", SAGAS.replace("{line}", "time.sleep(1)"))

    result = cli.run(file)
    (found,) = json.loads(cli.run(file, "-o", "json").stdout)

    assert result.exit_code == 1
    assert result.stdout == (
        f"{file}:7:5: K08 time.sleep() waits for what is not the saga's: await only what ctx gives: ctx.sleep, "
        "ctx.gather, ctx.receive [saga 'one']\n"
    )
    assert result.stderr == "files: 1, pieces of sagas' code: 1, found: 1, hints: 0\n"
    assert (found["line"], found["column"], found["code"], found["hint"]) == (7, 5, "K08", False)


def test_a_file_without_code_of_sagas_says_why_there_may_be_none(cli: Cli) -> None:
    """A declared saga is a list: nothing was looked at, and nothing is wrong."""
    result = cli.run(cli.write("sagas.py", "app = Application('shop', [])"))

    assert result.exit_code == 0
    assert result.stderr == (
        "files: 1, pieces of sagas' code: 0 (declared steps are data: nothing to look at), found: 0, hints: 0\n"
    )


def test_hints_are_no_failure(cli: Cli) -> None:
    """What is merely repeated is told, with exit code 0."""
    result = cli.run(cli.write("sagas.py", SAGAS.replace("{line}", "print(1)")))

    assert result.exit_code == 0
    assert ": K12 hint: print() is repeated by each replay" in result.stdout


def test_targets_are_files_directories_modules_and_applications(cli: Cli) -> None:
    """Each names files to read; only an application is imported, and its sagas' files are taken wherever they are."""
    bad = SAGAS.replace("{line}", "time.sleep(1)")
    cli.write("linted_shop/__init__.py", "")
    inner = cli.write("linted_shop/sagas.py", bad)
    outer = cli.write("linted_app.py", "from linted_shop.sagas import one\napp = Application('shop', [one])")
    cli.write("linted_shop/.hidden/sagas.py", bad)
    cli.write("linted_raising.py", bad + "\nraise RuntimeError('imported')")

    assert cli.run(str(cli.directory / "linted_shop")).stderr.startswith("files: 2,")
    assert cli.run("linted_shop").stderr.startswith("files: 2,")
    assert cli.run("linted_shop.sagas").stdout.startswith(f"{inner}:7:5: K08")
    assert cli.run("linted_raising").exit_code == 1
    of_app = cli.run("linted_app:app", outer)
    assert of_app.stdout.startswith(f"{inner}:7:5: K08")
    assert of_app.stderr.startswith("files: 2,")


@pytest.mark.parametrize(
    ("target", "code", "text"),
    [
        ("nowhere.py", 2, "expected a file, a directory, a module or MODULE:APP, got 'nowhere.py'"),
        ("nowhere:app", 2, "expected module nowhere in"),
        ("BROKEN", 1, "broken.py:3: expected Python, got "),
    ],
)
def test_what_cannot_be_linted_is_told(cli: Cli, target: str, code: int, text: str) -> None:
    """A target that is none is wrong usage; a file that does not parse is an error, never passed over."""
    broken = cli.write("broken.py", "\ndef (:\n")

    result = cli.run(broken if target == "BROKEN" else target)

    assert result.exit_code == code
    assert text in result.stderr
