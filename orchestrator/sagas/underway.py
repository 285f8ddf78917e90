"""The sagas of one partition that have not ended: which are awake, and when each is to be looked at.

A saga that waits is bytes: its pages as the topic has them. It is woken (decoded, folded) by its first
input, and put back to bytes when too many are awake.
"""

from collections import OrderedDict
from collections.abc import Mapping
from logging import getLogger

from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.sagas.entry import Awake, Entry
from kompensate.orchestrator.sagas.journal import Damaged
from kompensate.orchestrator.sagas.timers import Timers
from kompensate.schemas.codec import BadRecord

log = getLogger("kompensate.partition")


class UnderWay(dict[str, Entry]):
    """Sagas of application `app` by their ids, at most `awake_max` of them awake. Add by `restore` and `begin` only."""

    def __init__(self, app: str, catalogue: Catalogue, awake_max: int) -> None:
        super().__init__()
        self._app = app
        self._catalogue = catalogue
        self._awake_max = awake_max
        self._awake: OrderedDict[str, Entry] = OrderedDict()
        self._timers = Timers()

    def restore(self, sagas: Mapping[str, Entry]) -> None:
        """These were read from the log."""
        self.update(sagas)
        for saga_id, entry in sagas.items():
            self.arm(saga_id, entry)

    # -- awake or asleep

    def begin(self, saga_id: str, run: str) -> Entry:
        """A saga that is new."""
        entry = self[saga_id] = Entry([])
        entry.wake_new(self._app, saga_id, run)
        return entry

    def drop(self, saga_id: str) -> None:
        """It has ended, or has not begun after all."""
        self.pop(saga_id).sleep()
        self._awake.pop(saga_id, None)

    def wake(self, saga_id: str, entry: Entry) -> Awake | None:
        """Its execution; None where its pages cannot be read, for which `entry.damaged` says why."""
        if entry.awake is not None and saga_id in self._awake:
            self._awake.move_to_end(saga_id)
            return entry.awake
        if entry.damaged is None:
            try:
                awake = entry.wake(self._app, saga_id, self._catalogue)
            except (Damaged, BadRecord, IllegalTransition) as error:
                entry.damaged = str(error)
                log.error("saga stopped: its pages are damaged: %s", error, extra={"saga_id": saga_id})
            else:
                self._awake[saga_id] = entry
                return awake
        return None

    def put_back(self, saga_id: str, before: tuple[list[bytes], int] | None) -> None:
        """As it was before a batch that does not stand: its pages and due time; None: it was not there."""
        if before is None:
            self.drop(saga_id)
            return
        entry = self[saga_id]
        entry.sleep()
        self._awake.pop(saga_id, None)
        entry.pages, entry.due = before
        entry.armed = 0
        self.arm(saga_id, entry)

    def rest(self) -> None:
        """Let those that were longest without an input sleep, where too many are awake."""
        while len(self._awake) > self._awake_max:
            self._awake.popitem(last=False)[1].sleep()

    def drop_programs(self) -> None:
        """Throw the live coroutines away: each is replayed from its history at its next input."""
        for entry in self._awake.values():
            execution = entry.awake.execution if entry.awake is not None else None
            if execution is not None and execution.program is not None:
                execution.program.close()
                execution.program = None

    # -- due times

    @property
    def next_due(self) -> int | None:
        """When the first may be due, ms since the epoch (it may turn out not to be)."""
        return self._timers.next_due()

    def arm(self, saga_id: str, entry: Entry) -> None:
        """See to it that the timers know of its due time."""
        if entry.due and (not entry.armed or entry.due < entry.armed):
            entry.armed = entry.due
            self._timers.arm(entry.due, saga_id)

    def take_due(self, now: int) -> tuple[str, Entry] | None:
        """The first that is due by `now` (ms since the epoch), once for each due time; None: there is none."""
        while (found := self._timers.pop(now)) is not None:
            due, saga_id = found
            entry = self.get(saga_id)
            if entry is None or due != entry.armed:
                continue
            entry.armed = 0
            if entry.due > due:
                self.arm(saga_id, entry)  # its turn comes in the order of its real time
            elif entry.due:
                return saga_id, entry
        return None
