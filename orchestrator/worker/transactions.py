"""Commits through transactional producers in turn: which error means what, and when a producer is replaced.

librdkafka has no transactions v2 (KIP-890), so two things are ours to defend (docs/architecture.md,
"Transactions", and R9): it repeats an EndTxn whose answer was lost, and a copy that arrives late could end the *next*
transaction of that producer; and a commit that failed here may yet have succeeded at the broker.
So a producer whose coordinator connection was disturbed, or whose commit was slow or had to be resumed, is
replaced by one with the same transactional id before its next transaction: `init_transactions` bumps the epoch
and the broker refuses the stray. And where an outcome is not known, the log is read again.

A producer that has aborted is replaced too: one that failed to deliver a record goes on with a gap in its sequence
numbers, and loses its next transaction whole (OUT_OF_ORDER_SEQUENCE_NUMBER; seen with librdkafka 2.16). The
new one alone would end the transaction, but it waits half a second for one that is open.

Two producers in turn, because the broker still writes one transaction's markers when the next one begins:
the same producer would be told CONCURRENT_TRANSACTIONS and wait. B begins only after A's commit returned.

Contract with its neighbour: a `Producer` (kompensate.orchestrator.kafka) does one thing a method and raises
TransactionError, which says what its caller may do next; it knows no order.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import NoReturn, Protocol

from kompensate.orchestrator.errors import Aborted, Corrupted, Fatal, Fenced, Rejected
from kompensate.orchestrator.ports import Clock, OutRecord
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.faults import fault

logger = logging.getLogger(__name__)

RESUME_WAIT_SECONDS = 0.05
"""Between two calls of what has to be called again."""


class Reaction(Enum):
    """What may follow a failed call."""

    RESUME = "the same call again, with the same arguments"
    ABORT = "give the transaction up, then it can be tried again"
    REJECT = "give the transaction up; it would fail again as it is"
    FENCED = "this producer's id belongs to another now"
    REPLACE = "this producer is of no use any more, and what it did is not known"
    STOP = "no producer will do better"


class TransactionError(Exception):
    """A call of a Producer failed."""

    def __init__(self, reaction: Reaction, text: str) -> None:
        super().__init__(text)
        self.reaction = reaction


class Producer(Protocol):
    """One transactional producer. Every method may raise TransactionError."""

    disturbed: bool
    """A request to the transaction coordinator may still be under way that nobody waits for."""

    def serve(self) -> None:
        """Let its callbacks run, without waiting."""

    def begin(self) -> None: ...
    def produce(self, records: Sequence[OutRecord]) -> None: ...
    def send_offsets(self, offsets: Mapping[tuple[str, int], int], metadata: object) -> None: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None:
        """Drop it, with whatever it still has open or queued. Raises nothing."""


def expect_fenced(
    offsets: Mapping[tuple[str, int], int], owned: Collection[int], requests: str, generation: int, member: str
) -> None:
    """See that the broker would refuse this commit if its partitions were another's now. Raises Fenced, Aborted, Fatal.

    Three ways by which it would not: the fence is the member's, not the partition's, so that we own what we
    write for is ours to know (R8, H4); without a valid offset nothing is checked (R8, H2); and a classic group
    takes offsets of generation -1 from anybody, which is what a client has that has not joined yet (R7, H3).
    """
    touched = {partition for _topic, partition in offsets}
    stray = touched.difference(owned)
    if stray or not touched:
        raise Fenced(f"a commit for partitions {sorted(touched)}: expected to own them, got {sorted(owned)} as ours")
    for partition in touched:
        if offsets.get((requests, partition), -1) < 0:
            raise Fatal(f"partition {partition}: expected its offset in {requests} in every commit, got {offsets}")
    if generation < 0 or not member:
        raise Aborted(f"expected to be a member of the group, got generation {generation}, member {member!r}")


class Transactions:
    """The producers of one worker, and the transaction that is under way."""

    def __init__(
        self, ids: Sequence[str], open_all: Callable[[Sequence[str]], list[Producer]], settings: Settings, clock: Clock
    ) -> None:
        """`open_all` makes initialised producers of these ids, together: each takes half a second."""
        self._ids = tuple(ids)
        self._open_all = open_all
        self._timeout = settings.transaction_timeout_seconds
        self._clock = clock
        self._producers: dict[str, Producer] = {}
        self._suspects: set[str] = set()
        self._turn = 0

    @property
    def ids(self) -> tuple[str, ...]:
        return self._ids

    @property
    def writer(self) -> str:
        """The transactional id of the next commit."""
        return self._ids[self._turn]

    def open(self) -> None:
        """Open what is not open, so that an older life's transactions are ended. Raises Aborted, Fenced, Fatal."""
        missing = [id_ for id_ in self._ids if id_ not in self._producers]
        if not missing:
            return
        try:
            self._producers.update(zip(missing, self._open_all(missing), strict=True))
        except TransactionError as error:
            text = f"transactional producers {', '.join(missing)} could not be opened: {error}"
            if error.reaction is Reaction.STOP:
                raise Fatal(text) from error
            if error.reaction is Reaction.FENCED:
                raise Fenced(text) from error
            raise Aborted(text) from error
        self._suspects.difference_update(missing)

    def commit(self, records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int], metadata: object) -> None:
        """Write and commit. Raises as `Log.commit`; whatever it raises, no transaction is left open in its name."""
        id_ = self.writer
        self._rotate(id_)
        producer = self._producers[id_]
        began = self._clock.monotonic()
        try:
            producer.begin()
            fault("worker.before_produce")
            producer.produce(records)
            fault("worker.after_produce")
            # After the produces: while the coordinator is asked, the records are on their way (measured: first
            # or last makes no difference that outlasts the noise, with two producers in turn).
            self._call(id_, began, lambda: producer.send_offsets(offsets, metadata))
            fault("worker.after_offsets")
            self._call(id_, began, producer.commit)
        except TransactionError as error:
            self._fail(id_, error)
        except Exception as error:
            # A failed produce() does not fail the transaction by itself: it would commit without that record.
            self._give_up(id_)
            raise Aborted(f"transaction of {id_} was given up: {error!r}") from error
        if self._clock.monotonic() - began > self._timeout / 4:
            self._suspects.add(id_)
        self._turn = (self._turn + 1) % len(self._ids)

    def serve(self) -> None:
        """Let the producers' callbacks run: unserved, what they have to tell piles up."""
        for producer in self._producers.values():
            producer.serve()

    def close(self) -> None:
        """Drop all producers."""
        for producer in self._producers.values():
            producer.close()
        self._producers.clear()

    def _rotate(self, id_: str) -> None:
        """Replace the producer if a request of its last transaction might still be under way (R9)."""
        producer = self._producers.get(id_)
        self.serve()
        if producer is not None and (id_ in self._suspects or producer.disturbed):
            logger.info("transactional producer %s is replaced: its last commit was disturbed", id_)
            self._drop(id_)
        self.open()

    def _drop(self, id_: str) -> None:
        producer = self._producers.pop(id_, None)
        if producer is not None:
            producer.close()

    def _call(self, id_: str, began: float, call: Callable[[], None]) -> None:
        """Make a call, and again where it says so, until the broker must have given the transaction up."""
        while True:
            try:
                return call()
            except TransactionError as error:
                if error.reaction is not Reaction.RESUME:
                    raise
                self._suspects.add(id_)
                if self._clock.monotonic() - began > 2 * self._timeout:
                    raise TransactionError(
                        Reaction.REPLACE, f"no answer within {2 * self._timeout:g} s: {error}"
                    ) from error
                self._clock.sleep(RESUME_WAIT_SECONDS)

    def _give_up(self, id_: str) -> None:
        """End the transaction and replace its producer."""
        try:
            self._call(id_, self._clock.monotonic(), self._producers[id_].abort)
        except TransactionError as error:
            logger.info("transactional producer %s: its abort is left to its successor: %s", id_, error)
        self._drop(id_)
        try:
            self.open()
        except (Aborted, Fenced, Fatal) as error:
            # Later then, before the next commit or take-over. It cannot commit: nobody is left to ask for it.
            logger.warning("%s", error)

    def _fail(self, id_: str, error: TransactionError) -> NoReturn:
        text = f"transaction of {id_}: {error}"
        if error.reaction is Reaction.FENCED:
            self._drop(id_)
            raise Fenced(text) from error
        self._give_up(id_)
        if error.reaction is Reaction.REJECT:
            raise Rejected(text) from error
        if error.reaction is Reaction.ABORT:
            raise Aborted(text) from error
        if error.reaction is Reaction.STOP:
            raise Fatal(text) from error
        # A commit that failed here may have succeeded at the broker: only the log knows (R3).
        raise Corrupted(text, retry=True) from error
