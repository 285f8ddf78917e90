"""What `kompensate relay doctor` looks at beyond what a relay needs to start: rights, slots, partitions, topics.

Everything is asked of the server's catalogue and of Kafka, nothing is changed. `setup` has what a relay cannot start
without; both make Findings.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

from kompensate.outbox.checkpoint import Checkpoint
from kompensate.outbox.naming import Names
from kompensate.outbox.pgoutput import lsn_number
from kompensate.outbox.setup import Ask, Finding, Level, finding

BEHIND_BYTES = 1 << 30
"""So much log kept for one slot is worth a word, whoever reads it."""
ROWS_SAMPLED = 10_000
"""The newest rows say which topics a service writes to; all of them may be days of work."""
TRIGGER = "outbox_insert_only"


def server(ask: Ask, names: Names) -> Iterator[Finding]:
    """Room for slots and walsenders, and whether slots may fill the disk."""
    ours = ask("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [names.slot])
    for what, setting, used, had in (
        ("slot", "max_replication_slots", "pg_replication_slots", bool(ours)),
        ("walsender", "max_wal_senders", "pg_stat_replication", ours == [(True,)]),
    ):
        [(most, taken)] = ask(
            f"SELECT current_setting('{setting}')::int, (SELECT count(*) FROM {used})",  # noqa: S608 our own names
            (),
        )
        level: Level = "ok" if taken < most or had else "wrong"
        remedy = f"raise {setting} and restart the server, or give up what nobody uses"
        yield finding(level, f"server.{what}s", "PostgreSQL", f"a free {what}", f"{taken} of {most} taken", remedy)
    [(size, kept)] = ask(
        "SELECT setting::bigint, current_setting(name) FROM pg_settings WHERE name = 'max_slot_wal_keep_size'", ()
    )
    yield finding(
        "advice" if size < 0 else "ok",
        "server.max_slot_wal_keep_size",
        "PostgreSQL",
        "max_slot_wal_keep_size with a limit",
        "-1, none: a slot that nobody reads fills the disk" if size < 0 else kept,
        "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB' (or what the disk can spare), then SELECT pg_reload_conf()",
    )


def role(ask: Ask, names: Names, replication: str | None) -> Iterator[Finding]:
    """What the relay's role may do; `replication` is why it could not open a replication connection."""
    [(user, reads)] = ask("SELECT current_user, has_table_privilege(quote_ident(%s), 'SELECT')", [names.table])
    yield finding(
        "ok" if replication is None else "wrong",
        "role.replication",
        f"role {user}",
        "a replication connection",
        None if replication is None else replication,
        f"ALTER ROLE {user} REPLICATION, and a line for its database (not `replication`) in pg_hba.conf",
    )
    yield finding(
        "ok" if reads else "wrong",
        "role.select",
        f"role {user}",
        f"SELECT on {names.table}",
        None if reads else "no such right",
        f"GRANT SELECT ON {names.table} TO {user}",
    )
    notes = f"{names.table}_relay"
    [(there, writes, makes)] = ask(
        "SELECT to_regclass(quote_ident(%s)) IS NOT NULL, coalesce(has_table_privilege(to_regclass(quote_ident(%s)),"
        " 'SELECT') AND has_table_privilege(to_regclass(quote_ident(%s)), 'INSERT') AND"
        " has_table_privilege(to_regclass(quote_ident(%s)), 'UPDATE'), false),"
        " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)",
        [notes] * 4,
    )
    yield finding(
        "ok" if (writes if there else makes) else "wrong",
        "role.checkpoint",
        f"role {user}",
        f"SELECT, INSERT and UPDATE on {notes}, or the right to make it",
        "no such right" if not (writes if there else makes) else None,
        f"GRANT SELECT, INSERT, UPDATE ON {notes} TO {user}" if there else "make it, as docs/guides/relay.md has it",
    )
    older = ask(
        "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(quote_ident(%s)) AND NOT EXISTS"
        " (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'below')",
        [notes],
    )
    if older:
        yield finding(
            "ok" if older == [(True,)] else "wrong",
            "role.checkpoint",
            f"table {notes}",
            "a column below, or its owner as the relay's role",
            None if older == [(True,)] else "the table of an older version, and another owner",
            f"ALTER TABLE {notes} ADD COLUMN below xid8",
        )


def slot(ask: Ask, names: Names, database: str, noted: Callable[[], Checkpoint | None]) -> Iterator[Finding]:
    """The relay's own slot. Its note is asked for after it, as it is written before the slot moves: never behind."""
    subject = f"slot {names.slot}"
    found = ask(
        "SELECT plugin, database, active, wal_status, safe_wal_size,"
        " pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint, confirmed_flush_lsn::text"
        " FROM pg_replication_slots WHERE slot_name = %s",
        [names.slot],
    )
    checkpoint = noted()
    resync = "start the relay once with --resync"
    if not found:
        known = checkpoint is not None and checkpoint.lsn > 0
        got = "none, though a relay read it before" if known else "none yet"
        yield finding(
            "wrong" if known else "advice", "slot", subject, "a slot", got, resync if known else "start the relay"
        )
        return
    [(plugin, of, active, status, safe, behind, confirmed)] = found
    if (plugin, of) != ("pgoutput", database):
        got = f"{plugin or 'a physical slot'} on {of or 'no database'}"
        yield finding(
            "wrong", "slot", subject, f"plugin pgoutput on database {database}", got, "give the relay another by --slot"
        )
        return
    if status in ("lost", "unreserved"):
        remedy = resync if status == "lost" else "start the relay now: its log goes at the next checkpoint"
        yield finding("wrong", "slot.wal_status", subject, "its log kept", f"wal_status {status!r}", remedy)
    elif checkpoint is not None and 0 < checkpoint.lsn < lsn_number(confirmed):
        expected = "no position beyond what was noted as published"
        yield finding("wrong", "slot.position", subject, expected, f"{confirmed}: rows may be passed over", resync)
    room = "" if safe is None else f", {megabytes(safe)} before it is lost"
    got = f"{'read' if active else 'not read'}, {megabytes(behind or 0)} behind{room}"
    late = (behind or 0) > BEHIND_BYTES
    remedy = "see why Kafka or the relay is slow" if active else "start the relay, or drop the slot if nobody needs it"
    yield finding("ok" if active and not late else "advice", "slot.lag", subject, "a reader close behind", got, remedy)


def failover(ask: Ask, names: Names) -> Iterator[Finding]:
    """Whether the slot outlives its server, as far as the primary can tell. Says nothing before there is a slot."""
    subject = f"slot {names.slot}"
    # A server before 17 has no such column and no such setting.
    found = ask(
        "SELECT (to_jsonb(s) ->> 'failover')::boolean, current_setting('synchronized_standby_slots', true)"
        " FROM pg_replication_slots s WHERE slot_name = %s",
        [names.slot],
    )
    if not found:
        return
    [(copied, awaited)] = found
    [(standbys,)] = ask(
        # A standby's slot outlives its connection; one without a slot is seen while it streams.
        "SELECT greatest((SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical'), (SELECT count(*)"
        " FROM pg_stat_replication r WHERE r.state IS DISTINCT FROM 'backup' AND NOT EXISTS (SELECT FROM"
        " pg_replication_slots l WHERE l.active_pid = r.pid AND l.slot_type = 'logical')))",
        (),
    )
    got = None
    remedy = "start the relay, which alters it"
    if standbys and not copied:
        got = "one that a promoted standby will lack: the relay then publishes again what came after its note"
        if copied is None:
            remedy = "PostgreSQL 17 has slots that fail over; until then nothing is lost, but some of it comes twice"
    yield finding("advice" if got else "ok", "slot.failover", subject, "a slot that fails over", got, remedy)
    names_awaited = [name.strip(' "') for name in (awaited or "").split(",") if name.strip()]
    if copied and (standbys or names_awaited):
        yield from _awaited(ask, subject, names_awaited)


def _awaited(ask: Ask, subject: str, awaited: list[str]) -> Iterator[Finding]:
    """Whether the relay is kept behind the standbys, and whether one that is away keeps it from everything."""
    expected = "synchronized_standby_slots that names the standbys' slots"
    if not awaited:
        got = "none: a standby may be promoted that lacks transactions which the relay has published"
        remedy = (
            "ALTER SYSTEM SET synchronized_standby_slots = '<the physical slot of the standby>', then SELECT "
            "pg_reload_conf(). Rows then wait for that standby, also while it is away"
        )
        yield finding("advice", "slot.standbys", subject, expected, got, remedy)
        return
    away = ask(
        "SELECT name FROM unnest(%s::text[]) name WHERE NOT EXISTS (SELECT FROM pg_replication_slots"
        " WHERE slot_name = name AND slot_type = 'physical' AND active) ORDER BY 1",
        [awaited],
    )
    lacking = ", ".join(name for (name,) in away)
    yield finding(
        "wrong" if away else "ok",
        "slot.standbys",
        subject,
        "a standby at each slot of synchronized_standby_slots",
        f"none at {lacking}: the relay is given no rows until there is" if away else None,
        "start that standby, or take its slot out of synchronized_standby_slots and SELECT pg_reload_conf()",
    )


def strays(ask: Ask, names: Names) -> Iterator[Finding]:
    """Slots that nobody reads and that keep the whole server's log, whosever they are."""
    rows = ask(
        "SELECT slot_name, coalesce(database, 'no database'), pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)"
        "::bigint FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL"
        " AND slot_name <> %s ORDER BY 3 DESC",
        [names.slot],
    )
    for name, database, kept in rows:
        yield finding(
            "wrong" if kept > BEHIND_BYTES else "advice",
            "slots.stray",
            f"slot {name} ({database})",
            "a reader",
            f"none, and {megabytes(kept)} of log kept for it",
            f"start its reader, or SELECT pg_drop_replication_slot('{name}')",
        )


def table(ask: Ask, names: Names) -> Iterator[Finding]:
    """What keeps the outbox an outbox: keys, no updates, a partition for each coming day."""
    subject = f"table {names.table}"
    again = "run kompensate/outbox/schema.sql again, or create_tables()"
    nullable = ask(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(%s)) AND NOT attnotnull AND attname"
        " IN ('id', 'aggregatetype', 'aggregateid', 'partition') ORDER BY attnum",
        [names.table],
    )
    lacking = ", ".join(name for (name,) in nullable)
    set_not_null = "ALTER TABLE … ALTER COLUMN … SET NOT NULL: a row without a key has no order among others"
    yield finding(
        "advice" if nullable else "ok",
        "table.not_null",
        subject,
        "NOT NULL on id, aggregatetype, aggregateid and partition",
        f"NULL allowed in {lacking}" if nullable else None,
        set_not_null,
    )
    [(guarded,)] = ask(
        "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(quote_ident(%s)) AND tgname = %s"
        " AND tgenabled <> 'D')",
        [names.table, TRIGGER],
    )
    got = None if guarded else "none: an UPDATE is no message, and would be passed over in silence"
    yield finding("ok" if guarded else "advice", "table.updates", subject, "a trigger that forbids UPDATE", got, again)
    yield from _partitions(ask, names, subject)


def _partitions(ask: Ask, names: Names, subject: str) -> Iterator[Finding]:
    [(partitioned,)] = ask("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(quote_ident(%s))", [names.table])
    if not partitioned:
        remedy = "make it by kompensate/outbox/schema.sql, else old rows have to be deleted one by one"
        yield finding("advice", "table.partitions", subject, "partitions by day", "none", remedy)
        return
    [(today,)] = ask("SELECT (now() AT TIME ZONE 'UTC')::date", ())
    wanted = [f"{names.table}_{day:%Y%m%d}" for day in (today, today + timedelta(days=1))]
    there = ask("SELECT name FROM unnest(%s::text[]) name WHERE to_regclass(quote_ident(name)) IS NOT NULL", [wanted])
    missing = [name for name in wanted if (name,) not in there]
    remedy = "let the participant run, which makes them, or call ensure_partitions() each day"
    yield finding(
        "advice" if missing else "ok",
        "table.partitions",
        subject,
        "partitions of today and tomorrow (UTC)",
        f"no {', '.join(missing)}" if missing else None,
        remedy,
    )
    [(size,)] = ask("SELECT coalesce(pg_relation_size(to_regclass(quote_ident(%s))), 0)", [f"{names.table}_default"])
    if size:
        yield finding(
            "advice",
            "table.default",
            f"table {names.table}_default",
            "no rows",
            f"{size} bytes: rows of days that nobody prepared. They are relayed, but no retention drops them",
            "delete those that are published and old, then VACUUM it",
        )


def wanted_topics(ask: Ask, names: Names) -> dict[str, int]:
    """Topics that the newest rows go to, each with the highest partition they name."""
    rows = ask(
        f"SELECT aggregatetype, max(partition) FROM (SELECT aggregatetype, partition FROM {names.table}"  # noqa: S608 a table's name that was found
        " ORDER BY created_at DESC LIMIT %s) newest GROUP BY 1 ORDER BY 1",
        [ROWS_SAMPLED],
    )
    return {str(topic): int(highest) for topic, highest in rows}


def topics(found: Mapping[str, int] | None, wanted: Mapping[str, int], dead: str, bootstrap: str) -> Iterator[Finding]:
    """Whether Kafka has what the rows name. `found` are its topics with their partitions; None: no answer."""
    if found is None:
        yield finding("wrong", "kafka", f"Kafka at {bootstrap}", "an answer", "none", "start it, or mend --bootstrap")
        return
    make = "make it with `kompensate topics apply`"
    for topic, highest in {**wanted, dead: 0}.items():
        count = found.get(topic, 0)
        why = "" if topic != dead else ": the relay stops at the first row that its own topic refuses"
        got = f"{count} partitions" if count else f"no such topic{why}"
        level: Level = "ok" if count > highest else "wrong"
        yield finding(level, "kafka.topic", f"topic {topic}", f"at least {highest + 1} partitions", got, make)


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / (1 << 20):,.1f} MB"
