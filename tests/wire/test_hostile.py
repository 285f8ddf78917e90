"""Hostile bytes: whatever arrives, the readers raise BadRecord, Damaged or BadMessage, and nothing else."""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.sagas.journal import Damaged, StateHeader, read_page, read_pages, read_watermark
from kompensate.schemas import codec
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.messages import BadMessage, Command, Reply, Request
from kompensate.schemas.topics import saga_of_key
from tests.fixtures import samples
from tests.fixtures.partitions import TOPICS, Shop

PREFIXES = [codec.prefix(id_) for id_ in codec.FILES]
READERS: list[Callable[[bytes], object]] = [
    read_page,
    lambda value: read_pages([value, value]),
    read_watermark,
    lambda value: codec.decode(value, codec.SUMMARY),
    lambda value: codec.decode(value, codec.PLAN),
    StateHeader.decode,
]


def _try(value: bytes) -> None:
    for read in READERS:
        with suppress(BadRecord, Damaged):
            read(value)


@given(st.binary(max_size=200), st.sampled_from([b"", *PREFIXES]))
def test_random_bytes(body: bytes, prefix: bytes) -> None:
    """Nothing else is raised, and nothing hangs."""
    _try(prefix + body)


@pytest.mark.parametrize("seed", range(3))
def test_records_with_bytes_changed(seed: int) -> None:
    """Good records with bytes changed, cut, doubled; the seed is the test's name."""
    random = Random(seed)
    good = list(samples.records().values())
    for _ in range(1_500):
        bad = bytearray(random.choice(good))
        for _ in range(random.randint(1, 4)):
            match random.randrange(4):
                case 0:
                    bad[random.randrange(len(bad))] = random.randrange(256)
                case 1:
                    bad[random.randrange(len(bad))] = random.choice([0, 0x7F, 0x80, 0xFF])
                case 2:
                    del bad[random.randrange(len(bad)) :]
                    bad += b"\0"
                case _:
                    at = random.randrange(len(bad))
                    bad[at:at] = bad[at : at + random.randrange(9)]
        _try(bytes(bad))


@pytest.mark.parametrize("seed", range(3))
def test_pages_changed_with_a_right_checksum(seed: int) -> None:
    """An attacker can compute a checksum: what is inside still reads or is told."""
    random = Random(seed)
    good = samples.pages()[0]
    start = len(PREFIXES[0]) + 5 + 1 + 1 + 4  # run "3.41", number, first, previous
    assert read_page(good).checksum == good[start : start + 4]
    for _ in range(1_500):
        bad = bytearray(good)
        for _ in range(random.randint(1, 3)):
            bad[random.randrange(start + 4, len(bad))] = random.randrange(256)
        checksum = crc32(bad[start + 4 : -1], crc32(bad[len(PREFIXES[0]) : start]))
        bad[start : start + 4] = checksum.to_bytes(4, "big")
        with suppress(BadRecord, Damaged):
            read_page(bytes(bad))


def test_lengths_that_lie() -> None:
    """A length of exabytes in a few bytes is told at once, without asking for the memory."""
    huge = codec.encode_long(2**62)
    negative = codec.encode_long(-(2**62))
    for prefix in PREFIXES:
        for length in (huge, negative, codec.encode_long(-1), b"\xff" * 12):
            _try(prefix + length + b"x")
            _try(prefix + b"\x06abc\0\0" + b"\0" * 8 + length + b"x")


_names = st.sampled_from(
    ["id", "content-type", "traceparent", "tracestate"]
    + [f"ce_{n}" for n in ("id", "type", "source", "correlationid", "causationid", "replyoutcome", "sagaphase", "time")]
    + [
        f"ce_{n}"
        for n in ("sagatype", "sagastep", "sagaattempt", "replyto", "replypartition", "compensates", "subject")
    ]
    + ["ce_expirytime"]
)
_values = st.one_of(
    st.none(),
    st.binary(max_size=12),
    st.sampled_from(
        [
            *(b"forward", b"compensate", b"done", b"kompensate.start", b"kompensate.signal", b"1", b"order-1"),
            *(b"2026-01-01T00:00:00Z", b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"2026-W01-1T00Z"),
            *("٣".encode(), b"99999999999999999999", b"-1"),
        ]
    ),
)
_headers = st.none() | st.lists(st.tuples(_names, _values), max_size=20)


@given(_headers, st.none() | st.binary(max_size=20))
def test_messages_with_any_headers(headers: list[tuple[str, bytes | None]] | None, payload: bytes | None) -> None:
    """Each kind of message reads or raises BadMessage."""
    for kind in (Command, Reply, Request):
        with suppress(BadMessage):
            kind.parse(headers, payload)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([TOPICS.requests, TOPICS.control, TOPICS.replies("inventory"), TOPICS.replies("payments")]),
            st.none() | st.binary(max_size=10),
            st.none() | st.binary(max_size=30),
            _headers,
        ),
        max_size=10,
    )
)
def test_a_partition_takes_any_records(
    found: list[tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
) -> None:
    """No input stops a partition: it goes into the batch or into quarantine, and the next one is handled."""
    shop = Shop()
    for topic, key, value, headers in found:
        record = shop.record(topic, None, value, headers)._replace(key=key)
        shop.take([record])
    shop.do(shop.start("order-0"))

    assert sum(shop.committed.values()) == len(found) + 1


@given(st.lists(st.tuples(st.binary(max_size=12), st.none() | st.binary(max_size=40), _headers), max_size=8))
def test_a_restore_takes_any_records(
    found: list[tuple[bytes, bytes | None, list[tuple[str, bytes | None]] | None]],
) -> None:
    """Foreign records in the state topic stop no saga but their own."""
    shop = Shop()
    shop.do(shop.start("order-0"))
    for key, value, headers in found:
        if key not in (b"__wm/0", b"order-0"):
            shop.state.append(Record(TOPICS.state, 0, len(shop.state), shop.now, key, value, headers))

    shop.crash()
    shop.do(shop.reply())

    assert shop.commands[-1].step == "charge"


@given(st.binary(max_size=60))
def test_plans_and_keys(data: bytes) -> None:
    """A stored plan or key that is none raises ValueError."""
    for read in (lambda: Plan.decode(data, "x"), lambda: saga_of_key(data.decode(errors="replace"))):
        with suppress(ValueError):
            read()
