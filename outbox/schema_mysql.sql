-- The same tables for MySQL (8.0.13 or later) and MariaDB (10.6 or later). Ids differ by case: texts are compared by
-- their bytes. The relay that polls the outbox deletes its rows once Kafka has them, in the order of `position`.
CREATE TABLE IF NOT EXISTS outbox (
    position bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    id char(36) NOT NULL, aggregatetype longtext NOT NULL, aggregateid longtext NOT NULL, type longtext NOT NULL,
    payload longblob, `partition` integer NOT NULL, ce_specversion varchar(16) NOT NULL DEFAULT '1.0', ce_id longtext,
    ce_source longtext, content_type longtext, ce_correlationid longtext, ce_causationid longtext,
    ce_replyoutcome longtext, ce_sagatype longtext, ce_subject longtext, ce_time longtext, ce_sagaattributes longtext,
    traceparent longtext, tracestate longtext,
    created_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
-- 767 characters of four bytes are what a key may have. `claim` is of the transaction that made the row.
CREATE TABLE IF NOT EXISTS inbox (
    consumer varchar(255) NOT NULL, command_id varchar(512) NOT NULL,
    state varchar(16) NOT NULL CHECK (state IN ('claimed', 'answered', 'cancelled', 'deferred')),
    claim bigint, owner varchar(255), lease datetime(6), outcome varchar(255), reply longblob, reply_type longtext,
    content_type longtext, received_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (consumer, command_id), KEY inbox_received_at (received_at), KEY inbox_lease (consumer, lease)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS idempotency (
    consumer varchar(255) NOT NULL, command_id varchar(512) NOT NULL, request_hash char(64) NOT NULL,
    status varchar(16) NOT NULL CHECK (status IN ('kept', 'called', 'asked', 'unknown', 'closed')),
    contract longtext NOT NULL, waits_for varchar(512), tries integer NOT NULL DEFAULT 0,
    asks integer NOT NULL DEFAULT 0, doubt boolean NOT NULL DEFAULT false, buried boolean NOT NULL DEFAULT false,
    spent double NOT NULL DEFAULT 0,
    called_at datetime(6), progress longtext, reason longtext,
    record_topic longtext, record_partition integer, record_offset bigint, record_key longblob, record_value longblob,
    record_headers longtext, created_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (consumer, command_id), KEY idempotency_waits_for (consumer, waits_for),
    KEY idempotency_created_at (created_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS breaker (
    consumer varchar(255) NOT NULL, contract varchar(255) NOT NULL,
    state varchar(16) NOT NULL CHECK (state IN ('closed', 'open', 'half-open')), failures integer NOT NULL,
    opened_at datetime(6), probe varchar(512), probe_until datetime(6), PRIMARY KEY (consumer, contract)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
