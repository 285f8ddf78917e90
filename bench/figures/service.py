"""service: what a command costs one service process, beside its SQL by bare psycopg."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from confluent_kafka import Producer
from sqlalchemy import Engine, create_engine

from bench.figure import Figure
from bench.ground import BenchError, Ground
from bench.sagas import APPLICATION, Reserve
from bench.services import commands as counted
from bench.services import create
from kompensate.outbox.tables import create_tables
from kompensate.schemas.messages import Command
from kompensate.schemas.payloads import encode
from kompensate.schemas.topics import Topics, partition_of

COMMANDS, WARM = 20_000, 2_000
"""In a round; the first ones are not counted."""
ROUNDS = 3
BARS = {"psycopg": 0.5, "session": 0.3}
RUN_SECONDS = 300.0

Cost = dict[str, Any]


def service(ground: Ground) -> list[Figure]:
    """Each way to reach the database, in turn with bare psycopg."""
    found = []
    for way, bar in BARS.items():
        pairs = [_pair(ground, way, number) for number in range(ROUNDS)]
        of_us, of_bare = [us for us, _ in pairs], [bare for _, bare in pairs]
        ratio = median(bare["wall"] / us["wall"] for us, bare in pairs)
        by_cpu = median((bare["cpu"] + bare["server"]) / (us["cpu"] + us["server"]) for us, bare in pairs)
        note = (
            f"Kafka to outbox, handler by {way}; limit: the same SQL by bare psycopg in equal groups, bar {bar}; "
            f"by CPU of both ends of the connection, which counts on a loaded machine too, the ratio is {by_cpu:.2f}; "
            f"a command costs {_described(of_us)}, bare {_described(of_bare)}; of ours {_phases(pairs[-1][0])}"
        )
        rates = [1e6 / median(each["wall"] for each in costs) for costs in (of_us, of_bare)]
        found.append(Figure(f"service_{way}", rates[0], "commands/s", rates[1], ratio, note))
    return found


def _pair(ground: Ground, way: str, number: int) -> tuple[Cost, Cost]:
    """A round of ours and one of the bare loop, in one database; who is first alternates."""
    commands = ground.sized(COMMANDS)
    sizes = ("--commands", str(commands), "--warm", str(ground.sized(WARM)))
    with ground.topics() as topics, ground.database() as dsn:
        engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
        _fill(ground, topics, commands)
        where = ("--dsn", dsn, "--bootstrap", ground.stack.bootstrap, "--prefix", topics.prefix)
        ours = ("bench.one_service", "--way", way, *where, *sizes)
        with engine.begin() as connection:
            create(connection)
            create_tables(connection)
        costs = {}
        for argv in (ours, ("bench.bare_service", "--dsn", dsn, *sizes))[:: 1 if number % 2 == 0 else -1]:
            before = _booked(engine)
            with ground.child(*argv) as child:
                costs[argv[0]] = child.result(RUN_SECONDS)
            if _booked(engine) - before < commands:
                raise BenchError(
                    f"{argv[0]}: expected {commands} commands to take effect, got {_booked(engine) - before}"
                )
        engine.dispose()
    us, bare = costs["bench.one_service"], costs["bench.bare_service"]
    ground.say(f"service by {way}: {_described([us])}; bare: {_described([bare])}; {_phases(us)}")
    return us, bare


def _booked(engine: Engine) -> int:
    with engine.connect() as connection:
        return counted(connection)


def _fill(ground: Ground, topics: Topics, commands: int) -> None:
    """So many commands, each of a saga of its own, in the command topic."""
    producer = Producer({"bootstrap.servers": ground.stack.bootstrap, "linger.ms": 5, "acks": "all"})
    for number in range(commands):
        saga_id = f"order-{number}"
        command = Command(
            id=f"{number:032x}",
            type="inventory.Reserve",
            source=f"kompensate:{APPLICATION.name}",
            saga_id=saga_id,
            saga_type="checkout",
            step="reserve",
            phase="forward",
            attempt=1,
            reply_to=topics.replies("inventory"),
            reply_partition=partition_of(saga_id, APPLICATION.partitions),
            payload=encode(Reserve(saga_id, 2)),
        )
        headers = [(name, value) for name, value in command.headers()]
        producer.produce(topics.commands("inventory"), command.payload, saga_id.encode(), headers=headers)
        if number % 1_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise BenchError(f"expected {commands} commands in Kafka within 60 s")


def _described(costs: Sequence[Cost]) -> str:
    """Medians in words."""
    wall, cpu, server = (median(each[name] for each in costs) for name in ("wall", "cpu", "server"))
    return f"{wall:.0f} µs by the clock (CPU: client {cpu:.0f}, PostgreSQL's process {server:.0f})"


def _phases(cost: Cost) -> str:
    return "the runner's thread " + ", ".join(f"{name} {cpu:.0f}" for name, cpu in sorted(cost["phases"].items()))
