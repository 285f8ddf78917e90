"""Roles for a service's database, as SQL: who owns the tables, the service itself, its relay, and an operator.

Rendered from names, which are quoted here and nowhere else. What each may do is tested on a real server
(tests/integration/test_roles.py), and why stands in docs/guides/security.md.
"""

from collections.abc import Callable

from sqlalchemy import String
from sqlalchemy.dialects import postgresql

from kompensate.outbox.checkpoint import MAKE_CHECKPOINTS
from kompensate.outbox.tables import BREAKER, IDEMPOTENCY, INBOX, OUTBOX, PUBLICATION, made_tables

NAME_BYTES_MAX = 63
"""PostgreSQL cuts a longer name off, and two could become one."""
BODY = "$kompensate$"

# Named parameters: with others a % in a name would be doubled for the driver.
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # untyped there
_LITERAL: Callable[[str], str] = String().literal_processor(_DIALECT)  # type: ignore[no-untyped-call]  # as above


def roles_sql(owner: str, app: str, relay: str, schema: str = "public", *, operator: str | None = None) -> str:
    """Statements that make the roles where they are absent, and set what they may do in `schema`.

    `operator` is for `kompensate locks` and `kompensate outside`; without it there is none.
    For a superuser (or the database's owner with CREATEROLE), in the service's database, after `schema.sql`; again
    after a migration that makes tables. Raises ValueError for names that cannot be.
    """
    roles = {"owner": owner, "app": app, "relay": relay} | ({} if operator is None else {"operator": operator})
    names = {**roles, "schema": schema}
    for what, name in names.items():
        if not name or "\0" in name or BODY in name or len(name.encode()) > NAME_BYTES_MAX:
            raise ValueError(f"{what}: expected a name of 1 to {NAME_BYTES_MAX} bytes, got {name!r}")
    if len(set(roles.values())) < len(roles):
        raise ValueError(f"roles: expected {len(roles)} different ones, got {', '.join(map(repr, roles.values()))}")
    values = {what: _identifier(name) for what, name in names.items()}
    texts = {"qualified_text": _text(f"{values['schema']}.{OUTBOX}")} | {
        f"{what}_text": _text(name) for what, name in names.items()
    }
    checkpoints, polled = f"{OUTBOX}_relay", f"{OUTBOX}_polled"
    texts["polled_text"] = _text(f"{values['schema']}.{polled}")
    template = _SQL if operator is None else _SQL + _OPERATOR
    return template.format(
        **values,
        **texts,
        outbox=OUTBOX,
        inbox=INBOX,
        idempotency=IDEMPOTENCY,
        breaker=BREAKER,
        ours=", ".join(map(_text, (*made_tables(), checkpoints))),
        checkpoints=checkpoints,
        polled=polled,
        publication=PUBLICATION,
        make_checkpoints=MAKE_CHECKPOINTS.format(f"{values['schema']}.{checkpoints}"),
        body=BODY,
    )


def _identifier(name: str) -> str:
    return str(_DIALECT.identifier_preparer.quote_identifier(name))


def _text(value: str) -> str:
    # E'': a backslash means the same whatever the server's standard_conforming_strings.
    return "E" + _LITERAL(value).replace("\\", "\\\\")


_SQL = """\
-- Roles of a service's database. Made by `kompensate tables roles`; may be run again at any time.
-- Passwords are not set here: ALTER ROLE … PASSWORD, or \\password in psql, which sends no readable text.

DO {body} BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {owner_text}) THEN CREATE ROLE {owner} LOGIN; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {app_text}) THEN CREATE ROLE {app} LOGIN; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {relay_text}) THEN
        CREATE ROLE {relay} LOGIN REPLICATION;
    END IF;
END {body};

-- The database and the schema are for these roles. The owner makes tables and the publication.
DO {body} BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I, %I, %I',
                   current_database(), {owner_text}, {app_text}, {relay_text});
    EXECUTE format('GRANT CREATE, TEMPORARY ON DATABASE %I TO %I', current_database(), {owner_text});
END {body};
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner};
GRANT USAGE ON SCHEMA {schema} TO {app}, {relay};

-- The relay notes here what it has confirmed; it may make no tables.
{make_checkpoints};

-- Ours are the owner's: it makes and drops the outbox's partitions (`kompensate tables keep`).
ALTER PUBLICATION {publication} OWNER TO {owner};
DO {body} DECLARE one regclass; BEGIN
    FOR one IN SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
               WHERE nspname = {schema_text} AND relkind IN ('r', 'p') AND relname IN ({ours}) LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', one, {owner_text});
    END LOOP;
    FOR one IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = to_regclass({qualified_text}) LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', one, {owner_text});
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, %I, %I', one, {app_text}, {relay_text});
    END LOOP;
END {body};

-- The service: its own tables and the inbox. Of the outbox it may only add rows: what it said it cannot take back,
-- and what others said it cannot read.
DO {body} DECLARE one regclass; BEGIN
    FOR one IN
        SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname = {schema_text} AND relkind IN ('r', 'p')
        AND relname NOT IN ('{outbox}', '{checkpoints}', '{polled}')
        AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid AND inhparent = to_regclass({qualified_text}))
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', one, {app_text});
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, %I', one, {relay_text});
    END LOOP;
END {body};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {app};
REVOKE ALL ON {schema}.{outbox}, {schema}.{checkpoints} FROM PUBLIC, {app}, {relay};
GRANT INSERT ON {schema}.{outbox} TO {app};

-- The relay: reads the outbox and keeps its own note.
GRANT SELECT ON {schema}.{outbox} TO {relay};
GRANT SELECT, INSERT, UPDATE ON {schema}.{checkpoints} TO {relay};

-- A polling relay's position, where there is one: the service asks it what may be forgotten.
DO {body} DECLARE one regclass = to_regclass({polled_text}); BEGIN
    IF one IS NOT NULL THEN
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, %I, %I', one, {app_text}, {relay_text});
        EXECUTE format('GRANT SELECT ON %s TO %I, %I', one, {app_text}, {relay_text});
        EXECUTE format('GRANT INSERT, UPDATE ON %s TO %I', one, {relay_text});
    END IF;
END {body};
"""

_OPERATOR = """
-- An operator: sees what sagas hold and wait for, and which outside calls have no answer; breaks locks, and answers for
-- a provider as the service would. Nothing else of the inbox, and nothing of the service's own tables.
DO {body} BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {operator_text}) THEN CREATE ROLE {operator} LOGIN; END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), {operator_text});
END {body};
GRANT USAGE ON SCHEMA {schema} TO {operator};
REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {operator};
GRANT SELECT ON {schema}.saga_lock, {schema}.saga_lock_wait, {schema}.{idempotency}, {schema}.{breaker},
    {schema}.{inbox} TO {operator};
GRANT UPDATE (broken_at, broken_by, broken_why) ON {schema}.saga_lock TO {operator};
GRANT UPDATE (status, asks, record_topic, record_partition, record_offset, record_key, record_value, record_headers)
    ON {schema}.{idempotency} TO {operator};
GRANT UPDATE (state, owner, lease, outcome, reply, reply_type, content_type) ON {schema}.{inbox} TO {operator};
GRANT INSERT ON {schema}.{outbox} TO {operator};
"""
