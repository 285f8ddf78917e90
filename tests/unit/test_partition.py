"""Stories of a partition: records in, records out."""

import gc

from kompensate.orchestrator import Application, Saga, Step
from kompensate.orchestrator.sagas.entry import Awake
from kompensate.orchestrator.sagas.journal import read_watermark
from kompensate.schemas import codec
from kompensate.schemas.messages import SIGNAL, Command
from tests.fixtures.driving import APP, CHECKOUT, SERVICES, Charge, Order, Refund, payments
from tests.fixtures.partitions import EPOCH, IDS, PARTITIONS, TOPICS, Input, Shop, header, keys


def test_one_saga_is_ten_records() -> None:
    """A four-step saga: five pages' versions over time, of which one summary is left, and four commands."""
    shop = Shop()
    saga_id = IDS[0]
    plan = f"shop.state __def/checkout/{CHECKOUT.plan.hash}"

    batches = [keys(shop.do(shop.start()))]
    batches += [keys(shop.do(shop.reply())) for _ in range(4)]

    assert batches == [
        ["shop.state __wm/0", plan, f"inventory.commands {saga_id}", f"shop.state {saga_id}"],
        ["shop.state __wm/0", f"payments.commands {saga_id}", f"shop.state {saga_id}"],
        ["shop.state __wm/0", f"shipping.commands {saga_id}", f"shop.state {saga_id}"],
        ["shop.state __wm/0", f"inventory.commands {saga_id}", f"shop.state {saga_id}"],
        ["shop.state __wm/0", f"shop.history {saga_id}", f"shop.state {saga_id}"],
    ]
    own = [key for batch in batches for key in batch if "__" not in key]
    assert len(own) == 10
    assert codec.schema_id(shop.state[-1].value or b"") == codec.SUMMARY
    assert header(shop.state[-1])[1:6] == (10, EPOCH, "completed", "-", "checkout")
    assert shop.partition.live == 0


def test_the_watermark_tells_where_every_input_stands() -> None:
    """First in each transaction: offsets of all inputs, requests always among them, also those never read."""
    shop = Shop()
    shop.do(shop.start())

    records, offsets = shop.do(shop.reply()), shop.committed

    assert records[0].key == b"__wm/0"
    assert records[0].partition == 0
    assert read_watermark(records[0].value or b"") == ("writer-1", 2, 2, offsets)
    replies = {f"shop.replies.{service}": 0 for service in ("payments", "shipping")}
    assert offsets == {"shop.requests": 1, "shop.control": 0, "shop.replies.inventory": 1, **replies}


def test_a_saga_that_has_ended_leaves_nothing_to_the_garbage_collector() -> None:
    """No cycles: the worker's process collects seldom."""
    shop = Shop()
    gc.collect()
    gc.disable()
    try:
        others = _awake()  # of tests that are over, which pytest keeps
        shop.do(shop.start())
        before = _awake() - others
        for _ in range(4):
            shop.do(shop.reply())
        after = _awake() - others
    finally:
        gc.enable()

    assert (before, after) == (1, 0)


def _awake() -> int:
    return sum(type(found) is Awake for found in gc.get_objects())


def test_many_sagas_share_a_transaction() -> None:
    """One watermark, and each saga once however many inputs it had; the plan is stored once per partition."""
    shop = Shop()
    shop.take(shop.start(saga_id) for saga_id in IDS[:5])
    shop.take([shop.request(SIGNAL, IDS[0], subject="paid")])

    records = shop.commit()

    assert [r.key for r in records if r.topic == TOPICS.state][2:] == [saga_id.encode() for saga_id in IDS[:5]]
    assert (
        header(next(r for r in records if r.key == IDS[0].encode() and r.headers and r.topic == TOPICS.state)).events
        == 3
    )
    assert not [key for key in keys(shop.do(shop.start(IDS[6]))) if "__def" in key]
    shop.crash()
    assert not [key for key in keys(shop.do(shop.start(IDS[7]))) if "__def" in key]


def test_a_command_says_where_its_answer_goes() -> None:
    """Its record is keyed by the saga; reply topic and partition are explicit; the trace is carried through."""
    shop = Shop()
    request = shop.start()
    traced = request._replace(headers=[*(request.headers or ()), ("traceparent", b"00-1-2-01"), ("tracestate", b"a=b")])

    records = shop.do(traced)

    record = next(r for r in records if r.topic == "inventory.commands")
    command = Command.parse(record.headers, record.value)
    assert (record.partition, record.key, record.value) == (None, IDS[0].encode(), b'{"order_id":"o1"}')
    assert (command.reply_to, command.reply_partition) == ("shop.replies.inventory", 0)
    assert (command.source, command.saga_type) == ("kompensate:shop", "checkout")
    assert (command.trace.parent, command.trace.state) == ("00-1-2-01", "a=b")


def test_a_command_with_a_key_is_placed_by_it() -> None:
    """The record has the step's key; whose command it is, and where its answer goes, is the saga's as always."""
    charge = Step("charge", payments, Charge, undo=Refund, key=lambda scope: "account-«7»")
    shop = Shop(Application(APP, [Saga("checkout", Order, [charge])], services=SERVICES, partitions=PARTITIONS))
    records = [
        r for r in [*shop.do(shop.start()), *shop.do(shop.reply(outcome="refused"))] if r.topic == "payments.commands"
    ]

    [record] = records
    command = Command.parse(record.headers, record.value)
    assert (record.partition, record.key) == (None, "account-«7»".encode())
    assert (command.saga_id, command.reply_partition) == (IDS[0], 0)


def test_a_duplicate_start_changes_nothing() -> None:
    """While it runs and after its end, within the window, only offsets move on."""
    shop = Shop()
    shop.do(shop.start())

    assert keys(shop.do(shop.start())) == ["shop.state __wm/0"]
    for _ in range(4):
        shop.do(shop.reply())
    assert keys(shop.do(shop.start())) == ["shop.state __wm/0"]
    shop.crash()
    assert keys(shop.do(shop.start())) == ["shop.state __wm/0"]
    assert shop.quarantined == []


def test_an_id_is_free_again_after_the_window() -> None:
    """The summary is tombstoned then; the same id starts a new run, whose commands have new ids."""
    shop = Shop(dedup_window_seconds=60.0)
    shop.do(shop.start())
    first = shop.commands[-1]
    for _ in range(4):
        shop.do(shop.reply())
    assert shop.restored().next_due == EPOCH + 60_000

    assert keys(shop.wait(60_000)) == ["shop.state __wm/0", f"shop.state {IDS[0]} †"]
    shop.do(shop.start())

    assert shop.commands[-1].step == "reserve"
    assert shop.commands[-1].id != first.id
    assert header(shop.state[-1]).run == "0.1"


def test_an_id_that_is_forgotten_and_used_in_one_batch() -> None:
    """The tombstone goes before the new page; taken back, the old summary stands again."""
    shop = Shop(dedup_window_seconds=60.0)
    shop.do(shop.start())
    shop.do(shop.reply(outcome="refused"))
    shop.now += 60_000
    inputs: list[Input] = [(shop.now, 10), shop.start()]
    shop.take(inputs)
    shop.partition.discard()
    shop.take(inputs)

    records = keys(shop.commit())

    assert records.index(f"shop.state {IDS[0]} †") < records.index(f"shop.state {IDS[0]}")
    assert shop.partition.live == 1


def test_a_record_read_again_is_skipped() -> None:
    """After a rewind, what was handled already is known by its offset."""
    shop = Shop()
    start = shop.start()
    shop.do(start)

    shop.take([start])

    assert not shop.partition.dirty


def test_timers_fire_when_they_are_due() -> None:
    """A command without an answer goes out again; `next_due` says when to come back."""
    shop = Shop()
    shop.do(shop.start())
    assert shop.partition.next_due == EPOCH + 15_000

    assert keys(shop.wait(14_999)) == ["shop.state __wm/0"]
    assert keys(shop.wait(1))[1] == f"inventory.commands {IDS[0]}"
    assert shop.commands[0].id == shop.commands[1].id
    shop.crash()
    assert shop.partition.next_due == EPOCH + 45_000
    assert keys(shop.wait(30_000))[1] == f"inventory.commands {IDS[0]}"


def test_no_more_timers_than_asked_for() -> None:
    """After an outage timers come in portions, the earliest first."""
    shop = Shop()
    for saga_id in IDS[:5]:
        shop.now += 1
        shop.do(shop.start(saga_id))
    shop.now += 60_000

    assert shop.partition.fire(shop.now, 2) == 2
    assert [r.key for r in shop.commit() if r.topic == "inventory.commands"] == [i.encode() for i in IDS[:2]]
    assert shop.partition.fire(shop.now, 10) == 3
    assert shop.partition.fire(shop.now, 10) == 0


def test_a_saga_in_flight_keeps_its_plan_over_a_restore() -> None:
    """Deployed with other steps, a worker still follows the plan that is in the state topic."""
    shop = Shop()
    shop.do(shop.start())
    other = type(CHECKOUT)("checkout", Order, list(reversed(list(CHECKOUT.steps.values())[:2])))
    steps = [*other.steps.values(), *list(CHECKOUT.steps.values())[2:]]
    other = type(CHECKOUT)("checkout", Order, steps)
    shop.crash(application=Application(APP, [other], services=SERVICES, partitions=PARTITIONS))

    shop.do(shop.start(IDS[1]))
    for _ in range(4):
        shop.do(shop.reply(next(c for c in reversed(shop.commands) if c.saga_id == IDS[0])))

    assert [c.step for c in shop.commands if c.saga_id == IDS[0]] == ["reserve", "charge", "ship", "confirm"]
    assert [c.step for c in shop.commands if c.saga_id == IDS[1]] == ["charge"]
    assert len([r for r in shop.state if (r.key or b"").startswith(b"__def/")]) == 2
