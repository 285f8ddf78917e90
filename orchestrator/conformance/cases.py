"""What a participant is tried with. Each case is a story: what is sent, and what must come of it.

A case's docstring is the promise that the report shows. `needs` are the samples without which it cannot be told.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from kompensate.orchestrator.conformance.talk import HOUR_MS, Talk, header
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.schemas import letters
from kompensate.schemas.messages import NOT_TRACED, Command

GARBAGE = b'\x00\xff{"'
RACES = 8
"""Sagas that a race is run with: one alone would seldom meet."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case by its name in the report."""

    name: str
    needs: tuple[str, ...]
    tell: Callable[[Talk], None]

    @property
    def promise(self) -> str:
        """What a participant promises that passes it."""
        return (self.tell.__doc__ or "").strip()


CASES: list[Case] = []


def _case(name: str, *needs: str) -> Callable[[Callable[[Talk], None]], Callable[[Talk], None]]:
    def add(tell: Callable[[Talk], None]) -> Callable[[Talk], None]:
        CASES.append(Case(name, needs, tell))
        return tell

    return add


@_case("done")
def _done(talk: Talk) -> None:
    """A command is done, once."""
    command = talk.command()
    talk.send(command)
    talk.expect_outcome(command, "done")
    talk.expect_effects(1)


@_case("refused", "refused")
def _refused(talk: Talk) -> None:
    """A refused command leaves nothing behind, and is refused again when it comes again, from what is stored."""
    command = talk.command("refused")
    talk.send(command)
    talk.expect_outcome(command, "refused")
    # After its time, too: who forgot the refusal would say that it has expired. Asked once more, the business says no
    # again, here, and elsewhere perhaps yes, to a saga that has gone back.
    talk.send(command, replace(command, expires_at=_now_ms() - HOUR_MS))
    talk.expect_outcome(command, "refused")
    talk.expect_alike(command)
    talk.expect_effects(0)


@_case("duplicate")
def _duplicate(talk: Talk) -> None:
    """A command that was answered is answered again from what is stored, and takes effect no second time."""
    command = talk.command()
    talk.send(command)
    talk.expect_outcome(command, "done")
    talk.send(command, command)
    talk.expect_outcome(command, "done")
    talk.expect_alike(command)
    talk.expect_effects(1)


@_case("concurrent-duplicates")
def _concurrent_duplicates(talk: Talk) -> None:
    """A command that lies in every partition at once takes effect once; it is answered, and alike if more than once."""
    commands = [talk.command(saga=number) for number in range(RACES)]
    places = range(talk.wire.command_partitions)
    talk.send_records([(one, talk.record(one, partition=place)) for one in commands for place in places])
    for command in commands:
        talk.answers(command)
    talk.pass_by(range(RACES), places)
    for number, command in enumerate(commands):
        talk.expect_outcome(command, "done")
        talk.expect_alike(command)
        talk.expect_effects(1, saga=number)


@_case("compensation", "compensation")
def _compensation(talk: Talk) -> None:
    """A done command's compensation takes effect; sent right behind its command, too."""
    command = talk.command()
    talk.send(command)
    talk.expect_outcome(command, "done")
    undo = talk.command("compensation", of=command)
    talk.send(undo)
    talk.expect_outcome(undo, "done")
    talk.expect_effects(2)
    command = talk.command(saga=1)
    undo = talk.command("compensation", saga=1, of=command)
    talk.send(command, undo)
    talk.expect_outcome(command, "done")
    talk.expect_outcome(undo, "done")
    talk.expect_effects(2, saga=1)


@_case("retried-compensation", "compensation")
def _retried_compensation(talk: Talk) -> None:
    """A compensation that comes again is answered again, and takes effect no second time, nor twice at once."""
    command = talk.command()
    undo = talk.command("compensation", of=command)
    talk.send(command, undo, undo)
    talk.expect_outcome(undo, "done")
    talk.pass_by([0], [talk.home(command.saga_id)])
    talk.send(undo)
    talk.expect_outcome(undo, "done")
    talk.expect_alike(undo)
    talk.expect_effects(2)


@_case("duplicate-after-compensation", "compensation")
def _duplicate_after_compensation(talk: Talk) -> None:
    """A command that comes again after its compensation keeps its answer, and takes effect no second time."""
    command = talk.command()
    undo = talk.command("compensation", of=command)
    talk.send(command, undo)
    talk.expect_outcome(command, "done")
    talk.expect_outcome(undo, "done")
    talk.send(command)
    talk.expect_outcome(command, "done")
    talk.expect_alike(command)
    talk.expect_effects(2)


@_case("empty-compensation", "compensation")
def _empty_compensation(talk: Talk) -> None:
    """A compensation whose command never came is done, and takes no effect; again when it comes again."""
    undo = talk.command("compensation", of=talk.command())
    talk.send(undo)
    talk.expect_outcome(undo, "done")
    talk.send(undo)
    talk.expect_outcome(undo, "done")
    talk.expect_effects(0)


@_case("late-command", "compensation")
def _late_command(talk: Talk) -> None:
    """A command that comes after its compensation is refused, and takes no effect, however often it comes."""
    command = talk.command()
    undo = talk.command("compensation", of=command)
    talk.send(undo)
    talk.expect_outcome(undo, "done")
    talk.send(command)
    talk.expect_outcome(command, "refused")
    talk.send(command, command)
    talk.expect_outcome(command, "refused")
    talk.expect_effects(0)


@_case("compensation-race", "compensation")
def _compensation_race(talk: Talk) -> None:
    """A command and its compensation at the same time: both take effect, or neither does."""
    pairs = []
    for number in range(RACES):
        command = talk.command(saga=number)
        pairs.append((command, talk.command("compensation", saga=number, of=command)))
    aside = [(talk.home(command.saga_id) + 1) % talk.wire.command_partitions for command, _ in pairs]
    records = [
        sent
        for (command, undo), place in zip(pairs, aside, strict=True)
        for sent in ((command, talk.record(command)), (undo, talk.record(undo, partition=place)))
    ]
    talk.send_records(records)
    for number, (command, undo) in enumerate(pairs):
        talk.expect_outcome(undo, "done")
        outcomes = talk.outcomes(command)
        if outcomes not in ({"done"}, {"refused"}):
            talk.differ(f"outcome of {command.type}", "done or refused", ", ".join(sorted(outcomes)))
        talk.expect_effects(2 if "done" in outcomes else 0, saga=number)


@_case("compensation-of-refused", "refused", "compensation")
def _compensation_of_refused(talk: Talk) -> None:
    """A refused command's compensation is done, and takes no effect: there is nothing to undo."""
    command = talk.command("refused")
    undo = talk.command("compensation", of=command)
    talk.send(command, undo)
    talk.expect_outcome(command, "refused")
    talk.expect_outcome(undo, "done")
    talk.expect_effects(0)


@_case("expired")
def _expired(talk: Talk) -> None:
    """A command that is read after its time is answered expired, and takes no effect, also when it comes again."""
    command = talk.command(expires_at=_now_ms() - HOUR_MS)
    talk.send(command)
    talk.expect_outcome(command, "expired")
    talk.send(command)
    talk.expect_outcome(command, "expired")
    talk.expect_effects(0)


@_case("compensation-of-expired", "compensation")
def _compensation_of_expired(talk: Talk) -> None:
    """An expired command's compensation is done, and takes no effect."""
    command = talk.command(expires_at=_now_ms() - HOUR_MS)
    undo = talk.command("compensation", of=command)
    talk.send(command, undo)
    talk.expect_outcome(command, "expired")
    talk.expect_outcome(undo, "done")
    talk.expect_effects(0)


@_case("answered-before-it-expired")
def _answered_before_it_expired(talk: Talk) -> None:
    """A command that was done in time keeps that answer when it comes again after its time."""
    command = talk.command(expires_at=_now_ms() + HOUR_MS)
    talk.send(command)
    talk.expect_outcome(command, "done")
    talk.send(replace(command, expires_at=_now_ms() - HOUR_MS))
    talk.expect_outcome(command, "done")
    talk.expect_alike(command)
    talk.expect_effects(1)


@_case("stale-attempt", "refused")
def _stale_attempt(talk: Talk) -> None:
    """A first attempt that comes again after the second was done keeps its own answer; so does the second."""
    first = talk.command("refused")
    second = talk.command(attempt=2, step=first.step)
    talk.send(first)
    talk.expect_outcome(first, "refused")
    talk.send(second)
    talk.expect_outcome(second, "done")
    talk.send(first, second)
    talk.expect_outcome(first, "refused")
    talk.expect_outcome(second, "done")
    talk.expect_effects(1)


@_case("unknown-type")
def _unknown_type(talk: Talk) -> None:
    """A command of a type that nobody handles is answered failed and becomes a dead letter; others go on."""
    _is_dead(talk, replace(talk.command(), type=f"{talk.subject.service}.NoSuchCommand"))


@_case("garbage-payload")
def _garbage_payload(talk: Talk) -> None:
    """A payload that does not read is answered failed and becomes a dead letter; others go on."""
    _is_dead(talk, replace(talk.command(), payload=GARBAGE))


@_case("no-headers")
def _no_headers(talk: Talk) -> None:
    """A record that is no command becomes a dead letter; what lies behind it in its partition goes on."""
    saga_id = talk.saga()
    junk = talk.record(talk.command())._replace(value=GARBAGE, headers=None)
    talk.wire.send([junk])
    _goes_on(talk, talk.home(saga_id))
    _check_letter(talk, junk)


@_case("spoilt-headers")
def _spoilt_headers(talk: Talk) -> None:
    """A command whose headers no database can hold, or that name no partition, becomes a dead letter; others go on."""
    spoilt = [("ce_id", b"an id\x00with NUL"), ("ce_replypartition", b"first")]
    records = [talk.record(talk.command(), [header])._replace(value=header[1]) for header in spoilt]
    talk.wire.send(records)
    _goes_on(talk, talk.home(talk.saga()))
    for record in records:
        _check_letter(talk, record)


@_case("null-headers")
def _null_headers(talk: Talk) -> None:
    """A header with a null value is as one that is absent."""
    command = talk.command(trace=NOT_TRACED)
    absent = ("ce_compensates", "ce_expirytime", "content-type", "traceparent", "tracestate")
    talk.send(command, headers=[(name, None) for name in absent])
    talk.expect_outcome(command, "done")
    talk.expect_effects(1)


@_case("unknown-headers")
def _unknown_headers(talk: Talk) -> None:
    """Headers that a newer orchestrator or a proxy adds are passed over, whatever is in them."""
    command = talk.command()
    talk.send(command, headers=[("ce_newer", b"1"), ("x-bytes", b"\xff\x00\xfe"), ("x-empty", b""), ("x-null", None)])
    talk.expect_outcome(command, "done")
    talk.expect_effects(1)


@_case("ordering-key")
def _ordering_key(talk: Talk) -> None:
    """A command's key may be another than its saga's id, or none; that of the answer is the saga's id all the same."""
    for saga, key in enumerate((b"customer-7", None)):
        command = talk.command(saga=saga)
        talk.send_records([(command, talk.record(command)._replace(key=key))])
        talk.expect_outcome(command, "done")
        for answer in talk.answers(command):
            talk.expect("key of the answer", command.saga_id.encode(), answer.key)
        talk.expect_effects(1, saga=saga)


@_case("aborted-command")
def _aborted_command(talk: Talk) -> None:
    """A command of a Kafka transaction that was aborted was never sent: it is not handled (read_committed)."""
    never = talk.command()
    after = talk.command(saga=1, reply_partition=never.reply_partition)  # so that its answer comes behind
    place = talk.home(never.saga_id)
    talk.send_aborted(never)
    talk.send_records([(after, talk.record(after, partition=place))])
    talk.expect_outcome(after, "done")
    talk.expect("answers to a command of an aborted transaction", 0, len(talk.heard_of(never)))
    talk.expect_effects(0)


def _is_dead(talk: Talk, command: Command) -> None:
    record = talk.record(command)
    talk.send_records([(command, record)])
    talk.expect_outcome(command, "failed")
    _goes_on(talk, talk.home(command.saga_id))
    talk.expect_effects(0)
    letter = _check_letter(talk, record)
    talk.expect("ce_id of the dead letter", command.id, header(letter, "ce_id"))
    talk.expect(f"{letters.ANSWERED} of the dead letter", "failed", header(letter, letters.ANSWERED))


def _goes_on(talk: Talk, partition: int) -> None:
    """A command behind it in its partition is done."""
    behind = talk.command(saga=1)
    talk.send_records([(behind, talk.record(behind, partition=partition))])
    talk.expect_outcome(behind, "done")


def _check_letter(talk: Talk, record: OutRecord) -> Record:
    letter = talk.letter(record)
    coordinates = (header(letter, letters.TOPIC), header(letter, letters.PARTITION))
    talk.expect("q_topic and q_partition of the dead letter", (record.topic, str(record.partition)), coordinates)
    for name in (letters.REASON, letters.OFFSET, letters.TIME):
        if not header(letter, name):
            talk.differ(f"{name} of the dead letter", "text", "nothing")
    return letter


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
