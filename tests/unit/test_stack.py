"""What a stack does with its servers, tried on a small one that only listens."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kompensate.compose.local.errors import StackError
from kompensate.compose.local.processes import Running, alive, port_is_free
from kompensate.compose.local.stack import Stack
from kompensate.compose.local.state import State, load, save
from tests.fixtures.servers import LISTEN, Listener
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow  # processes start and end


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path, servers=[Listener()])
    yield stack
    stack.reset()


def _port(stack: Stack) -> int:
    return int(stack.status()[0].address.rpartition(":")[2])


def _pids(stack: Stack) -> list[int | None]:
    return [row.pid for row in stack.status()]


def test_up_is_idempotent(listening: Stack) -> None:
    """A second `up` starts nothing and changes no port."""
    listening.up(["listener"])
    before = listening.status()
    listening.up(["listener"])

    assert listening.status() == before
    assert before[0].answers


def test_down_leaves_no_process_and_forgets_no_port(listening: Stack) -> None:
    """After `down` the process is gone, and the next `up` listens where the last one did."""
    listening.up(["listener"])
    port, pid = _port(listening), listening.pid("listener")
    listening.down()

    assert _pids(listening) == [None]
    assert port_is_free(port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

    listening.up(["listener"])

    assert _port(listening) == port


def test_a_second_command_sees_what_the_first_started(listening: Stack) -> None:
    """Another object on the same directory, as another command makes it, stops the server."""
    listening.up(["listener"])
    Stack(listening.directory, servers=[Listener()]).down()

    assert _pids(listening) == [None]


def test_ups_at_once_start_one_server(listening: Stack) -> None:
    """Commands that change one stack wait for each other."""
    ups = [threading.Thread(target=listening.up, args=(["listener"],)) for _ in range(4)]
    for each in ups:
        each.start()
    for each in ups:
        each.join()

    assert listening.log("listener").read_text(encoding="utf-8").count("listening on") == 1


def test_a_killed_server_is_started_again(listening: Stack) -> None:
    """A server that died without us is down in `status`, and `up` starts it."""
    listening.up(["listener"])
    pid = listening.pid("listener")
    os.kill(pid, signal.SIGKILL)
    wait_until("the server is seen to be dead", lambda: _pids(listening) == [None])
    listening.up(["listener"])

    assert listening.pid("listener") != pid


def test_a_stale_pid_never_stops_a_stranger(listening: Stack) -> None:
    """A recorded pid that now belongs to another process is neither alive nor stopped."""
    listening.up(["listener"])
    listening.down()
    stranger = subprocess.Popen([sys.executable, "-I", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        state = load(listening.folder) or State()
        state.processes["listener"] = Running(stranger.pid, "1")
        save(listening.folder, state)

        assert _pids(listening) == [None]
        listening.down()
        assert stranger.poll() is None
        listening.up(["listener"])
        assert listening.pid("listener") != stranger.pid
    finally:
        stranger.communicate(b"\n")


def test_a_remembered_port_in_use_is_replaced(tmp_path: Path, listening: Stack) -> None:
    """A port that was picked for the stack and is taken by now gives way to another, and that is said."""
    said: list[str] = []
    listening.up(["listener"])
    port = _port(listening)
    listening.down()
    with socket.create_server(("127.0.0.1", port)):
        stack = Stack(tmp_path, servers=[Listener()], say=said.append)
        stack.up(["listener"])

        assert _port(stack) != port
        assert said[0] == f"port {port} of listener is in use by now: {_port(stack)} from here on"


def test_a_chosen_port_in_use_is_an_error(tmp_path: Path) -> None:
    """A port that was asked for is not silently replaced."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack = Stack(tmp_path, servers=[Listener()], ports={"listener": port})
        with pytest.raises(StackError, match=f"expected port {port} to be free"):
            stack.up(["listener"])


def test_a_running_server_does_not_move(tmp_path: Path, listening: Stack) -> None:
    """Choosing a port for a server that runs on another one says what to do."""
    listening.up(["listener"])
    stack = Stack(tmp_path, servers=[Listener()], ports={"listener": 1})
    with pytest.raises(StackError, match=f"runs on {_port(listening)} already; stop it first"):
        stack.up(["listener"])


def test_a_server_that_ends_while_starting_shows_its_log(tmp_path: Path) -> None:
    """The error holds the log's last words, and nothing is left behind."""
    stack = Stack(tmp_path, servers=[Listener(program="print('no more disk'); raise SystemExit(1)")])
    with pytest.raises(StackError, match=r"listener: ended while starting\. The end of .*\n  no more disk"):
        stack.up(["listener"])

    assert _pids(stack) == [None]


def test_data_of_another_version_is_named(tmp_path: Path) -> None:
    """What Kafka says of data that a newer one wrote is a stack trace: the error says what to do."""
    program = "print('UnsupportedVersionException: version 4 of BrokerEndpoint'); raise SystemExit(1)"
    stack = Stack(tmp_path, servers=[Listener(program=program)])
    with pytest.raises(
        StackError, match=r"while starting\. Its data is another version's: remove it with `kompensate dev"
    ):
        stack.up(["listener"])


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    """After the deadline `up` gives up, takes along what it started, and stubborn ones too."""
    mute = "import signal, time; signal.signal(15, signal.SIG_IGN); print('mute', flush=True); time.sleep(60)"
    stack = Stack(tmp_path, servers=[Listener("good"), Listener("mute", mute)], stop_deadline_seconds=0.5)
    with pytest.raises(StackError, match=r"mute: did not answer in time\. The end of .*"):
        stack.up(["good", "mute"], deadline_seconds=0.5)

    assert _pids(stack) == [None, None]


def test_servers_start_with_what_they_need(tmp_path: Path) -> None:
    """Asking for a server starts those it needs."""
    stack = Stack(tmp_path, servers=[Listener("base"), Listener("top", LISTEN, needs=("base",))])
    try:
        stack.up(["top"])

        assert [(row.name, row.answers) for row in stack.status()] == [("base", True), ("top", True)]
    finally:
        stack.reset()


def test_reset_removes_everything(tmp_path: Path) -> None:
    """After `reset` nothing of the stack is left in its directory."""
    stack = Stack(tmp_path, servers=[Listener()])
    stack.up(["listener"])
    running = (load(stack.folder) or State()).processes["listener"]
    stack.reset()

    assert list(tmp_path.iterdir()) == []
    assert not alive(running)


def test_an_unreadable_state_is_an_error(tmp_path: Path) -> None:
    """A damaged state file is named, not taken for a stack that was never started."""
    (tmp_path / ".kompensate").mkdir()
    (tmp_path / ".kompensate" / "state.json").write_text('{"ports": ', encoding="utf-8")
    with pytest.raises(StackError, match=r"state\.json: expected a stack's state, got JSONDecodeError"):
        Stack(tmp_path).status()


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda stack: stack.up(["kafak"]), "expected one of kafka, postgres, connect, got 'kafak'"),
        (lambda stack: stack.pid("kafka"), "kafka: expected it to run in "),
        (lambda stack: stack.bootstrap, "kafka: expected a started stack in "),
        (lambda stack: Stack(".", ports={"kafak": 1}), "ports: expected names of .*, got "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, act: Callable[[Stack], object], expected: str) -> None:
    """Wrong names, and asking what is not there, say what was expected."""
    with pytest.raises(StackError, match=expected):
        act(Stack(tmp_path))
