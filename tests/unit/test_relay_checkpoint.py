"""Where a relay starts: every meeting of what it noted with what the server says."""

import pytest

from kompensate.outbox.checkpoint import Checkpoint, Server, SlotState, check_slot, start_from
from kompensate.outbox.errors import Gap

HERE, ELSEWHERE = "7000", "8000"
FIRST = Server(HERE, 0)
PROMOTED = Server(HERE, 600)
"""At 600 its timeline was left for the present one."""


def slot(lsn: int, *, lost: bool = False) -> SlotState:
    return SlotState("shop", "pgoutput", "shop", lsn, lost, None)


def never() -> Server:
    raise AssertionError("the server was asked where nothing is strange")


@pytest.mark.parametrize("checkpoint", [None, Checkpoint(HERE, 0)], ids=["never started", "cut short"])
def test_a_first_start_publishes_what_is_in_the_table(checkpoint: Checkpoint | None) -> None:
    """Rows may be older than the slot, so they are published once; also where the first time was cut short."""
    check_slot(checkpoint, None, "shop", never)

    assert start_from(checkpoint, FIRST, slot(500)) == "publish"


@pytest.mark.parametrize("lsn", [400, 500], ids=["server went back", "same"])
def test_a_slot_where_it_was_left_is_read_on(lsn: int) -> None:
    """A server may forget a confirmation in a crash: rows come twice. It is never ahead of our note."""
    check_slot(Checkpoint(HERE, 500), slot(lsn), "shop", never)

    assert start_from(Checkpoint(HERE, 500), FIRST, slot(lsn)) == "stream"


def test_a_slot_that_is_gone_is_a_gap() -> None:
    """A slot that was read and is no longer there: the error names the position and the way out."""
    with pytest.raises(Gap, match=r"expected at 0/1F4, where this relay left it, got no such slot.*--resync"):
        check_slot(Checkpoint(HERE, 500), None, "shop", lambda: FIRST)


def test_a_slot_that_the_server_gave_up_is_a_gap() -> None:
    """wal_status 'lost' is named, with the settings that lead to it."""
    with pytest.raises(Gap, match=r"wal_status 'lost'.*max_slot_wal_keep_size.*--resync"):
        check_slot(Checkpoint(HERE, 500), slot(0, lost=True), "shop", lambda: FIRST)


def test_a_slot_further_on_than_it_was_left_is_a_gap() -> None:
    """Made again, advanced by hand or read by somebody else: both positions are named."""
    with pytest.raises(Gap, match=r"expected at or before 0/1F4.*got 0/1F5.*--resync"):
        start_from(Checkpoint(HERE, 500), FIRST, slot(501))


def test_another_server_is_a_gap() -> None:
    """A database that was restored elsewhere: positions of two servers do not compare."""
    with pytest.raises(Gap, match=r"expected PostgreSQL system 7000.*got 8000.*--resync"):
        start_from(Checkpoint(HERE, 500), Server(ELSEWHERE, 600), slot(400))


@pytest.mark.parametrize("found", [None, slot(0, lost=True)], ids=["gone", "lost"])
@pytest.mark.parametrize("noted", [500, 600], ids=["before", "where it began"])
def test_a_promotion_explains_a_slot_that_is_gone(found: SlotState | None, noted: int) -> None:
    """Noted before the present timeline began: a slot that is made now stands further on, and the rest is published."""
    check_slot(Checkpoint(HERE, noted, 17), found, "shop", lambda: PROMOTED)

    assert start_from(Checkpoint(HERE, noted, 17), PROMOTED, slot(700)) == "publish the rest"


def test_a_slot_that_came_along_is_read_on() -> None:
    """A copy of the slot is where it was, or behind: nothing was passed over."""
    for lsn in (400, 500):
        assert start_from(Checkpoint(HERE, 500), PROMOTED, slot(lsn)) == "stream"


def test_what_was_noted_after_the_promotion_is_not_explained_by_it() -> None:
    """A slot that went away on the new timeline is as much of a gap as on the first."""
    with pytest.raises(Gap, match="got no such slot"):
        check_slot(Checkpoint(HERE, 601), None, "shop", lambda: PROMOTED)
    with pytest.raises(Gap, match="expected at or before"):
        start_from(Checkpoint(HERE, 601), PROMOTED, slot(602))


def test_a_promotion_of_another_server_explains_nothing() -> None:
    """Restored into another cluster that was once promoted itself."""
    with pytest.raises(Gap, match="got no such slot"):
        check_slot(Checkpoint(ELSEWHERE, 500), None, "shop", lambda: PROMOTED)
