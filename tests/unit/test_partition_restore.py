"""Memory is only a cache of the log: taken back, restored or evicted at any point, a partition says the same.

Two partitions get the same inputs. One just lives; the other has every saga evicted after each batch, takes
batches back, and is restored from what a compaction may leave of the state topic. Their records must be
equal, byte for byte.
"""

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kompensate.orchestrator.ports import Record
from kompensate.schemas.messages import CANCEL, PAUSE, RESUME, SIGNAL, Command
from tests.fixtures.partitions import IDS, TOPICS, Input, Shop, memory
from tests.fixtures.programs import weighted

Act = tuple[Any, ...]

_POLICY = {
    "resend_after": 400,
    "timeout": 1_500,
    "attempts": 2,
    "retry_initial": 100,
    "retry_max": 100,
    "undo_attempts": 2,
}
_CALL = ["inventory", "compensatable", True, _POLICY]
_NARROW = [*_CALL, "narrow"]
_PIVOT = ["shipping", "pivot", False, {**_POLICY, "timeout": None}]
PROGRAMS: list[Any] = [
    [["call", _CALL, False], ["sleep", 1], ["call", _CALL, True], ["receive", "paid", None, False]],
    [
        ["spawn", _CALL],
        ["spawn", _CALL],
        ["sleep", 0.5],
        ["join", True],
        ["call", _PIVOT, False],
        ["call", _CALL, False],
    ],
    [["call", _CALL, False], ["receive", "paid", 1, True], ["sleep", 0], ["raise"]],
    [["call", _NARROW, False], ["call", _NARROW, False], ["fail"]],
    [["spawn", _NARROW], ["spawn", _NARROW], ["spawn", _NARROW], ["select", True], ["call", _NARROW, True]],
    [["receive", "paid", None, False], ["receive", "shipped", 2, True]],
]
_ids = st.sampled_from(IDS[:4])
_outcomes = st.sampled_from(["done"] * 5 + ["refused", "refused", "failed", "expired"])
_act = weighted(
    {
        st.tuples(st.just("start"), _ids, st.sampled_from([None, *range(len(PROGRAMS))])): 4,
        st.tuples(st.just("reply"), st.integers(0, 3), _outcomes): 9,
        st.tuples(st.just("reply"), st.integers(0, 40), _outcomes): 2,
        st.tuples(st.just("signal"), _ids, st.sampled_from(["paid", "shipped"])): 2,
        st.tuples(st.sampled_from([CANCEL, PAUSE, RESUME]), _ids): 2,
        st.tuples(st.just("junk"), st.integers(0, 4)): 1,
        st.tuples(st.just("fire"), st.sampled_from([0, 100, 450, 1_500, 60_000]), st.sampled_from([1, 2, 1_000])): 4,
        st.tuples(st.just("commit")): 6,
        st.tuples(st.just("discard"), st.booleans()): 2,
        st.tuples(st.just("restore"), st.integers(0, 10_000)): 2,
    }
)
acts = st.integers(0, 40).flatmap(lambda least: st.lists(_act, min_size=least, max_size=60))


def compacted(seed: int) -> Any:
    """A compaction: it may drop whatever a later record of the same key replaces, and tombstones behind it."""

    def compact(records: list[Record]) -> list[Record]:
        random = Random(seed)
        share = random.choice([0.0, 0.5, 1.0])
        last = {record.key: record.offset for record in records}
        kept = [r for r in records if last[r.key] == r.offset or random.random() >= share]
        earlier = {record.key for record in kept if last[record.key] != record.offset}
        return [r for r in kept if r.value is not None or r.key in earlier or random.random() >= share]

    return compact


class Pair:
    """The one that lives, and the one that is put through everything. Inputs are made by the first."""

    def __init__(self, page_bytes_max: int) -> None:
        limits: dict[str, Any] = {"page_bytes_max": page_bytes_max, "dedup_window_seconds": 20.0}
        self.living = Shop(**limits)
        self.tried = Shop(**limits, live_sagas_max=0)
        self.batch: list[Input] = []
        self.before = memory(self.tried.partition)

    def do(self, act: Act) -> None:
        match act:
            case ("commit",):
                self.commit()
            case ("discard", written):
                if written:
                    self.tried.partition.output("writer-0")
                self.tried.partition.discard()
                assert memory(self.tried.partition) == self.before
                self.tried.take(self.batch)
            case ("restore", seed):
                self.tried.crash(compacted(seed))
                assert memory(self.tried.partition) == self.before
                self.tried.take(self.batch)
            case _:
                input_ = self.input(act)
                if input_ is not None:
                    self.batch.append(input_)
                    for shop in (self.living, self.tried):
                        shop.take([input_])

    def commit(self) -> None:
        assert self.living.commit() == self.tried.commit()
        self.batch = []
        self.before = memory(self.tried.partition)
        assert self.before == memory(self.living.partition)

    def input(self, act: Act) -> Input | None:
        shop = self.living
        match act:
            case ("start", saga_id, program):
                if program is None:
                    return shop.start(saga_id)
                return shop.start(saga_id, PROGRAMS[program], "performed")
            case ("reply", back, outcome) if len(shop.commands) > back:
                return shop.reply(self.command(back), outcome)
            case ("signal", saga_id, name):
                return shop.request(SIGNAL, saga_id, subject=name)
            case ("fire", ms, limit):
                shop.now += ms
                return shop.now, limit
            case ("junk", number):
                return self.junk(number)
            case (verb, saga_id) if isinstance(saga_id, str):
                return shop.request(verb, saga_id, subject="as asked")
        return None

    def junk(self, number: int) -> Input:
        """Input that nobody can handle."""
        shop = self.living
        if number == 0 and shop.commands:
            return shop.reply(topic=TOPICS.replies("payments"))
        if number == 1:
            return shop.start("not/an/id")
        if number == 2:
            return shop.record(TOPICS.replies("inventory"), "x", b"\xff", [("ce_id", b"\xff")])
        if number == 3:
            return shop.start(IDS[0], "no order")
        return shop.record(TOPICS.requests, None, None, None)

    def command(self, back: int) -> Command:
        return self.living.commands[-1 - back]


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(acts, st.sampled_from([1, 300, 4_096]))
def test_taken_back_restored_or_evicted_it_says_the_same(script: list[Act], page_bytes_max: int) -> None:
    """Whatever happens to memory, the records are those of a partition to which nothing happens."""
    pair = Pair(page_bytes_max)
    for act in script:
        pair.do(act)
    pair.commit()
    pair.do(("restore", 1))
    pair.do(("fire", 60_000, 1_000))
    pair.commit()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_long_lives(seed: int) -> None:
    """The same with long scripts: many sagas that end, are forgotten and begin again."""
    random = Random(seed)
    pair = Pair(random.choice([1, 300, 4_096]))
    for _ in range(600):
        match random.choices(["start", "reply", "fire", "other", "commit", "memory"], [4, 12, 5, 3, 8, 2])[0]:
            case "start":
                act: Act = ("start", random.choice(IDS), random.choice([None, *range(len(PROGRAMS))]))
            case "reply":
                act = ("reply", random.randrange(6), random.choice(["done"] * 5 + ["refused", "failed", "expired"]))
            case "fire":
                act = ("fire", random.choice([0, 100, 450, 1_500, 9_000]), random.choice([1, 2, 1_000]))
            case "other":
                act = random.choice(
                    [("signal", random.choice(IDS), "paid"), (CANCEL, random.choice(IDS)), (RESUME, random.choice(IDS))]
                )
            case "commit":
                act = ("commit",)
            case _:
                act = random.choice([("discard", True), ("discard", False), ("restore", random.randrange(1_000))])
        pair.do(act)
    pair.commit()

    assert len(pair.living.commands) > 50
