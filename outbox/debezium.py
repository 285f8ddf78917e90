"""Debezium's configuration for an outbox, made from the same names as our own relay. Pure.

With it Kafka Connect makes the same record of the same row: topic, key, value, partition, and our headers;
it adds four `__debezium.context.*` headers of its own (Debezium documentation, "Outbox Event Router").
"""

from typing import Any

from kompensate.outbox.naming import database_of, slot_name
from kompensate.outbox.tables import HEADER_COLUMNS, OUTBOX, PUBLICATION

POLL_MS = 5
"""How often the connector looks for rows: answers fast, and keeps about a sixth of a core busy when idle."""


def connector(
    dsn: str,
    *,
    name: str | None = None,
    slot: str | None = None,
    publication: str = PUBLICATION,
    table: str = OUTBOX,
    schema: str = "public",
) -> dict[str, str]:
    """The connector's configuration, as `PUT /connectors/<name>/config` takes it.

    `name` stands in Connect's logs and metrics (default: the database's). `slot` is not the built-in
    relay's: both may read one outbox side by side. Raises ValueError for a DSN that cannot be read, or of two hosts.
    """
    database = database_of(dsn)
    if "," in database.get("host", ""):
        raise ValueError(
            f"Debezium: expected the address of one host, got {database['host']}: give it a name that moves with the "
            "primary"
        )
    placement = ",".join(f"{column}:header:{header}" for column, header in HEADER_COLUMNS)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        **_connection(database),
        "topic.prefix": name or database["dbname"],
        "plugin.name": "pgoutput",
        "slot.name": slot or slot_name(database["dbname"], "debezium"),
        # Where the server is older than 17 the connector says so, and makes a plain one.
        "slot.failover": "true",
        "publication.name": publication,
        # The publication is ours: insert-only, of the outbox alone.
        "publication.autocreate.mode": "disabled",
        "table.include.list": f"{schema}.{table}",
        "snapshot.mode": "no_data",
        "tombstones.on.delete": "false",
        "poll.interval.ms": str(POLL_MS),
        # A quiet outbox beside busy tables must not pin the server's log.
        "lsn.flush.mode": "connector_and_driver",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "header.converter": "org.apache.kafka.connect.storage.StringConverter",
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.route.topic.replacement": "${routedByValue}",
        "transforms.outbox.table.expand.json.payload": "false",
        "transforms.outbox.table.fields.additional.placement": f"{placement},partition:partition",
    }


def _connection(database: dict[str, Any]) -> dict[str, str]:
    found = {
        "database.hostname": str(database.get("host") or "localhost"),
        "database.port": str(database.get("port") or 5432),
        "database.user": str(database.get("user") or "postgres"),
        "database.password": str(database.get("password") or ""),
        "database.dbname": str(database["dbname"]),
    }
    if "sslmode" in database:
        found["database.sslmode"] = str(database["sslmode"])
    return found
