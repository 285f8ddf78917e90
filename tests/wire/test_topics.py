"""Names, keys and partitions: the same as other clients compute, and nothing that would read as another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompensate.schemas.topics import (
    Topics,
    check_name,
    check_saga_id,
    murmur2,
    page_key,
    partition_of,
    saga_of_key,
)

# Signed values from the Java client's own test (org.apache.kafka.common.utils.UtilsTest, testMurmur2).
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", JAVA)
def test_murmur2_is_the_java_clients(key: bytes) -> None:
    """Any client with the default partitioner finds a saga's partition."""
    assert murmur2(key) == JAVA[key] & 0xFFFFFFFF


def test_partitions_are_the_positive_hash() -> None:
    """As the Java client's toPositive has it: the sign bit is cut off, not the absolute value taken."""
    assert partition_of("foobar", 12) == (JAVA[b"foobar"] & 0x7FFFFFFF) % 12
    assert {partition_of(f"order-{n}", 4) for n in range(50)} == {0, 1, 2, 3}
    assert partition_of("anything", 1) == 0


@pytest.mark.parametrize("id_", ["a", "A-Z.0_9:x", "_one", "x" * 200])
def test_ids_that_may_be(id_: str) -> None:
    """Letters, digits and . _ : - up to 200."""
    assert check_saga_id(id_) == id_


@pytest.mark.parametrize("id_", ["", "x" * 201, "__x", "a/1", "a b", "ä", "a\n", "٣", "a\0"])
def test_ids_that_may_not_be(id_: str) -> None:
    """`/` and a leading `__` are ours; the error says what may be, and what was."""
    with pytest.raises(ValueError, match="saga id: expected 1 to 200 of the characters") as raised:
        check_saga_id(id_)

    assert repr(id_) in str(raised.value)


@pytest.mark.parametrize("value", [None, 7, b"o-1", Topics("shop")])
def test_what_is_no_text_is_no_id_and_no_name(value: object) -> None:
    """Arguments that were swapped: the error names what came, and quotes none of it."""
    got = f"got {type(value).__name__}$"
    with pytest.raises(ValueError, match=f"^saga id: expected a text, {got}"):
        check_saga_id(value)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match=f"^saga: expected a text, {got}"):
        check_name("saga", value)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a b", "x" * 101, "a\n"])
def test_names_that_may_not_be(name: str) -> None:
    """Names become parts of topics' names."""
    with pytest.raises(
        ValueError, match=r"service: expected 1 to 100 of A-Z a-z 0-9 \. _ - beginning with a letter or digit"
    ):
        check_name("service", name)


@given(st.from_regex(r"[A-Za-z0-9.:-][A-Za-z0-9._:-]{0,199}", fullmatch=True), st.integers(0, 10**17))
def test_keys_read_as_written(saga_id: str, number: int) -> None:
    """A page's key tells whose it is and which."""
    assert saga_of_key(page_key(saga_id, number)) == (saga_id, number)


@pytest.mark.parametrize(
    "key", ["", "/1", "a/", "a/0", "a/01", "a/-1", "a/+1", "a/ 1", "a/1_0", "a/٣", "a/1/2", "a/" + "9" * 5_000]
)
def test_keys_that_are_none(key: str) -> None:
    """Only plain page numbers from 1: any other would be a page's second name."""
    with pytest.raises(ValueError, match="key: expected a saga id, or one with / and a page number from 1"):
        saga_of_key(key)


def test_names_of_topics() -> None:
    """The prefix stands before every name, services' topics included."""
    topics = Topics("shop", "test-")

    assert (topics.requests, topics.control, topics.state, topics.history, topics.quarantine) == (
        "test-shop.requests",
        "test-shop.control",
        "test-shop.state",
        "test-shop.history",
        "test-shop.quarantine",
    )
    assert (topics.replies("payments"), topics.commands("payments"), topics.dead("payments")) == (
        "test-shop.replies.payments",
        "test-payments.commands",
        "test-payments.dead",
    )
