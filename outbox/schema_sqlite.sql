-- The same tables for SQLite. The relay that polls it deletes rows of the outbox once Kafka has them.
CREATE TABLE IF NOT EXISTS outbox (
    id text NOT NULL PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL,
    payload blob, "partition" integer NOT NULL, ce_specversion text NOT NULL DEFAULT '1.0', ce_id text, ce_source text,
    content_type text, ce_correlationid text, ce_causationid text, ce_replyoutcome text, ce_sagatype text,
    ce_subject text, ce_time text, ce_sagaattributes text, traceparent text, tracestate text,
    created_at text NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS inbox (
    consumer text NOT NULL, command_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('claimed', 'answered', 'cancelled', 'deferred')),
    owner text, lease text, outcome text, reply blob, reply_type text, content_type text,
    received_at text NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (consumer, command_id)
);
CREATE TABLE IF NOT EXISTS saga_lock_token (value integer PRIMARY KEY AUTOINCREMENT);
CREATE TABLE IF NOT EXISTS saga_lock (
    name text PRIMARY KEY, app text NOT NULL, saga_id text NOT NULL, command_id text NOT NULL,
    token integer NOT NULL DEFAULT 0, taken_at real NOT NULL, expires_at real,
    broken_at real, broken_by text, broken_why text
);
CREATE TABLE IF NOT EXISTS saga_lock_wait (
    name text NOT NULL, app text NOT NULL, saga_id text NOT NULL, ticket integer NOT NULL,
    since real NOT NULL, seen_at real NOT NULL, PRIMARY KEY (name, app, saga_id)
);
CREATE INDEX IF NOT EXISTS inbox_lease ON inbox (consumer, lease) WHERE lease IS NOT NULL;
CREATE TABLE IF NOT EXISTS idempotency (
    consumer text NOT NULL, command_id text NOT NULL, request_hash text NOT NULL,
    status text NOT NULL CHECK (status IN ('kept', 'called', 'asked', 'unknown', 'closed')),
    contract text NOT NULL, waits_for text, tries integer NOT NULL DEFAULT 0, asks integer NOT NULL DEFAULT 0,
    doubt boolean NOT NULL DEFAULT false, buried boolean NOT NULL DEFAULT false,
    spent real NOT NULL DEFAULT 0, called_at text, progress text, reason text,
    record_topic text, record_partition integer, record_offset integer, record_key blob, record_value blob,
    record_headers text, created_at text NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (consumer, command_id)
);
CREATE INDEX IF NOT EXISTS idempotency_waits_for ON idempotency (consumer, waits_for) WHERE waits_for IS NOT NULL;
CREATE TABLE IF NOT EXISTS breaker (
    consumer text NOT NULL, contract text NOT NULL,
    state text NOT NULL CHECK (state IN ('closed', 'open', 'half-open')), failures integer NOT NULL,
    opened_at text, probe text, probe_until text, PRIMARY KEY (consumer, contract)
);
