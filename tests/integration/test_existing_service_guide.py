"""docs/guides/existing-service.md as written: its files, run as it says, on real Kafka and PostgreSQL."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from urllib.request import urlopen

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Engine, MetaData, create_engine, inspect, text

from kompensate.outbox.tables import create_tables, include_name
from kompensate.participants.database import adopt
from kompensate.participants.main import Service
from kompensate.participants.unit import Unit
from kompensate.schemas.messages import Command
from tests.fixtures.participants import World, async_stock, forward, stock
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "existing-service.md"
BLOCK = re.compile(r"^`(?P<file>[\w./]+)`[^\n]*\n\n```python\n(?P<text>.*?)^```$", re.M | re.S)
DEADLINE_SECONDS = 60.0

# What a Django project has besides: the guide's reader has it already.
DJANGO = {
    "manage.py": "import os, sys\nos.environ['DJANGO_SETTINGS_MODULE'] = 'settings'\n"
    "from django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n",
    "settings.py": "import os\nfrom urllib.parse import urlsplit\nDATABASE_URL = os.environ['DATABASE_URL']\n"
    "KAFKA = os.environ['KAFKA']\nurl = urlsplit(DATABASE_URL)\nINSTALLED_APPS = ['inventory']\nUSE_TZ = True\n"
    "DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': url.path[1:], 'USER': url.username,\n"
    "    'PASSWORD': url.password, 'HOST': url.hostname, 'PORT': url.port}}\n",
    "inventory/models.py": "from django.db import models\n\n\nclass Stock(models.Model):\n"
    "    sku = models.TextField(primary_key=True)\n    free = models.IntegerField()\n",
    "inventory/migrations/0001_initial.py": "from django.db import migrations, models\n\n\n"
    "class Migration(migrations.Migration):\n    operations = [migrations.CreateModel('Stock', [\n"
    "        ('sku', models.TextField(primary_key=True)), ('free', models.IntegerField())])]\n",
    **{f"inventory/{name}__init__.py": "" for name in ("", "migrations/", "management/", "management/commands/")},
}


@pytest.fixture
def topics(kafka: str, topic_prefix: str) -> ServiceTopics:
    found = ServiceTopics(kafka, topic_prefix, "inventory")
    found.make()
    return found


@pytest.fixture
def project(tmp_path: Path, topics: ServiceTopics) -> Path:
    """The guide's files; its services take the commands of this test alone."""
    for name, body in DJANGO.items():
        _write(tmp_path / name, body)
    for found in BLOCK.finditer(GUIDE.read_text(encoding="utf-8")):
        where = f'os.environ["KAFKA"], prefix="{topics.prefix}"', f'settings.KAFKA, prefix="{topics.prefix}"'
        body = found["text"].replace('os.environ["KAFKA"]', where[0]).replace("settings.KAFKA", where[1])
        _write(tmp_path / found["file"], body)
    return tmp_path


@pytest.fixture
def database(postgres: str) -> Iterator[Engine]:
    engine = create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()


def test_every_python_block_has_its_file() -> None:
    """The guide's blocks are what the other tests believe them to be."""
    written = GUIDE.read_text(encoding="utf-8")

    assert written.count("```python") == len(list(BLOCK.finditer(written))) == 8


def test_the_alembic_revision(project: Path, database: Engine) -> None:
    """Up makes the tables and publication, and may follow a script that was run by hand; down leaves nothing."""
    revision = _load(project / "versions/add_kompensate.py")
    with database.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        revision.upgrade()
        revision.upgrade()
        assert {"inbox", "outbox"} <= set(inspect(connection).get_table_names())
        context = MigrationContext.configure(connection, opts={"include_name": include_name})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Did not recognize type 'xid8'")  # Alembic reads all columns beforehand
            assert compare_metadata(context, MetaData()) == []
        revision.downgrade()
        assert inspect(connection).get_table_names() == []
        assert connection.execute(text("SELECT count(*) FROM pg_publication")).scalar_one() == 0
        of_ours = "SELECT count(*) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
        assert connection.execute(text(of_ours)).scalar_one() == 0


@pytest.mark.parametrize("framework", ["fastapi", "flask", "beside"])
def test_a_framework(framework: str, project: Path, database: Engine, topics: ServiceTopics) -> None:
    """Started as the guide says, it takes commands and serves requests; told to stop it ends in order."""
    with database.begin() as connection:
        create_tables(connection)
        connection.execute(text("CREATE TABLE stock (sku text PRIMARY KEY, free int NOT NULL)"))
        connection.execute(text("INSERT INTO stock VALUES ('tea', 5)"))
    port = _free_port()
    cli = [sys.executable, "-m", "kompensate.orchestrator.cli", "participant", "handlers:inventory"]
    dsn = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    argv = {
        "fastapi": [sys.executable, "-m", "uvicorn", "main:api", "--port", str(port)],
        "flask": [sys.executable, "app.py"],
        "beside": [*cli, "--dsn", dsn, "--bootstrap", topics.bootstrap, "--prefix", topics.prefix],
    }[framework]
    with _process(argv, project, database, topics, port) as process:
        _serves(topics, database)

        assert _scalar(database, "SELECT free FROM stock") == 3
        if framework != "beside":
            path = f"http://127.0.0.1:{port}/stock/tea"
            wait_until("an answer over HTTP", lambda: _answers(path, process), DEADLINE_SECONDS)
            assert urlopen(path).read() == b"3"
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_SECONDS)


@pytest.mark.skipif(
    importlib.util.find_spec("django") is None, reason="Django, of 50 MB, is not among ./check's packages"
)
def test_django(project: Path, database: Engine, topics: ServiceTopics) -> None:
    """Its migrations make the tables, and its management command takes commands."""
    environment = _environment(database, topics)
    migrate = [sys.executable, "manage.py", "migrate"]
    subprocess.run(migrate, cwd=project, env=environment, check=True, timeout=DEADLINE_SECONDS)
    with database.begin() as connection:
        connection.execute(text("INSERT INTO inventory_stock VALUES ('tea', 5)"))
    with _process([sys.executable, "manage.py", "participant"], project, database, topics, 0) as process:
        _serves(topics, database)

        assert _scalar(database, "SELECT free FROM inventory_stock") == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize(
    ("level", "expected"), [("AUTOCOMMIT", (True, "READ COMMITTED")), ("SERIALIZABLE", (False, "SERIALIZABLE"))]
)
def test_an_engine_of_the_callers_keeps_its_level_elsewhere(
    database: Engine, level: str, expected: tuple[bool, str]
) -> None:
    """A group is one READ COMMITTED transaction on whatever engine; the caller's own connections are as before."""
    engine = database.execution_options(isolation_level=level)
    world = World(database, stock)
    world.unit = Unit(stock, adopt(engine))
    assert world.outcomes(forward("a"), forward("b", "refuse"), forward("c", "raise")) == ["done", "refused", "failed"]

    assert world.effects() == {("a", "take"): 1}
    with engine.connect() as connection:
        assert connection.connection.driver_connection is not None
        autocommit = connection.connection.driver_connection.autocommit
        assert (autocommit, connection.get_isolation_level()) == expected


def test_an_engine_that_does_not_suit_is_refused(database: Engine) -> None:
    """An asynchronous engine, or one of another driver: the error says what to give instead."""
    from sqlalchemy.ext.asyncio import create_async_engine

    asynchronous = create_async_engine(database.url)
    with pytest.raises(
        TypeError, match="expected a URL or a SQLAlchemy Engine, got AsyncEngine: give the database's URL"
    ):
        Service(async_stock, asynchronous, "nowhere:9092")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(
        ValueError,
        match=r"expected an Engine of postgresql\+psycopg, mysql\+pymysql or sqlite, got .* of an AsyncEngine",
    ):
        Service(async_stock, asynchronous.sync_engine, "nowhere:9092")


def _serves(topics: ServiceTopics, database: Engine) -> None:
    """Two orders of tea, of which five are there, and of something that is not."""
    topics.send([_reserve("a", b'{"sku":"tea","quantity":2}'), _reserve("b", b'{"sku":"gin","quantity":1}')])

    def replies() -> set[tuple[str, str]]:
        with database.connect() as connection:
            rows = connection.execute(text("SELECT ce_causationid, ce_replyoutcome FROM outbox"))
            return {(row[0], row[1]) for row in rows}

    wait_until("both replies", lambda: replies() == {("a", "done"), ("b", "refused")}, DEADLINE_SECONDS)


def _scalar(database: Engine, query: str) -> object:
    with database.connect() as connection:
        return connection.execute(text(query)).scalar_one()


def _reserve(command_id: str, payload: bytes) -> Command:
    return replace(forward(command_id, saga_id=command_id), type="inventory.Reserve", payload=payload)


def _environment(database: Engine, topics: ServiceTopics, port: int = 0) -> dict[str, str]:
    url = database.url.render_as_string(hide_password=False)
    return {**os.environ, "DATABASE_URL": url, "KAFKA": topics.bootstrap, "PORT": str(port)}


@contextmanager
def _process(
    argv: list[str], project: Path, database: Engine, topics: ServiceTopics, port: int
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(argv, cwd=project, env=_environment(database, topics, port))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(path: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None
    try:
        return bool(urlopen(path).status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body, encoding="utf-8")
