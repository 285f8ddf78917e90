"""end_to_end and latency: services with databases, the built-in relay and a worker, each a process of its own."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import psycopg
from sqlalchemy import Engine, create_engine, inspect

from bench.endings import endings, sagas_per_second
from bench.figure import Figure, quantile
from bench.ground import BenchError, Child, Ground
from bench.sagas import STEPS
from bench.services import ALL, commands, create
from kompensate.outbox.tables import OUTBOX
from kompensate.schemas.topics import Topics

WINDOW, WINDOWS = 1_000, 6
"""Sagas under way at a time, and how often as many are run."""
ONE_BY_ONE, WARM_UP = 500, 50
SAGAS_BAR, LATENCY_BAR = 250.0, 60.0
READY_SECONDS = 60.0
RUN_SECONDS = 600.0
CLI = "kompensate.orchestrator.cli"


def end_to_end(ground: Ground) -> list[Figure]:
    """Completed sagas a second under load."""
    window = ground.sized(WINDOW)
    sagas = window * WINDOWS
    with whole(ground) as (topics, engines):
        load = ("--bootstrap", ground.stack.bootstrap, "--prefix", topics.prefix)
        with ground.child("bench.client", *load, "--sagas", str(sagas), "--window", str(window)) as client:
            seconds = client.result(RUN_SECONDS)["seconds"]
        rate = sagas_per_second(endings(ground.stack.bootstrap, topics, sagas), window)
        _expect_each_once(engines, sagas)
    note = (
        f"completed sagas of {STEPS} steps over 3 services with a PostgreSQL database each, outbox and built-in relay; "
        f"{window} under way, each p50 {quantile(seconds, 0.5):.2f} s; bar: {SAGAS_BAR:g}"
    )
    return [Figure("end_to_end", rate, "sagas/s", SAGAS_BAR, rate / SAGAS_BAR, note)]


def latency(ground: Ground) -> list[Figure]:
    """A saga alone, from asking for it to reading that it has ended."""
    sagas = ground.sized(ONE_BY_ONE) + WARM_UP
    with whole(ground) as (topics, engines):
        load = ("--bootstrap", ground.stack.bootstrap, "--prefix", topics.prefix)
        with ground.child("bench.client", *load, "--sagas", str(sagas), "--window", "1") as client:
            found = client.result(RUN_SECONDS)["seconds"][WARM_UP:]
        _expect_each_once(engines, sagas)
    p50, p99 = quantile(found, 0.5) * 1000, quantile(found, 0.99) * 1000
    note = (
        f"p50 of {len(found)} sagas of {STEPS} steps, one at a time, through outboxes and relay; p99 {p99:.0f} ms, "
        f"most {max(found) * 1000:.0f} ms; bar: {LATENCY_BAR:g} ms"
    )
    return [Figure("latency", p50, "ms", LATENCY_BAR, p50 / LATENCY_BAR, note)]


@contextmanager
def whole(ground: Ground) -> Iterator[tuple[Topics, list[Engine]]]:
    """Everything at work: topics, and the services' databases."""
    with ExitStack() as undo:
        topics = undo.enter_context(ground.topics())
        dsns = {each.name: undo.enter_context(ground.database()) for each in ALL}
        engines = []
        for dsn in dsns.values():
            engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
            undo.callback(engine.dispose)
            with engine.begin() as connection:
                create(connection)
            engines.append(engine)
        common = ("--bootstrap", ground.stack.bootstrap, "--prefix", topics.prefix)
        services = [
            undo.enter_context(
                ground.child(CLI, "participant", f"bench.services:{name}", "--dsn", dsn, "--create-tables", *common)
            )
            for name, dsn in dsns.items()
        ]
        for service, engine in zip(services, engines, strict=True):
            service.until(partial(_has_outbox, engine), "its outbox", READY_SECONDS)
        outboxes = [argument for name, dsn in dsns.items() for argument in ("--dsn", f"{name}={dsn}")]
        relay = undo.enter_context(ground.child(CLI, "relay", *outboxes, *common))
        relay.until(lambda: _slots(ground) == len(ALL), "the relay to read its slots", READY_SECONDS)
        worker: Child = undo.enter_context(ground.child("bench.engine", *common))
        worker.until(lambda: bool(worker.lines()), "the worker to be ready", READY_SECONDS)
        yield topics, engines


def _has_outbox(engine: Engine) -> bool:
    return inspect(engine).has_table(OUTBOX)


def _expect_each_once(engines: list[Engine], sagas: int) -> None:
    """The databases' own count: every command took effect once."""
    booked = 0
    for engine in engines:
        with engine.connect() as connection:
            booked += commands(connection)
    if booked != sagas * STEPS:
        raise BenchError(f"expected {sagas * STEPS} commands to have taken effect, got {booked}")


def _slots(ground: Ground) -> int:
    with psycopg.connect(ground.stack.postgres_dsn()) as connection:
        row = connection.execute("SELECT count(*) FROM pg_replication_slots WHERE active").fetchone()
    return 0 if row is None else int(row[0])
