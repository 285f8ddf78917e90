"""Every limit of a worker, with its unit and its reason."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """A worker's limits. The defaults are meant for production; tests lower times and sizes."""

    bootstrap: str = "127.0.0.1:9092"
    """Kafka's bootstrap servers."""
    prefix: str = ""
    """Before every topic, group and transactional id: lets applications share a cluster."""
    slot: str | None = None
    """This worker's place among the application's: a restart in the same slot ends what its former life left open.
    Default: the host's name and the first free lock file below `slot_directory`."""
    slot_directory: Path | None = None
    """Where lock files of slots are kept. Default: the system's directory for temporary files."""
    kafka: dict[str, str] = field(default_factory=dict)
    """librdkafka's own options, TLS and SASL among them, passed on as they are."""
    group_protocol: str = "classic"
    """`classic` (cooperative-sticky) or `consumer` (KIP-848)."""

    batch_records_max: int = 2_000
    """Inputs in one transaction: more commits cost throughput below 500, and above 10,000 the pipeline runs dry."""
    batch_bytes_max: int = 16 * 1024 * 1024
    """Output of one transaction, so that its commit stays far below the transaction's time-out."""
    timers_batch_max: int = 1_000
    """Timers fired in one transaction: a storm after an outage must not hold replies up."""
    batch_seconds_max: float = 0.25
    """A batch is committed after that long, however little of it was handled: the others wait for it."""
    idle_poll_seconds: float = 0.01
    """How long an idle worker waits for inputs before it looks at timers and the group again. Inputs wake it."""

    transaction_timeout_seconds: float = 10.0
    """A dead worker's open transaction blocks readers that long where nobody fences it."""
    session_timeout_seconds: float = 10.0
    """A dead worker's partitions are given away after that (classic protocol; KIP-848: the broker's)."""
    heartbeat_seconds: float = 3.0
    unstable_seconds: float = 1.0
    """A partition being taken over that an open transaction holds up for so long has its last writer fenced."""
    restores_max: int = 4
    """Partitions restored at a time: each holds a consumer with its prefetched records."""
    restore_stall_seconds: float = 60.0
    """A restore without progress for so long stops its partition with an error."""
    tombstone_retention_seconds: float = 24 * 3600.0
    """`delete.retention.ms` of the state topic. A restore slower than that could read what a tombstone ended."""
    recommit_seconds: float = 3_600.0
    """An idle partition commits its offsets again that often: offsets of unsubscribed topics expire."""

    page_bytes_max: int = 4 * 1024
    """A page of a saga's history begins anew past this: the cost of a transition is bounded by it."""
    record_bytes_max: int = 4 * 1024 * 1024
    """The state topic's record limit: inputs are limited to a quarter of it."""
    live_sagas_max: int = 10_000
    """Sagas kept ready in memory per partition; the others are bytes until they are needed."""
    step_threads: int = 16
    """Local steps that are not `async def` run on so many threads at most."""
    dedup_window_seconds: float = 24 * 3600.0
    """An ended saga's id cannot start again for so long."""
