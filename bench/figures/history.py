"""history: what a transition costs at the end of a run of 10,000 events beside its beginning; in memory."""

import gc
import time
from statistics import median

from bench.figure import Figure
from bench.ground import Ground
from bench.sagas import INVENTORY, Order, Release, Reserve
from bench.traffic import RESULT, SOURCE
from kompensate.orchestrator import Application, Context, saga
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.messages import CANCEL, SIGNAL, START, Command, Header, Reply, Request
from kompensate.schemas.topics import Topics

EVENTS = 10_000
RUNS = 5
BAR = 1.15
TIME = 1_700_000_000_000
SAGA_ID = "long"
ROUND = 5
"""Events of two transitions: CallSucceeded and ReceiveStarted; SignalKept, SignalReceived and CallMade."""


@saga("long")
async def long(ctx: Context, order: Order) -> None:
    """Calls, and waits for a signal, for ever; each call could be undone."""
    while True:
        undo = Release(order.order_id, order.quantity)
        await ctx.call(INVENTORY, Reserve(order.order_id, order.quantity), undo=undo)
        await ctx.receive("go")


class _Run:
    """One long run, whose inputs are made here, each a batch."""

    def __init__(self) -> None:
        application = Application("bench", [long], services=[INVENTORY], partitions=1)
        self.topics = Topics(application.name)
        self.partition = Partition(0, application, Settings())
        self.partition.load([])
        self.partition.loaded({}, {})
        self.offset = 0
        self.took: list[float] = []

    def send(self, topic: str, value: bytes, headers: list[Header]) -> list[OutRecord]:
        self.offset += 1
        record = Record(topic, 0, self.offset, TIME + self.offset, SAGA_ID.encode(), value, headers)
        began = time.thread_time()
        self.partition.handle(record)
        written, _ = self.partition.output("bench.0")
        self.partition.committed()
        self.took.append(time.thread_time() - began)
        return written

    def ask(self, type_: str, value: bytes) -> list[OutRecord]:
        name = long.name if type_ == START else None
        subject = "go" if type_ == SIGNAL else None
        request = Request(f"r{self.offset}", type_, SAGA_ID, SOURCE, name, subject, value)
        return self.send(self.topics.requests, value, request.headers())

    def answer(self, written: list[OutRecord]) -> list[OutRecord]:
        (sent,) = (record for record in written if record.topic.endswith(".commands"))
        command = Command.parse(sent.headers, sent.value)
        reply = Reply(f"a{self.offset}", command.id, SAGA_ID, "inventory.Reserved", SOURCE, "done", RESULT)
        return self.send(command.reply_to, RESULT, reply.headers())

    def tenths(self) -> tuple[float, float]:
        """Seconds a transition took in the first and in the last tenth of those since this was asked for last."""
        took, self.took = self.took, []
        tenth = len(took) // 10
        return sum(took[:tenth]) / tenth, sum(took[-tenth:]) / tenth


def history(ground: Ground) -> list[Figure]:
    """The last tenth of the transitions against the first; then all of it is undone, and the same of that."""
    rounds = ground.sized(EVENTS) // ROUND
    forward, back = [], []
    for _ in range(RUNS):
        gc.collect()
        run = _Run()
        written = run.ask(START, b'{"order_id":"o1","customer":"c1","quantity":2,"cents":1000}')
        for _ in range(rounds):
            run.answer(written)
            written = run.ask(SIGNAL, b"null")
        forward.append(run.tenths())
        run.answer(written)
        written = run.ask(CANCEL, b"")
        for _ in range(rounds - 1):  # not the end, which buries all pages
            written = run.answer(written)
        back.append(run.tenths())
    beside = f"limit: in the first tenth; ratio: last to first, bar {BAR}; medians of {RUNS} runs"
    return [
        _figure("history", forward, f"CPU of a transition in the last tenth of {rounds * ROUND:,} events; {beside}"),
        _figure("undoing", back, f"CPU of a transition in the last tenth of {rounds:,} compensations; {beside}"),
    ]


def _figure(name: str, measured: list[tuple[float, float]], note: str) -> Figure:
    first, last = (median(each) for each in zip(*measured, strict=True))
    ratio = median(last / first for first, last in measured)
    return Figure(name, last * 1e6, "µs/transition", first * 1e6, ratio, note)
