"""The local stack: `Stack(directory).up()` and `.down()`, what `kompensate dev` runs.

Everything it keeps is below `.kompensate` of the directory: data, logs, and `state.json` with ports and
processes. Two directories are two stacks that share nothing but the jars.
"""

import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kompensate.compose.local import postgres
from kompensate.compose.local.connect import Connect
from kompensate.compose.local.errors import StackError
from kompensate.compose.local.java import Jit
from kompensate.compose.local.kafka import Kafka
from kompensate.compose.local.postgres import Postgres
from kompensate.compose.local.processes import Launch, alive, becomes_free, port_is_free, start, stop, tail
from kompensate.compose.local.service import Home, Service
from kompensate.compose.local.state import State, load, locked, save

SERVICES: tuple[Service, ...] = (Kafka(), Postgres(), Connect())  # in the order they may need each other
DEFAULT_SERVICES = ("kafka", "postgres")
UP_DEADLINE_SECONDS = 90.0
# Ample: the first broker of all writes Java's start-up cache as it ends, some seconds on a quiet machine.
STOP_DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.05
PORT_GRACE_SECONDS = 1.0  # a port that moves loses everyone who knows it
# Below what kernels hand out to outgoing connections, so that a remembered port is still free tomorrow.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What one server does now."""

    name: str
    pid: int | None  # None: not running
    answers: bool
    address: str


class Stack:
    """Kafka, PostgreSQL and, when asked for, Kafka Connect, below one directory.

    `ports` chooses ports by name (kafka, kafka_controller, postgres, connect); the others are free ones,
    picked once and remembered. `jit` is what Java compiles for: "quick" starts fast, "full" is what a load
    of more than half a minute wants. Processes may use one stack at once: changes wait for each other.
    """

    def __init__(
        self,
        directory: Path | str = ".",
        *,
        ports: Mapping[str, int] | None = None,
        mirror: str | None = None,
        jit: Jit = "quick",
        say: Callable[[str], None] = lambda _line: None,
        servers: Sequence[Service] = SERVICES,
        stop_deadline_seconds: float = STOP_DEADLINE_SECONDS,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.folder = self.directory / ".kompensate"
        self._chosen = dict(ports or {})
        self._mirror = mirror
        self._jit: Jit = jit
        self._say = say
        self._servers = servers
        self._stop_deadline_seconds = stop_deadline_seconds
        known = {name for service in servers for name in service.port_names}
        if unknown := self._chosen.keys() - known:
            raise StackError(f"ports: expected names of {sorted(known)}, got {sorted(unknown)}")

    @property
    def bootstrap(self) -> str:
        """Kafka's bootstrap servers."""
        return self._address("kafka")

    @property
    def connect_url(self) -> str:
        """Kafka Connect's REST address."""
        return f"http://{self._address('connect')}"

    def postgres_dsn(self, database: str = "postgres") -> str:
        """Connection URI of a database, as superuser."""
        self._address("postgres")
        return postgres.dsn(self._home(self._state()), database)

    def make_database(self, name: str) -> str:
        """Make a database where it is absent; return its connection URI. Raises StackError."""
        self._address("postgres")
        postgres.make_database(self._home(self._state()), name)
        return self.postgres_dsn(name)

    def pid(self, service: str) -> int:
        """Process id of a running server. Raises StackError where it does not run."""
        state = self._state()
        if not _runs(state, service):
            raise StackError(f"{service}: expected it to run in {self.directory}; start it with: kompensate dev up")
        return state.processes[service].pid

    def log(self, service: str) -> Path:
        """Path of a server's log."""
        return self._home(State()).log(self._server(service).name)

    def up(self, services: Sequence[str] = DEFAULT_SERVICES, *, deadline_seconds: float = UP_DEADLINE_SECONDS) -> None:
        """Start what does not run yet, and return when all of it answers.

        Raises StackError, with the end of the log, where a server ends or does not answer in time; what
        this call started is stopped then.
        """
        wanted = self._with_needs(services)
        with locked(self.folder):
            state = self._state()
            self._check_ports(state, wanted)
            missing = [service for service in wanted if not _runs(state, service.name)]
            self._choose_ports(state, missing)
            save(self.folder, state)  # before anything is made with its password
            home = self._home(state)
            launches: dict[str, Launch] = {}
            for service in missing:
                service.fetch(home)
            try:
                with ThreadPoolExecutor(max(1, len(missing))) as pool:
                    prepared = pool.map(lambda service: service.prepare(home), missing)
                    for service, launch in zip(missing, prepared, strict=True):
                        launches[service.name] = launch
                        state.processes[service.name] = start(launch)
                        save(self.folder, state)
                self._wait(state, wanted, time.monotonic() + deadline_seconds)
            except BaseException:  # Ctrl-C too: what is half up helps nobody
                self._stop(state, list(launches))
                raise

    def down(self, services: Sequence[str] | None = None) -> None:
        """Stop the servers, all by default; their data stays. Returns when no process is left."""
        named = [self._server(name) for name in services] if services else self._servers
        names = [each.name for each in self._servers if each in named]
        if self.folder.exists():
            with locked(self.folder):
                self._stop(self._state(), names[::-1])

    def status(self) -> list[ServiceStatus]:
        """What each server that was ever started here does now."""
        state = self._state()
        home = self._home(state)
        rows = []
        for service in self._servers:
            if service.port_names[0] in state.ports:
                running = _runs(state, service.name)
                pid = state.processes[service.name].pid if running else None
                address = f"127.0.0.1:{state.ports[service.port_names[0]]}"
                rows.append(ServiceStatus(service.name, pid, running and service.answers(home), address))
        return rows

    def reset(self) -> None:
        """Stop everything, and remove all data, logs and remembered ports."""
        self.down()
        home = self._home(State())
        for service in self._servers:
            service.forget(home)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _state(self) -> State:
        return load(self.folder) or State()

    def _home(self, state: State) -> Home:
        return Home(self.folder, state.ports, state.password, self._mirror, self._jit)

    def _address(self, service: str) -> str:
        port = self._state().ports.get(service)
        if port is None:
            raise StackError(
                f"{service}: expected a started stack in {self.directory}; start it with: kompensate dev up, or give "
                "--dir, the directory that one was started in"
            )
        return f"127.0.0.1:{port}"

    def _check_ports(self, state: State, services: Sequence[Service]) -> None:
        """What runs cannot move to another port."""
        for service in services:
            for name in service.port_names:
                chosen, current = self._chosen.get(name), state.ports.get(name)
                if _runs(state, service.name) and chosen not in (None, current):
                    raise StackError(
                        f"{service.name}: expected {name} on port {chosen}, but it runs on {current} already; "
                        "stop it first: kompensate dev down"
                    )

    def _choose_ports(self, state: State, services: Sequence[Service]) -> None:
        """A free port for every name: the chosen one, else the remembered one, else another."""
        for service in services:
            for name in service.port_names:
                chosen, remembered = self._chosen.get(name), state.ports.get(name)
                if chosen is not None:
                    if not becomes_free(chosen, PORT_GRACE_SECONDS):
                        raise StackError(
                            f"{service.name}: expected port {chosen} to be free, but another process "
                            f"listens on it; end that process, or choose another port for {name}"
                        )
                    state.ports[name] = chosen
                elif remembered is None or not becomes_free(remembered, PORT_GRACE_SECONDS):
                    state.ports[name] = _free_port(taken=set(state.ports.values()))
                    if remembered is not None:
                        self._say(f"port {remembered} of {name} is in use by now: {state.ports[name]} from here on")

    def _wait(self, state: State, services: Sequence[Service], until: float) -> None:
        home = self._home(state)
        waiting = list(services)
        while waiting:
            service = waiting[0]
            if service.answers(home):
                waiting.pop(0)
                self._say(f"{service.name} answers on 127.0.0.1:{state.ports[service.port_names[0]]}")
                continue
            ended = not _runs(state, service.name)
            if ended or time.monotonic() > until:
                log = home.log(service.name)
                what = "ended while starting" if ended else "did not answer in time"
                end = tail(log)
                # Kafka's word for data that a newer one wrote.
                newer = " Its data is another version's: remove it with `kompensate dev reset`."
                hint = newer if "UnsupportedVersionException" in end else ""
                raise StackError(f"{service.name}: {what}.{hint} The end of {log}:\n{end}")
            time.sleep(POLL_SECONDS)

    def _stop(self, state: State, names: Sequence[str]) -> None:
        for name in names:
            running = state.processes.pop(name, None)
            if running is not None:
                if alive(running):
                    self._say(f"stopping {name}")
                    stop(running, self._server(name).stop_signal, self._stop_deadline_seconds)
                save(self.folder, state)

    def _server(self, name: str) -> Service:
        for each in self._servers:
            if each.name == name:
                return each
        raise StackError(f"expected one of {', '.join(each.name for each in self._servers)}, got {name!r}")

    def _with_needs(self, names: Sequence[str]) -> list[Service]:
        """The named servers and what they need, in the order in which they need each other."""
        needed = {need for name in names for need in (name, *self._server(name).needs)}
        return [each for each in self._servers if each.name in needed]


def _runs(state: State, name: str) -> bool:
    return name in state.processes and alive(state.processes[name])


def _free_port(taken: set[int]) -> int:
    """A port that nobody listens on; random, so that two stacks started at once seldom pick the same."""
    for port in random.sample(PORTS, len(PORTS)):
        if port not in taken and port_is_free(port):
            return port
    raise StackError(f"expected a free port in {PORTS.start}..{PORTS.stop - 1}, got none")
