"""timers: how fast 100,000 sagas' timers that are due at once are fired, without Kafka."""

import gc
import time
from collections.abc import Sequence

from bench.figure import Figure
from bench.ground import Ground
from bench.traffic import SOURCE
from kompensate.orchestrator import Application, Context, saga
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.messages import SIGNAL, START, Request
from kompensate.schemas.topics import Topics

TIMERS = 100_000
BAR = 0.9
TIME = 1_700_000_000_000
SLEEP_MS = 60_000


@saga("nap")
async def nap(ctx: Context, _: None) -> None:
    """Sleeps, then waits for a signal: a transition each, from one wait to the next."""
    await ctx.sleep(SLEEP_MS / 1000)
    await ctx.receive("go")
    await ctx.receive("never")


class _Crowd:
    """Sagas of one partition; nearly all of them asleep as bytes, as in a worker."""

    def __init__(self, count: int) -> None:
        application = Application("bench", [nap], partitions=1)
        self.settings = Settings()
        self.count = count
        self.partition = Partition(0, application, self.settings)
        self.partition.load([])
        self.partition.loaded({}, {})
        self._topic = Topics(application.name).requests
        self._offset = 0

    def ask(self, type_: str, time_: int) -> list[Record]:
        found = []
        for number in range(self.count):
            name, subject = (nap.name, None) if type_ == START else (None, "go")
            request = Request(f"r{self._offset}", type_, f"nap-{number}", SOURCE, name, subject, b"null")
            self._offset += 1
            found.append(Record(self._topic, 0, self._offset, time_, b"", b"null", request.headers()))
        return found

    def write(self) -> list[OutRecord]:
        written, _ = self.partition.output("bench.0")
        self.partition.committed()
        return written

    def handle(self, records: Sequence[Record]) -> float:
        """Seconds that these records take, in batches as large as those of timers."""
        portion, began = self.settings.timers_batch_max, time.thread_time()
        for first in range(0, len(records), portion):
            for record in records[first : first + portion]:
                self.partition.handle(record)
            self.write()
        return time.thread_time() - began

    def fire(self, now: int) -> tuple[float, int]:
        """Seconds until nothing is due any more, and how many timers fired."""
        fired, began = 0, time.thread_time()
        while count := self.partition.fire(now, self.settings.timers_batch_max):
            fired += count
            self.write()
        return time.thread_time() - began, fired


def timers(ground: Ground) -> list[Figure]:
    """Timers a second against as many signals that wake the same sagas for a transition."""
    crowd = _Crowd(ground.sized(TIMERS))
    crowd.handle(crowd.ask(START, TIME))
    assert crowd.fire(TIME + SLEEP_MS - 1)[1] == 0  # none early
    gc.collect()
    took, fired = crowd.fire(TIME + SLEEP_MS)
    assert fired == crowd.count
    assert crowd.fire(TIME + SLEEP_MS)[1] == 0  # none twice
    signals = crowd.ask(SIGNAL, TIME + SLEEP_MS)
    gc.collect()
    beside = crowd.handle(signals)
    note = (
        f"{crowd.count:,} due at once, in portions of {crowd.settings.timers_batch_max:,}: {took:.2f} s of CPU; "
        f"limit: as many signals for the same sagas, {beside:.2f} s; bar {BAR}; all but "
        f"{crowd.settings.live_sagas_max:,} of the sagas have to be woken for each"
    )
    return [Figure("timers", fired / took, "timers/s", crowd.count / beside, beside / took, note)]
