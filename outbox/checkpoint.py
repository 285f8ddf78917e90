"""Is this the slot that we left, where we left it? Pure; `replication` keeps the checkpoint, `main` asks.

A slot that was dropped and made again, advanced by hand, or read by another tool starts further on
without a word, and the rows between are lost silently. So the relay keeps its own record, in a table
beside the outbox, of the server and of the position it confirmed, and always writes it *before* it tells
the server: the slot can then never stand beyond it by our doing.

The record being a row of the database that it tells of, a standby or a backup that lacks the end of the
log lacks what was noted of that end as well: a position that was noted is always one of this database's own
history. So after a promotion, or a recovery to a point in time, which begin a new timeline, a slot that is
missing or further on is no riddle, and what may not have been published is the rest of the table: no person
has to be asked. The same on the timeline where it was noted is a Gap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kompensate.outbox.errors import Gap
from kompensate.outbox.pgoutput import lsn_text

Start: TypeAlias = Literal["stream", "publish", "publish the rest"]

MAKE_CHECKPOINTS = (
    "CREATE TABLE IF NOT EXISTS {0} (slot text PRIMARY KEY, system_id text NOT NULL,"
    " confirmed_lsn pg_lsn NOT NULL, below xid8, updated_at timestamptz NOT NULL DEFAULT now());"
    " ALTER TABLE {0} ADD COLUMN IF NOT EXISTS below xid8"
)
"""The record's table, also one that was made before it had all its columns; `{0}` is its name, quoted."""

REMEDY = (
    "Start the relay once with --resync (or resync=True): it publishes every row still in the outbox again, in the "
    "order of their transactions; consumers absorb what they have already seen. Rows that a retention has dropped "
    "since cannot be brought back by it"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the relay knows: everything up to `lsn` is in Kafka. 0: nothing is known to be.

    So is every transaction numbered below `below`; None: of none that is known.
    """

    system_id: str
    lsn: int
    below: int | None = None


@dataclass(frozen=True, slots=True)
class SlotState:
    """A logical replication slot as the server describes it; `lsn` is what its reader has confirmed.

    `failover`: whether standbys may keep a copy of it; None: this server knows no such slots (before PostgreSQL 17).
    """

    name: str
    plugin: str
    database: str
    lsn: int
    lost: bool
    active_pid: int | None
    failover: bool | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A server by its identity, which its standbys and backups share, and where its timeline began (0: the first)."""

    system_id: str
    began: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who reads a slot: the server, and its process that serves us."""

    server: Server
    pid: int


def check_slot(checkpoint: Checkpoint | None, slot: SlotState | None, name: str, server: Callable[[], Server]) -> None:
    """Before anything is made or read: raise Gap where a slot that we had read from is gone or lost.

    `server` is asked only where a promotion would explain it.
    """
    if slot is not None and not slot.lost:
        return
    if checkpoint is not None and checkpoint.lsn and _promoted_since(checkpoint, server()):
        return
    if slot is not None:
        raise Gap(
            f"slot {name}: expected its WAL kept from {lsn_text(slot.lsn)} on, got wal_status 'lost' (the server gave "
            f"it up by max_slot_wal_keep_size or idle_replication_slot_timeout). {REMEDY}"
        )
    if checkpoint is not None and checkpoint.lsn:
        raise Gap(
            f"slot {name}: expected at {lsn_text(checkpoint.lsn)}, where this relay left it, got no such slot: rows "
            f"committed since were not kept for it. {REMEDY}"
        )


def start_from(checkpoint: Checkpoint | None, server: Server, slot: SlotState) -> Start:
    """With the slot held: read on from it, or publish the table's rows first. Raises Gap.

    Without a checkpoint, or with one that knows of nothing published (a first start that was cut short),
    rows may be older than the slot, so the table is published once. After a promotion only the rest of it is, and only
    where the slot did not come along, or came further than the note.
    """
    if checkpoint is None or not checkpoint.lsn:
        return "publish"
    if checkpoint.system_id != server.system_id:
        raise Gap(
            f"slot {slot.name}: expected PostgreSQL system {checkpoint.system_id}, on which this relay read last, got "
            f"{server.system_id}: the database was restored or moved, and log positions of the two do not compare. "
            f"{REMEDY}"
        )
    if slot.lsn > checkpoint.lsn:
        if _promoted_since(checkpoint, server):
            return "publish the rest"
        raise Gap(
            f"slot {slot.name}: expected at or before {lsn_text(checkpoint.lsn)}, the last position that this relay "
            f"confirmed, got {lsn_text(slot.lsn)}: it was made again, advanced, or read by somebody else, and rows "
            f"committed between the two may never have been published. {REMEDY}"
        )
    return "stream"


def _promoted_since(checkpoint: Checkpoint, server: Server) -> bool:
    return checkpoint.system_id == server.system_id and checkpoint.lsn <= server.began
