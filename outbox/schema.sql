-- The tables of a participant's database, and the publication that a relay reads.
-- Public format (docs/architecture.md): other languages take part by reading a command record and committing an
-- outbox row. May be run again at any time. Tables land in the first schema of the search path.

-- What this service has to say. Rows are only ever inserted; a relay carries each to Kafka after its commit:
-- topic = aggregatetype, key = aggregateid, partition = partition, value = payload, one header per ce_… column.
CREATE TABLE IF NOT EXISTS outbox (
    id               uuid NOT NULL,
    aggregatetype    text NOT NULL,               -- the topic, its whole name
    aggregateid      text NOT NULL,               -- the record's key
    type             text NOT NULL,               -- header ce_type
    payload          bytea,                       -- the record's value; NULL is a null value
    partition        integer NOT NULL,            -- the topic's partition; never left to a partitioner
    -- NOT NULL: of a column with a default Debezium makes the default where it finds NULL, our relay NULL.
    ce_specversion   text NOT NULL DEFAULT '1.0',
    ce_id            text,
    ce_source        text,
    content_type     text,                        -- header content-type
    ce_correlationid text,
    ce_causationid   text,
    ce_replyoutcome  text,
    ce_sagatype      text,
    ce_subject       text,
    ce_time          text,                        -- when it was asked for, RFC 3339
    ce_sagaattributes text,                       -- of a start: a JSON object
    traceparent      text,
    tracestate       text,
    xid              xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);

-- Tables that were made before a column was thought of. Asked first: ALTER waits for every writer.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'outbox'::regclass AND attname = 'ce_time') THEN
        ALTER TABLE outbox ADD COLUMN ce_time text;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'outbox'::regclass AND attname = 'ce_sagaattributes'
    ) THEN
        ALTER TABLE outbox ADD COLUMN ce_sagaattributes text;
    END IF;
END $$;

-- The net below the daily partitions: a row of a day that nobody prepared is kept and relayed all the same.
CREATE TABLE IF NOT EXISTS outbox_default PARTITION OF outbox DEFAULT;

-- A row is a message once: a relay passes an UPDATE over. Asked first: making a trigger waits for every writer.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = 'outbox'::regclass AND tgname = 'outbox_insert_only'
    ) THEN
        CREATE OR REPLACE FUNCTION outbox_insert_only() RETURNS trigger LANGUAGE plpgsql AS $f$
        BEGIN
            RAISE 'outbox: expected rows to be inserted, got an UPDATE, which is no message: insert another row'
                USING ERRCODE = 'restrict_violation';
        END $f$;
        CREATE TRIGGER outbox_insert_only BEFORE UPDATE ON outbox
            FOR EACH ROW EXECUTE FUNCTION outbox_insert_only();
    END IF;
END $$;

-- Which commands this service has seen, and what it answered. Half of each page is kept free, because
-- every row is updated once, in the transaction that inserted it. A row that is left claimed or deferred belongs to
-- an outside call: nobody but its owner takes it up before its lease has passed, and without a lease nobody does.
CREATE TABLE IF NOT EXISTS inbox (
    consumer     text NOT NULL,
    command_id   text NOT NULL,
    state        text NOT NULL CHECK (state IN ('claimed', 'answered', 'cancelled', 'deferred')),
    owner        text,
    lease        timestamptz,
    outcome      text,
    reply        bytea,
    reply_type   text,
    content_type text,
    received_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, command_id)
) WITH (fillfactor = 50);

-- Rows come in the order of time: this finds the old ones, at next to no cost for the new ones.
CREATE INDEX IF NOT EXISTS inbox_received_at ON inbox USING brin (received_at) WITH (autosummarize = on);

-- Rows without a lease, which is all of those that were handled inside one transaction, are not in it.
DO $$
BEGIN
    IF to_regclass('inbox_lease') IS NULL THEN
        CREATE INDEX inbox_lease ON inbox (consumer, lease) WHERE lease IS NOT NULL;
    END IF;
END $$;

-- Commands that are handled outside of the transaction, and compensations that wait for them: the record as it lay in
-- its topic until the command has its answer, and the request that the idempotency key (the command's id) stands for.
CREATE TABLE IF NOT EXISTS idempotency (
    consumer         text NOT NULL,
    command_id       text NOT NULL,
    request_hash     text NOT NULL,               -- SHA-256 of type and payload, in hex
    -- kept: nothing went out. called: a call may have arrived. asked: past retrying, its query tells.
    -- unknown: nobody could tell, see the dead letter. closed: answered or cancelled.
    status           text NOT NULL CHECK (status IN ('kept', 'called', 'asked', 'unknown', 'closed')),
    contract         text NOT NULL,
    waits_for        text,                        -- the command whose outcome this compensation waits for
    tries            integer NOT NULL DEFAULT 0,  -- calls begun
    asks             integer NOT NULL DEFAULT 0,  -- queries begun
    doubt            boolean NOT NULL DEFAULT false,  -- one of the calls came to no definite end
    buried           boolean NOT NULL DEFAULT false,  -- it was unknown before, and is a dead letter
    spent            double precision NOT NULL DEFAULT 0,  -- seconds of the budget
    called_at        timestamptz,                 -- when the key went out first
    progress         text,                        -- what the handler said last, JSON
    reason           text,                        -- the newest trouble
    record_topic     text,
    record_partition integer,
    record_offset    bigint,
    record_key       bytea,
    record_value     bytea,
    record_headers   text,                        -- JSON: [[name, base64 or null], …]
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, command_id)
);
CREATE INDEX IF NOT EXISTS idempotency_waits_for ON idempotency (consumer, waits_for) WHERE waits_for IS NOT NULL;

-- The breaker of each outside command, shared by the service's processes.
CREATE TABLE IF NOT EXISTS breaker (
    consumer      text NOT NULL,
    contract      text NOT NULL,
    state         text NOT NULL CHECK (state IN ('closed', 'open', 'half-open')),
    failures      integer NOT NULL,
    opened_at     timestamptz,
    probe         text,                           -- the one command that may call while it is half-open
    probe_until   timestamptz,
    PRIMARY KEY (consumer, contract)
);

-- Insert-only: deletes by the retention are not messages, and no REPLICA IDENTITY is needed.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'kompensate_outbox') THEN
        CREATE PUBLICATION kompensate_outbox FOR TABLE outbox
            WITH (publish = 'insert', publish_via_partition_root = true);
    END IF;
END $$;

-- Semantic locks: what sagas hold from one of their steps to another (docs/guides/locks.md), and who waits for them, in
-- the order of tickets. Times are seconds since the epoch, by this database's clock.
CREATE TABLE IF NOT EXISTS saga_lock (
    name       text PRIMARY KEY,
    app        text NOT NULL,                    -- whose saga: its commands' ce_source
    saga_id    text NOT NULL,
    command_id text NOT NULL,                    -- that took it
    token      bigserial,                        -- greater than every former holder's; tickets are of its numbers, too
    taken_at   double precision NOT NULL,
    expires_at double precision,                 -- NULL: never
    broken_at  double precision,                 -- by hand: then it is free
    broken_by  text,
    broken_why text
);
CREATE TABLE IF NOT EXISTS saga_lock_wait (
    name    text NOT NULL,
    app     text NOT NULL,
    saga_id text NOT NULL,
    ticket  bigint NOT NULL,
    since   double precision NOT NULL,
    seen_at double precision NOT NULL,           -- when it last asked: who asks no more waits no more
    PRIMARY KEY (name, app, saga_id)
);
