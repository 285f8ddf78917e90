"""Providers that nobody wrote: what external handlers call, and the hands that take their time over it.

A provider does what it is asked for once a key, within its window, as chance has it: at once, with an answer that is
late or lost, or not at all. A request arrives when it is made or never: one that is under way for minutes nobody could
call back. What it has done is an effect as those in the databases are, of the command that it was for.

I14  a call goes out only when its intent is committed, and outside of a database transaction
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from kompensate.participants.outcome import Failed, OutsideCall, Refused, Retry
from kompensate.participants.outside import operating
from kompensate.participants.outside.tries import Ended, Try
from kompensate.schemas.faults import fault
from kompensate.simulator.violation import expect

if TYPE_CHECKING:
    from kompensate.simulator.run import Run

FATES = {"retry": 500, "lost": 400, "silent": 100, "unheard": 600, "late": 300, "long": 500}
"""How calls end, in ten-thousandths. What is left answers soon.

retry: not sent, and it says so. lost: the request was; unheard: the answer was, an error at once; silent: the answer
was, and nobody hangs up; late: it comes after the time-out; long: the work takes minutes, with heartbeats.
"""
REFUSED, FAILED, CANNOT_TELL = 400, 200, 3_000
SOON_SECONDS, LATE_TIMEOUTS, LONG_TIMEOUTS, SILENT_TIMEOUTS = 0.5, 1.5, 4.0, 20.0
OPERATOR_ODDS = 0.001
"""How likely it is, in each turn, that somebody looks after outcomes that are unknown."""


@dataclass(slots=True)
class Out:
    """A try under way: ends `at` that time, with `result` or `error`, or by doing its `work` first."""

    attempt: Try
    at: float
    result: object = None
    error: Exception | None = None
    work: Callable[[], object] | None = None


class Outside:
    """The providers of all services in a run."""

    def __init__(self, run: "Run") -> None:
        self.calm = False
        self._seed, self._clock, self._world, self._effects = run.plan.seed, run.clock, run.world, run.effects
        self._answer = run.reply
        self._random = Random(f"{self._seed}/operator")
        self._done: dict[str, tuple[float, object]] = {}
        """By key: when it was done, and the result."""
        self._by_command: dict[str, object] = {}
        self._now: Try | None = None
        self._services = sorted(name for name, one in run.world.participants.items() if one.calls_outside)

    # What handlers see of a provider.

    def call(self, payload: Any, call: OutsideCall) -> object:
        """One request. Raises whatever a handler may."""
        attempt = self._now
        assert attempt is not None
        command, fate = attempt.command, self._fate(attempt)
        if call.id not in self._done and command.phase == "forward" and not self.calm:
            roll = self._roll(command.id, "outcome")
            if roll < REFUSED:
                raise Refused("scripted")
            if roll < REFUSED + FAILED:
                raise Failed("scripted")
        if fate == "retry":
            raise Retry("scripted: no connection")
        if fate == "lost":
            raise OSError("scripted: the request was lost")
        if fate == "long" and call.id not in self._done:
            return fate
        return self._do(attempt, payload, call)

    def find(self, _payload: Any, call: OutsideCall) -> object:
        """What the provider knows of a key: its books forget nothing. Raises Failed, OSError."""
        attempt = self._now
        assert attempt is not None
        if not self.calm and self._roll(attempt.command.id, f"ask {attempt.number}") < CANNOT_TELL:
            raise OSError("scripted: cannot tell")
        if call.id not in self._done:
            raise Failed("no such charge")
        return self._done[call.id][1]

    def _do(self, attempt: Try, payload: Any, call: OutsideCall) -> object:
        """The effect, unless this key had it within the window before the request came."""
        command, now, window = attempt.command, self._clock.monotonic(), attempt.options.window
        if window and call.id in self._done:
            since, result = self._done[call.id]
            if attempt.begun - since <= window:
                return result
        self._effects.took_effect(self._service(command.type), command.id, command.phase, command.compensates)
        result = self._answer(command.type, payload if isinstance(payload, dict) else {}, call)
        self._done[call.id] = (now, result)
        self._by_command[command.id] = result
        return result

    # Hands.

    def begin(self, attempt: Try) -> Out:
        """A try goes out. Raises what the process dies of at a fault point, and Violation."""
        now, timeout = self._clock.monotonic(), attempt.options.timeout
        soon = now + self._roll(attempt.command.id, f"{attempt.kind} {attempt.number}") / 10_000 * SOON_SECONDS
        fate = self._fate(attempt) if attempt.kind == "call" else "soon"
        self._now = attempt
        try:
            result = attempt.carry_out(now)
        except Exception as error:
            return Out(attempt, soon, error=error)
        finally:
            self._now = None
        if fate == "long" and result == "long":
            return Out(attempt, now + timeout * LONG_TIMEOUTS, work=lambda: self._work(attempt))
        if fate == "unheard":
            return Out(attempt, soon, error=OSError("scripted: the answer was lost"))
        if fate == "silent":
            return Out(attempt, now + timeout * SILENT_TIMEOUTS, error=OSError("scripted: hung up"))
        if fate == "late":
            return Out(attempt, now + timeout * LATE_TIMEOUTS, result)
        return Out(attempt, soon, result)

    def _work(self, attempt: Try) -> object:
        """The end of a long one, that nobody has given up."""
        if attempt.call.cancelled and attempt.number == 1:
            raise Refused("scripted: nobody wants it any more")
        if self._clock.monotonic() >= attempt.deadline or attempt.call.cancelled:
            raise OSError("scripted: stopped")
        return self._do(attempt, attempt.payload, attempt.call)

    def intended(self, attempt: Try) -> None:
        """Is the intent of this try committed? Raises Violation."""
        database, id_ = self._world.databases[self._service(attempt.command.type)], attempt.command.id
        expect(not database.in_transaction, "I14", f"command {id_} goes out in the middle of a transaction")
        column = "tries" if attempt.kind == "call" else "asks"
        found = database.query("SELECT tries, asks FROM idempotency WHERE command_id = ?", id_)
        counted = found[0][("tries", "asks").index(column)] if found else 0
        expect(
            counted >= attempt.number, "I14", f"{column} of {id_}: expected {attempt.number} intended, got {counted}"
        )

    # Operators.

    def turn(self) -> None:
        """A moment passes."""
        if not self.calm and self._random.random() < OPERATOR_ODDS:
            self.answer_unknown()

    def answer_unknown(self) -> None:
        """Somebody asks the provider what became of those outcomes that are unknown, and says it."""
        for service in self._services:
            database = self._world.databases[service]
            for (id_,) in database.query("SELECT command_id FROM idempotency WHERE status = 'unknown'"):
                done = id_ in self._by_command
                said = self._by_command[id_] if done else "scripted"
                with database.engine.begin() as connection:
                    operating.answer(connection, id_, "done" if done else "failed", said, clock=self._time)
                database.collect()

    def _time(self, _connection: object) -> float:
        """Of the databases."""
        return self._clock.now() / 1000

    def missing(self) -> list[str]:
        """What is still to come."""
        found = []
        for service in self._services:
            asked = "SELECT command_id FROM inbox WHERE state IN ('claimed', 'deferred')"
            found += [f"{service}: command {id_}" for (id_,) in self._world.databases[service].query(asked)]
        return found

    def _fate(self, attempt: Try) -> str:
        roll = self._roll(attempt.command.id, f"fate {attempt.number}")
        if self.calm or attempt.kind != "call":
            return "soon"
        for fate, odds in FATES.items():
            roll -= odds
            if roll < 0:
                return fate
        return "soon"

    def _roll(self, id_: str, what: str) -> int:
        return crc32(f"{self._seed}/outside {what}/{id_}".encode()) % 10_000

    @staticmethod
    def _service(contract: str) -> str:
        return contract.partition(".")[0]


@dataclass(slots=True)
class SlowHands:
    """A process's Hands: what they carry out ends when its time has come, while the process lives."""

    outside: Outside
    ended: Callable[[Ended], None]
    monotonic: Callable[[], float]
    out: list[Out] = field(default_factory=list)

    def start(self, attempt: Try) -> None:
        self.outside.intended(attempt)
        self.out.append(self.outside.begin(attempt))

    def deliver(self) -> None:
        """Tell what has ended by now; who works long says that he is alive."""
        now = self.monotonic()
        for one in list(self.out):
            if one.work is not None and now < one.attempt.deadline:
                one.attempt.call.heartbeat(round(now))
            if one.at <= now:
                self.out.remove(one)
                self.ended(self._end(one))

    @staticmethod
    def _end(one: Out) -> Ended:
        try:
            result = one.result if one.work is None else one.work()
            fault("outside.after_call")
        except Exception as error:
            return Ended(one.attempt, error=error)
        return Ended(one.attempt, result, one.error)

    def break_off(self, attempt: Try) -> None:
        """A thread cannot be stopped: it ends when it does."""

    def close(self) -> None:
        """The process ends: nobody is told any more."""
        self.out.clear()


def providers(run: "Run") -> Outside | None:
    """Who is called from outside of transactions in this run; None where nobody is."""
    if not any(scripted.calls_outside for scripted in run.scripted.values()):
        return None
    outside = Outside(run)
    run.world.hands = lambda ended, monotonic: SlowHands(outside, ended, monotonic)
    for scripted in run.scripted.values():
        scripted.outside = outside
    return outside
