"""Pages: appending is joining, what was written is read, and no damage goes unseen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.sagas.journal import Damaged, Page, StateHeader, block_of, read_page, read_pages
from kompensate.schemas import codec
from kompensate.schemas.codec import BadRecord
from tests.fixtures import samples

Inputs = list[tuple[Origin, list[e.Event]]]


def _written(run: str, inputs: Inputs) -> Page:
    page = Page(run)
    for origin, events in inputs:
        page.append(block_of(origin, events), len(events))
    return page


@given(samples.texts, samples.inputs)
def test_what_is_written_is_read(run: str, inputs: Inputs) -> None:
    """Every event with its sequence number and the input that led to it."""
    page = _written(run, inputs)

    read = read_page(page.value())

    assert (read.run, read.number, read.first) == (run, 0, 1)
    assert read.events == samples.recorded(inputs)


@given(samples.inputs, samples.inputs)
def test_appending_is_joining(before: Inputs, after: Inputs) -> None:
    """A page reopened from its bytes and appended to is the page that was never closed."""
    page = _written("0.0", before)
    value = page.value()
    again = Page.reopened(value, read_page(value))

    for origin, events in after:
        again.append(block_of(origin, events), len(events))

    assert again.value() == _written("0.0", before + after).value()
    assert again.checksum == _written("0.0", before + after).checksum


@given(st.lists(samples.inputs, min_size=1, max_size=4))
def test_pages_follow_each_other(each: list[Inputs]) -> None:
    """Sequence numbers go on from page to page; together they read as one history."""
    page = Page("0.0")
    values = []
    for inputs in each:
        for origin, events in inputs:
            page.append(block_of(origin, events), len(events))
        values.append(page.value())
        page = page.next()

    read = [recorded for page in read_pages(values) for recorded in page.events]

    assert read == samples.recorded([one for inputs in each for one in inputs])


def test_any_bit_that_flips_is_seen() -> None:
    """Each single bit of a page, its prefix included."""
    value = _written("0.0", [(Origin("t", 0, 1, 2), [e.SleepStarted(1, 5), e.SagaPaused("why")])]).value()

    for position in range(len(value) * 8):
        bad = bytearray(value)
        bad[position // 8] ^= 1 << position % 8
        with pytest.raises((Damaged, BadRecord)):
            read_page(bytes(bad))


def test_any_cut_is_seen() -> None:
    """Bytes missing at the end, or too many of them."""
    value = samples.pages()[0]

    for length in range(len(value)):
        with pytest.raises((Damaged, BadRecord)):
            read_page(value[:length])
    with pytest.raises(BadRecord, match=r"expected saga_page\.avsc to end after"):
        read_page(value + b"\0")


def _three() -> list[bytes]:
    page, values = Page("0.0"), []
    for n in range(3):
        page.append(block_of(Origin("t", 0, n, n), [e.SleepStarted(n + 1, 5)]), 1)
        values.append(page.value())
        page = page.next()
    return values


def test_pages_that_do_not_fit_together() -> None:
    """A gap, a page twice, another run's page, an old version of a page: each names the page, expected and got."""
    first, second, third = _three()
    other = Page("0.9", 1, 2, read_page(first).checksum).value()
    old = Page("0.0").value()

    for values in ([second], [first, third], [first, first], [second, first], [first, other], [old, second, third]):
        with pytest.raises(Damaged, match="expected run, number, first event and previous checksum"):
            read_pages(values)

    assert len(read_pages([first, second, third])) == 3


def test_an_empty_page_reads() -> None:
    """A page without inputs is one."""
    assert read_page(Page("0.0").value()).events == []


def test_a_policy_that_cannot_be_is_damage() -> None:
    """Whole and with a right checksum, but a policy that nobody could have made: damage, not a surprise."""
    event = samples.EVENTS[2]
    good = block_of(Origin("t", 0, 1, 2), [event])
    bad = good.replace(codec.encode_long(15_000), codec.encode_long(-14_000), 1)
    page = Page("0.0")
    page.append(bad, 1)

    with pytest.raises(Damaged, match="policy resend_after"):
        read_page(page.value())


@given(
    st.builds(
        StateHeader,
        *[st.text("ab0.:-", min_size=1)] * 1,
        *[st.integers(0, 2**62)] * 2,
        *[st.text("ab-", min_size=1)] * 3,
        limited=st.integers(0, 2**31),
    )
)
def test_state_headers_read_as_written(header: StateHeader) -> None:
    """Six words, and a seventh where calls are under limits."""
    assert StateHeader.decode(header.encode()) == header


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"0.0 1 2 running -",
        b"0.0 x 2 running - d",
        b"0.0 1 -2 running - d",
        b"0.0 1 2 running - d x",
        b"0.0 1 2 running - d 1 1",
        b"\xff 1 \xc2\xb2 a b c",
        b"r " + b"1" * 5_000 + b" 1 a b c",
    ],
)
def test_a_state_header_that_is_none(text: bytes) -> None:
    """It tells what it should be."""
    with pytest.raises(BadRecord, match="header kompensate: expected 'run events due status hold definition'"):
        StateHeader.decode(text)
