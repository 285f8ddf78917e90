"""What nobody should have sent, on every topic of a shop at work: put aside with a reason, and the others go on."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from examples.checkout import orders
from examples.checkout.contracts import Order
from examples.checkout.sagas import app
from examples.checkout.shop import SERVICES, WORKERS
from kompensate.orchestrator.ports import Record
from kompensate.schemas.messages import CANCEL, SIGNAL, START, Command, Header, Reply, Request
from kompensate.schemas.payloads import encode
from kompensate.schemas.requests import topic_of
from kompensate.schemas.topics import partition_of
from tests.fixtures.system import LOT, System, reason_of
from tests.fixtures.waiting import wait_until

TAG = "x-test"
JUNK = b"\xff\xfe\x00junk"


@dataclass(frozen=True)
class Bad:
    """A record that must be put aside, and what the reason must tell."""

    topic: str
    headers: list[Header]
    value: bytes | None
    told: tuple[str, ...]
    key: bytes = JUNK
    partition: int = 0

    def record(self, tag: str = "") -> Record:
        headers = [*self.headers, (TAG, tag.encode())]
        return Record(self.topic, self.partition, 0, 0, self.key, self.value, headers)


def reasons(system: System) -> dict[str, str]:
    """Why each tagged record was put aside, by its tag."""
    topics = [system.topics.quarantine, *(system.topics.dead(service) for service in SERVICES)]
    tagged = {dict(r.headers or ()).get(TAG): reason_of(r) for r in system.records(*topics)}
    return {tag.decode(): reason for tag, reason in tagged.items() if tag is not None}


def put_in(system: System, bad: list[Bad]) -> None:
    """Write bad records between good orders; see that each was put aside with its reason, and nothing else."""
    before = len(system.reasons())
    tags = {f"{secrets.token_hex(4)}-{number}": one for number, one in enumerate(bad)}
    system.produce(one.record(tag) for tag, one in tags.items())
    system.send(2 * LOT)
    system.finish()
    system.settle()

    found = reasons(system)
    for tag, one in tags.items():
        for told in one.told:
            assert told in found[tag], f"{one.topic}: expected {told!r} in the reason, got {found[tag]!r}"
    assert len(system.reasons()) - before >= len(bad)
    system.prove(astray=True)


@pytest.mark.slow
def test_undecodable_bytes(system: System) -> None:
    """Bytes without headers, with headers that are no text, and nothing at all, on every input and command topic."""
    inputs = [system.topics.requests, system.topics.control, *system.reply_topics, *system.command_topics]
    bad = []
    for topic in inputs:
        bad.append(Bad(topic, [], JUNK, ("header ce_", "expected", "got nothing")))
        bad.append(Bad(topic, [("ce_type", JUNK), ("ce_replyoutcome", JUNK), ("ce_sagaphase", JUNK)], JUNK, ("UTF-8",)))
        bad.append(Bad(topic, [], None, ("header ce_", "expected", "got nothing"), partition=1))
    put_in(system, bad)


def placed(saga_id: str) -> int:
    return partition_of(saga_id, app.partitions)


def asked(system: System, request: Request, *told: str, beside: int = 0) -> Bad:
    """A bad request, `beside` partitions away from its own."""
    partition = (placed(request.saga_id) + beside) % app.partitions
    topic = topic_of(request, system.topics)
    return Bad(topic, request.headers(), request.payload, told, request.saga_id.encode(), partition=partition)


@pytest.mark.slow
def test_bad_requests(system: System) -> None:
    """Starts of no saga, with a wrong payload, at the wrong place; signals and cancels of sagas that are not there."""
    (order,) = system.take(1)
    good = Request("r", START, "bad-1", "test", saga_type="checkout", payload=encode(replace(order, order_id="bad-1")))
    put_in(
        system,
        [
            asked(system, replace(good, saga_type="chekout"), "chekout", "expected the name of a saga"),
            asked(
                system,
                replace(good, payload=b'{"order_id": 1}'),
                "checkout",
                "cannot start",
                "Expected `str`, got `int`",
            ),
            asked(system, replace(good, payload=JUNK), "checkout", "cannot start"),
            asked(system, replace(good, saga_id="no saga id!"), "saga id: expected", "got"),
            asked(system, good, "lives on partition", "got its request on partition", beside=1),
            asked(system, replace(good, type="kompensate.stop"), "header ce_type: expected one of", "kompensate.stop"),
            asked(system, Request("r", CANCEL, "nobody", "test", subject="why"), "'nobody'", "does not exist"),
        ],
    )


@pytest.mark.slow
def test_a_signal_before_its_start_waits(system: System) -> None:
    """A signal for a saga that is not there yet is no bad input: it is kept, and the saga then ends as ever."""
    (order,) = system.take(1)
    early = Request("s", SIGNAL, order.order_id, "test", subject="hurry", payload=b"{}")
    system.produce([asked(system, early).record()])
    system.start([order])
    system.finish()
    system.prove(astray=True)


def waiting(system: System) -> Mapping[str, Command]:
    """Send orders with shipping away: two that wait for it, and their open commands by saga id."""
    assert system.shop.children["shipping"].stop()
    topic = system.topics.commands("shipping")
    known = {r.key for r in system.records(topic)}
    sent: list[Order] = []
    while True:
        sent += system.send(LOT)
        shippable = [o.order_id for o in sent if _ships(o)]
        if len(shippable) >= 2:
            break
    system.wait_for_commands("shipping", shippable)
    found = (Command.parse(r.headers, r.value) for r in system.records(topic) if r.key not in known)
    return {command.saga_id: command for command in found}


def _ships(order: Order) -> bool:
    return orders.expected(order) in (orders.Fate.COMPLETED, orders.Fate.ADDRESS_REFUSED)


def answer(system: System, command: Command, service: str, *told: str, saga_id: str, outcome: str = "done") -> Bad:
    reply = Reply("q", command.id, saga_id, "x.Done", service, "done", b"{}")
    topic = system.topics.replies(service)
    return Bad(topic, reply.headers(), b"{}", told, saga_id.encode(), partition=placed(saga_id))


@pytest.mark.slow
def test_replies_that_nobody_waits_for(system: System) -> None:
    """For another saga, to no command, by another service, for no saga: the sagas that wait are not moved by them."""
    first, second, *_ = waiting(system).values()
    unknown = replace(first, id="0" * 32)
    bad = [
        answer(
            system, second, "shipping", "expected a reply to a command of this saga", second.id, saga_id=first.saga_id
        ),
        answer(
            system, unknown, "shipping", "expected a reply to a command of this saga", unknown.id, saga_id=first.saga_id
        ),
        answer(
            system, first, "payments", "expected a reply by 'shipping'", "got one by 'payments'", saga_id=first.saga_id
        ),
        answer(system, first, "shipping", "'nobody'", "does not exist", saga_id="nobody"),
    ]
    system.shop.children["shipping"].start()
    put_in(system, bad)


@pytest.mark.slow
def test_bad_commands(system: System) -> None:
    """Of an unknown type, with a wrong payload, to be answered where no topic is: dead letters with reasons."""
    good = Command(
        id="bad-command-1",
        type="payments.Charge",
        source="test",
        saga_id="nobody",
        saga_type="checkout",
        step="charge",
        phase="forward",
        attempt=1,
        reply_to=system.topics.replies("payments"),
        reply_partition=0,
        payload=b'{"order_id": "x", "customer": "nobody", "cents": 1}',
    )
    topic = system.topics.commands("payments")

    def sent(command: Command, *told: str) -> Bad:
        return Bad(topic, command.headers(), command.payload, told, command.saga_id.encode())

    bad = [
        sent(replace(good, id="bad-1", type="payments.Cahrge"), "payments.Cahrge", "expected"),
        sent(replace(good, id="bad-2", payload=b'{"cents": "many"}'), "payload Charge", "Expected `int`, got `str`"),
        sent(replace(good, id="bad-3", payload=JUNK), "payload Charge"),
    ]
    put_in(system, bad)

    # Refused, so without an effect; but the answer has nowhere to go.
    nowhere = replace(
        good, id="bad-4", reply_to="no.such.topic", payload=b'{"order_id": "x", "customer": "no", "cents": 1}'
    )
    system.produce([sent(nowhere).record()])
    system.send(LOT)
    system.finish()
    wait_until("its answer is a dead letter", lambda: any("no.such.topic" in told for told in system.reasons()), 60)
    system.prove(astray=True)


@pytest.mark.slow
def test_junk_in_the_state_topic(system: System) -> None:
    """Records that no worker wrote: the next owners say so, and take everything else over."""
    topic = system.topics.state
    header: list[Header] = [("kompensate", b"0.0 1 0 running - -")]
    junk = [
        Bad(topic, [], JUNK, (), key=JUNK),
        Bad(topic, [], JUNK, (), key=b"ghost-without-header"),
        Bad(topic, header, JUNK, (), key=b"ghost"),
        Bad(topic, header, b"", (), key=b"ghost/1"),
    ]
    system.produce(replace_partition(one.record(), n) for one in junk for n in range(app.partitions))
    before = {worker: system.running(worker) for worker in WORKERS}
    for worker in WORKERS:
        system.shop.children[worker].kill()
        system.shop.children[worker].start()
    system.send(2 * LOT)
    system.finish()

    assert sum(system.running(worker) - before[worker] for worker in WORKERS) >= app.partitions
    # Whoever reads the topic is told of them; nothing else is amiss.
    assert [line for line in system.complaints(astray=True) if "ghost" not in line and "junk" not in line] == []


def replace_partition(record: Record, partition: int) -> Record:
    return record._replace(partition=partition)
