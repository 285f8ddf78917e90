"""Stories of bad input and bad logs: put aside or loudly stopped, and no other saga is held up."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kompensate.orchestrator import Application, Context, saga
from kompensate.orchestrator.errors import Corrupted
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.sagas import intake
from kompensate.orchestrator.sagas.journal import STATE_HEADER, life_of, next_run
from kompensate.schemas import letters
from kompensate.schemas.messages import CANCEL, PAUSE, REQUEST_TYPES, RESUME, SIGNAL, START, Reply, Request, timestamp
from kompensate.schemas.topics import partition_of
from tests.fixtures.driving import APP, CHECKOUT, SERVICES, Order, Reserve, inventory
from tests.fixtures.partitions import EPOCH, IDS, PARTITIONS, TOPICS, Shop, header, keys

BAD: list[tuple[str, Callable[[Shop], Record], str]] = [
    ("no headers", lambda s: s.record(TOPICS.requests, "x", b"{}", None), "header ce_type: expected text, got nothing"),
    ("unknown request", lambda s: s.request("kompensate.dance"), "header ce_type: expected one of"),
    (
        "unknown saga",
        lambda s: s.start(saga="unheard-of"),
        "of this application (checkout, performed), got 'unheard-of'",
    ),
    ("wrong payload", lambda s: s.start(value="text"), "cannot start: payload Order: Expected `object`, got `str`"),
    ("bad id", lambda s: s.start("__wm/0"), "saga id: expected 1 to 200 of the characters"),
    (
        "another partitioner",
        lambda s: s.start(next(f"o{n}" for n in range(9) if partition_of(f"o{n}", PARTITIONS))),
        "lives on partition 1 of 2 (murmur2 of its id), got its request on partition 0",
    ),
    (
        "too old",
        lambda s: s.start(time=EPOCH - 86_400_001),
        "expected a start asked for within the last 86400 s, got one from 86400 s before",
    ),
    ("cancel of nobody", lambda s: s.request(CANCEL), f"'{IDS[0]}' does not exist here: got a cancel"),
    ("pause of nobody", lambda s: s.request(PAUSE), "does not exist here: got a pause"),
    ("resume of nobody", lambda s: s.request(RESUME), "does not exist here: got a resume"),
    (
        "reply for nobody",
        lambda s: s.record(
            TOPICS.replies("inventory"), "x", b"null", Reply("r", "c", "x", "t", "s", "done", None).headers()
        ),
        "'x' does not exist here: got a reply",
    ),
    (
        "bytes that are no reply",
        lambda s: s.record(TOPICS.replies("inventory"), "x", b"\xff", [("ce_replyoutcome", b"\xff\xfe")]),
        "header ce_replyoutcome: expected UTF-8, got b'\\xff\\xfe'",
    ),
]


@pytest.mark.parametrize(("make", "told"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_put_aside(make: Callable[[Shop], Record], told: str) -> None:
    """Quarantined with its bytes, headers, coordinates and the reason; others in the batch go on."""
    shop = Shop()
    bad = make(shop)

    shop.do(bad, shop.start(IDS[1]))

    record = shop.quarantined[0]
    assert len(shop.quarantined) == 1
    assert told in shop.reasons()[0]
    assert (record.topic, record.partition, record.key, record.value) == (TOPICS.quarantine, 0, bad.key, bad.value)
    headers = list(record.headers or ())
    assert headers[: len(bad.headers or ())] == list(bad.headers or ())
    ours = dict(headers[len(bad.headers or ()) :])
    assert (ours["q_topic"], ours["q_partition"], ours["q_offset"]) == (bad.topic.encode(), b"0", b"%d" % bad.offset)
    assert ours["q_time"] == timestamp(EPOCH).encode()
    assert shop.commands[-1].saga_id == IDS[1]
    assert shop.partition.live == 1


def test_who_was_answered_is_told_from_who_was_not() -> None:
    """A child that cannot start is refused to its parent, and must not begin later; of others nobody heard."""
    shop = Shop()
    asked = Request("r", START, IDS[0], "s", "unheard-of", parent=IDS[1], command_id="c-1", payload=b"{}", time=EPOCH)

    shop.do(shop.record(TOPICS.control, IDS[0], asked.payload, asked.headers()), shop.start(saga="unheard-of"))

    assert [dict(record.headers or ()).get(letters.ANSWERED) for record in shop.quarantined] == [b"refused", None]


@pytest.mark.parametrize("type_", [each for each in REQUEST_TYPES if each not in (START, SIGNAL, CANCEL)])
def test_an_order_among_the_requests_is_put_aside(type_: str) -> None:
    """Whoever may start sagas may not pause, reset or answer for them: the saga goes on as if nothing had come."""
    shop = Shop()
    shop.do(shop.start())
    command, before = shop.commands[-1], len(shop.state)
    order = Request("r", type_, IDS[0], "s", subject="mended", payload=b"null", who="ann", step="reserve")
    order = replace(order, command_id=command.id, outcome="done")

    written = shop.do(shop.record(TOPICS.requests, IDS[0], order.payload, order.headers()))

    (reason,) = shop.reasons()
    assert reason.startswith(f"saga '{IDS[0]}': expected a {type_} on shop.control, got it on shop.requests: requests ")
    assert [record.topic for record in written] == ["shop.state", "shop.quarantine"]
    assert len(shop.state) == before + 1  # the watermark


def test_an_order_would_be_taken_from_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """That test is believed: it fails where nobody looks at the topic."""
    monkeypatch.setattr(intake, "topic_of", lambda _request, topics: topics.requests)

    with pytest.raises((AssertionError, ValueError)):
        test_an_order_among_the_requests_is_put_aside(PAUSE)


@pytest.mark.parametrize("type_", [START, CANCEL])
def test_nobody_speaks_as_a_parent_among_the_requests(type_: str) -> None:
    """Who starts a saga as another's child would have its end taken for an answer to a call of that other."""
    shop = Shop()
    shop.do(shop.start())
    posing = Request("r", type_, IDS[1], "s", "checkout", payload=b"{}", parent=IDS[0], command_id=shop.commands[-1].id)

    shop.do(shop.record(TOPICS.requests, IDS[1], posing.payload, posing.headers()))

    assert f"expected a {type_} of a child on shop.control, got it on shop.requests" in shop.reasons()[0]
    assert shop.partition.live == 1


@pytest.mark.parametrize("type_", [START, SIGNAL, CANCEL])
def test_a_request_among_the_orders_is_put_aside(type_: str) -> None:
    """Each has one place: what is to come in order with a start stands behind it."""
    shop = Shop()
    asked = Request("r", type_, IDS[0], "s", "checkout", "paid", payload=b"{}")

    shop.do(shop.record(TOPICS.control, IDS[0], asked.payload, asked.headers()))

    assert f"expected a {type_} on shop.requests, got it on shop.control" in shop.reasons()[0]
    assert shop.partition.live == 0


def test_runs_that_an_order_began_are_marked() -> None:
    """A child's order and a request may have the same offset: their runs, and so their commands, differ."""
    shop = Shop()
    shop.do(shop.start(IDS[0], parent=IDS[1]), shop.start(IDS[1]))

    runs = {(record.key or b"").decode(): header(record).run for record in shop.state if record.headers}

    assert {id_: runs[id_] for id_ in IDS[:2]} == {IDS[0]: "0.o0", IDS[1]: "0.0"}
    assert next_run("0.o0") == "0.o0.1"
    assert life_of("0.o0.1") == "0.o0"


def test_a_request_just_young_enough() -> None:
    """The window's last millisecond still starts; a time in the future is no harm."""
    shop = Shop()

    shop.do(shop.start(IDS[0], time=EPOCH - 86_400_000), shop.start(IDS[1], time=EPOCH + 5_000))

    assert shop.partition.live == 2


def test_replies_that_are_not_ours() -> None:
    """By another service, or to another saga's command: put aside; duplicates and latecomers are just old."""
    shop = Shop()
    shop.do(shop.start(IDS[0]), shop.start(IDS[1]))
    mine, others = shop.commands

    shop.do(shop.reply(mine, topic=TOPICS.replies("payments")))
    shop.do(shop.reply(others, saga_id=IDS[0]))
    assert "expected a reply by 'inventory', got one by 'payments'" in shop.reasons()[0]
    assert f"expected a reply to a command of this saga, got one to {others.id!r}" in shop.reasons()[1]

    shop.do(shop.reply(mine))
    assert keys(shop.do(shop.reply(mine))) == ["shop.state __wm/0"]
    shop.do(shop.reply(outcome="refused"))
    shop.do(shop.reply())
    assert shop.partition.live == 1
    assert keys(shop.do(shop.reply(mine))) == ["shop.state __wm/0"]
    assert len(shop.quarantined) == 2


@pytest.mark.parametrize("same_batch", [True, False])
@pytest.mark.parametrize("verb", [CANCEL, PAUSE, RESUME, SIGNAL])
def test_requests_after_the_end(verb: str, same_batch: bool) -> None:
    """They are put aside, also where the end is not committed yet: nobody would read them."""
    shop = Shop()
    shop.do(shop.start())
    shop.take([shop.reply(outcome="refused")])
    if not same_batch:
        shop.commit()

    shop.do(shop.request(verb, subject="paid"))

    assert len(shop.quarantined) == 1


def _damaged(shop: Shop, change: Callable[[bytes], bytes], id_: str) -> None:
    for n, record in enumerate(shop.state):
        if record.key == id_.encode():
            shop.state[n] = record._replace(value=change(record.value or b""))


@pytest.mark.parametrize(
    "change",
    [lambda v: v[:-5], lambda v: v[:40] + bytes([v[40] ^ 4]) + v[41:], lambda v: b"", lambda v: b"\0\0\0\0\7" + v[5:]],
    ids=["cut", "a bit", "empty", "newer"],
)
def test_a_damaged_page_stops_its_saga_only(change: Callable[[bytes], bytes]) -> None:
    """Its inputs are put aside with what is damaged; it fires no timers; the others go on."""
    shop = Shop()
    shop.do(shop.start(IDS[0]), shop.start(IDS[1]))
    _damaged(shop, change, IDS[0])
    shop.crash()

    shop.do(shop.reply(shop.commands[0]), shop.reply(shop.commands[1]))
    shop.wait(60_000)

    assert len(shop.quarantined) == 1
    assert f"saga '{IDS[0]}': its pages in the state topic are damaged: " in shop.reasons()[0]
    assert [c.saga_id for c in shop.commands[2:]] == [IDS[1], IDS[1]]


def test_a_missing_page_stops_its_saga_only() -> None:
    """A gap between pages is damage too."""
    shop = Shop(page_bytes_max=1)
    shop.do(shop.start(IDS[0]), shop.start(IDS[1]))
    for command in shop.commands[:2]:
        shop.do(shop.reply(command))
    shop.state = [r for r in shop.state if r.key != IDS[0].encode()]
    shop.crash()

    shop.do(*(shop.reply(command) for command in shop.commands[2:4]))

    assert "page 0: expected run, number, first event and previous checksum" in shop.reasons()[0]
    assert len(shop.quarantined) == 1


def test_damaged_headers_stop_nobody_else() -> None:
    """A page without its header stops its saga; a summary without it still keeps its id; the rest is restored."""
    shop = Shop()
    shop.do(shop.start(IDS[0]), shop.start(IDS[1]), shop.start(IDS[2]))
    shop.do(shop.reply(shop.commands[1], outcome="refused"))
    shop.state = [
        r._replace(headers=[(STATE_HEADER, b"junk")]) if r.key in (IDS[0].encode(), IDS[1].encode()) else r
        for r in shop.state
    ]
    shop.crash()

    shop.do(shop.reply(shop.commands[0]), shop.start(IDS[1]), shop.reply(shop.commands[2]))

    assert len(shop.quarantined) == 1
    assert "header kompensate: expected 'run events due status hold definition', got b'junk'" in shop.reasons()[0]
    assert shop.commands[-1].step == "charge"


def test_a_missing_plan_holds_its_sagas(caplog: pytest.LogCaptureFixture) -> None:
    """Without its plan a saga is held and keeps what arrives; when today's steps are another plan, of course."""
    shop = Shop()
    shop.do(shop.start())
    shop.state = [r for r in shop.state if not (r.key or b"").startswith(b"__def")]
    other = type(CHECKOUT)("checkout", Order, list(CHECKOUT.steps.values())[:2])
    shop.crash(application=Application(APP, [other], services=SERVICES, partitions=PARTITIONS))

    shop.do(shop.reply())

    assert header(shop.state[-1])[3:6] == ("running", "quarantined", "checkout")
    assert "is held" in caplog.messages[-1]
    assert "then resume it" in caplog.messages[-1]


@saga("unwritable")
async def unwritable(ctx: Context, order: Order) -> None:
    await ctx.call(inventory, Reserve("o1"))
    await ctx.receive("\ud800")


@saga("unstartable")
async def unstartable(ctx: Context, order: Order) -> None:
    await ctx.receive("\ud800")


def test_what_cannot_be_written_holds_its_saga() -> None:
    """An event that no Avro string can hold is no reason to stop: the input is put aside, the saga held."""
    shop = Shop(Application(APP, [unwritable, unstartable], services=SERVICES, partitions=PARTITIONS))
    shop.do(shop.start(saga="unwritable"))

    shop.do(shop.reply(), shop.start(IDS[1], saga="unstartable"))

    assert "UnicodeEncodeError" in shop.reasons()[0]
    assert "UnicodeEncodeError" in shop.reasons()[1]
    assert header(shop.state[-1])[3:6] == ("running", "quarantined", "unwritable")
    assert shop.partition.live == 1
    shop.crash()
    shop.do(shop.request(CANCEL, subject="enough"))
    assert header(shop.state[-1]).status == "cancelled"


def test_an_input_whose_outcome_the_log_refuses() -> None:
    """The worker puts it aside: its offset moves on, the saga is as it was."""
    shop = Shop()
    shop.do(shop.start())
    reply = shop.reply()

    shop.partition.quarantine(reply, "too large")
    shop.commit()

    assert shop.reasons() == ["too large"]
    assert shop.committed[reply.topic] == reply.offset + 1
    assert len(shop.commands) == 1


CONTRADICTIONS: list[tuple[str, Callable[[Shop], None], str]] = [
    (
        "behind",
        lambda s: s.committed.update({"shop.requests": 0}),
        "expected the committed offset 1 of the watermark, got 0",
    ),
    (
        "ahead",
        lambda s: s.committed.update({"shop.requests": 9}),
        "expected the committed offset 1 of the watermark, got 9",
    ),
    ("gone", lambda s: s.committed.clear(), "expected the committed offset 1, as in the watermark, got none"),
    (
        "no watermark",
        lambda s: s.state.__setitem__(slice(None), [r for r in s.state if r.key != b"__wm/0"]),
        "partition 0: expected a watermark with 2 keys of state, got none",
    ),
    (
        "damaged watermark",
        lambda s: s.state.append(s.state[0]._replace(offset=99, value=b"\0\0\0\0\3\xff")),
        "watermark at shop.state/0@99: expected a whole watermark.avsc record",
    ),
    (
        "newer watermark",
        lambda s: s.state.append(s.state[0]._replace(offset=99, value=b"\0\0\0\0\x63\xff")),
        "got 99: was it written by a newer version?",
    ),
]


@pytest.mark.parametrize(("change", "told"), [c[1:] for c in CONTRADICTIONS], ids=[c[0] for c in CONTRADICTIONS])
def test_where_the_log_contradicts_itself_it_stops(change: Callable[[Shop], None], told: str) -> None:
    """Watermark and group offsets must agree: no guess is made about which is right."""
    shop = Shop()
    shop.do(shop.start())
    change(shop)

    with pytest.raises(Corrupted) as raised:
        shop.restored()

    assert told in str(raised.value)
    assert raised.value.partition == 0


@pytest.mark.parametrize(
    ("committed", "beginning", "expected"),
    [({}, {}, 0), ({}, {"shop.requests": 0}, 0), ({"shop.requests": 4}, {"shop.requests": 4}, 4)],
)
def test_where_inputs_begin(committed: dict[str, int], beginning: dict[str, int], expected: int) -> None:
    """A new input begins at 0; one with an offset and no state yet goes on at its offset."""
    partition = Shop().restored()
    partition = type(partition)(0, Shop().application, Shop().settings)
    partition.load([])

    assert partition.loaded(committed, beginning)["shop.requests"] == expected


@pytest.mark.parametrize(
    ("committed", "told"),
    [
        ({}, "expected a committed offset or a log that begins at 0, got none and 5"),
        ({"shop.requests": 4}, "expected records from offset 4 on, got a log that begins at 5"),
    ],
)
def test_inputs_that_were_deleted(committed: dict[str, int], told: str) -> None:
    """Records that retention deleted before they were handled stop the partition, loudly."""
    partition = type(Shop().partition)(0, Shop().application, Shop().settings)
    partition.load([])

    with pytest.raises(Corrupted) as raised:
        partition.loaded(committed, {"shop.requests": 5})

    assert told in str(raised.value)


def test_foreign_records_in_the_state_topic() -> None:
    """A record without a key, or with one that is nobody's, is left out and told; the rest is restored."""
    shop = Shop()
    shop.do(shop.start())
    foreign: list[Any] = [None, b"\xff", b"x/y", b"__else", b"__def/checkout/none"]
    shop.state += [Record(TOPICS.state, 0, 90 + n, EPOCH, key, b"?", None) for n, key in enumerate(foreign)]

    shop.crash()

    assert shop.partition.live == 1
    assert shop.do(shop.reply())
