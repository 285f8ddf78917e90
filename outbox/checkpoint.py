"""Is this the slot that we left, where we left it? Pure; `replication` keeps the checkpoint, `main` asks.

A slot that was dropped and made again, advanced by hand, or read by another tool starts further on
without a word, and the rows between are lost silently. So the relay keeps its own record, in a table
beside the outbox, of the server and of the position it confirmed, and always writes it *before* it tells
the server: the slot can then never stand beyond it by our doing.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kompensate.outbox.errors import Gap
from kompensate.outbox.pgoutput import lsn_text

Start: TypeAlias = Literal["stream", "publish"]

MAKE_CHECKPOINTS = (
    "CREATE TABLE IF NOT EXISTS {} (slot text PRIMARY KEY, system_id text NOT NULL,"
    " confirmed_lsn pg_lsn NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())"
)
"""The record's table; `{}` is its name, quoted."""

REMEDY = (
    "Start the relay once with --resync (or resync=True): it publishes every row still in the outbox again, in the "
    "order of their transactions; consumers absorb what they have already seen. Rows that a retention has dropped "
    "since cannot be brought back by it"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the relay knows: everything up to `lsn` is in Kafka. 0: nothing is known to be."""

    system_id: str
    lsn: int


@dataclass(frozen=True, slots=True)
class SlotState:
    """A logical replication slot as the server describes it; `lsn` is what its reader has confirmed."""

    name: str
    plugin: str
    database: str
    lsn: int
    lost: bool
    active_pid: int | None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who reads a slot: the server by its identity, and its process that serves us."""

    system_id: str
    pid: int


def check_slot(checkpoint: Checkpoint | None, slot: SlotState | None, name: str) -> None:
    """Before anything is made or read: raise Gap where a slot that we had read from is gone or lost."""
    if slot is not None and slot.lost:
        raise Gap(
            f"slot {name}: expected its WAL kept from {lsn_text(slot.lsn)} on, got wal_status 'lost' (the server gave "
            f"it up by max_slot_wal_keep_size or idle_replication_slot_timeout). {REMEDY}"
        )
    if slot is None and checkpoint is not None and checkpoint.lsn:
        raise Gap(
            f"slot {name}: expected at {lsn_text(checkpoint.lsn)}, where this relay left it, got no such slot: rows "
            f"committed since were not kept for it. {REMEDY}"
        )


def start_from(checkpoint: Checkpoint | None, system_id: str, slot: SlotState) -> Start:
    """With the slot held: read on from it, or publish the table's rows first. Raises Gap.

    Without a checkpoint, or with one that knows of nothing published (a first start that was cut short),
    rows may be older than the slot, so the table is published once.
    """
    if checkpoint is None or not checkpoint.lsn:
        return "publish"
    if checkpoint.system_id != system_id:
        raise Gap(
            f"slot {slot.name}: expected PostgreSQL system {checkpoint.system_id}, on which this relay read last, got "
            f"{system_id}: the database was restored or moved, and log positions of the two do not compare. {REMEDY}"
        )
    if slot.lsn > checkpoint.lsn:
        raise Gap(
            f"slot {slot.name}: expected at or before {lsn_text(checkpoint.lsn)}, the last position that this relay "
            f"confirmed, got {lsn_text(slot.lsn)}: it was made again, advanced, or read by somebody else, and rows "
            f"committed between the two may never have been published. {REMEDY}"
        )
    return "stream"
