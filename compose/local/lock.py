"""Write the lock of the stack's jars anew: `python -m kompensate.compose.local.lock`.

Resolves what `ROOTS` names with jgo and records every jar with its version, size and SHA-256. Only whoever
raises a version runs this; everyone else downloads exactly what the committed lock says (see `jars`).
"""

import hashlib
import json
from pathlib import Path

import jgo

from kompensate.compose.local.jars import LOCK

# Each set is one class path. Kafka 4.3.0 to 4.4.0 leave out markers of transactions (KAFKA-20734; tests/integration/
# test_kafka_restart.py fails with them): brokers stay at 4.2 until that is mended.
# slf4j-simple: the one logging binding that needs no file of its own.
# Jetty: Debezium's parent manages three of its modules to another minor version than Connect's server,
# and the mixture fails at start; all are held at Connect's.
ROOTS = {
    "kafka": "org.apache.kafka:kafka_2.13:4.2.1+org.slf4j:slf4j-simple:1.7.36",
    "connect": "org.apache.kafka:connect-runtime:4.3.1"
    "+io.debezium:debezium-connector-postgres:3.7.0.Final"
    "+org.eclipse.jetty.ee10:jetty-ee10-servlet:12.0.34"
    "+org.eclipse.jetty:jetty-security:12.0.34"
    "+org.eclipse.jetty:jetty-session:12.0.34"
    "+org.slf4j:slf4j-simple:1.7.36",
    # What examples/languages/java runs on, and a compiler that needs no more than a JRE.
    "java-participant": "org.apache.kafka:kafka-clients:4.3.1"
    "+org.postgresql:postgresql:42.7.13"
    "+com.fasterxml.jackson.core:jackson-databind:2.21.2"
    "+org.slf4j:slf4j-simple:1.7.36"
    "+org.eclipse.jdt:ecj:3.40.0",
}


def main() -> None:
    """Resolve, download and hash; then replace the lock file."""
    jars: dict[str, dict[str, str | int]] = {}
    sets: dict[str, list[str]] = {}
    for name, roots in ROOTS.items():
        sets[name] = []
        for artifact in jgo.resolve(roots):
            content = Path(artifact.resolve()).read_bytes()
            coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            jars[coordinate] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            sets[name].append(coordinate)
    lock = {"roots": ROOTS, "sets": sets, "jars": dict(sorted(jars.items()))}
    LOCK.write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
