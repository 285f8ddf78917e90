"""An application's schedules in a run: declared when it begins, spoken to, deleted once all has been asked for.

Schedules fire for ever, so a run could not come to rest while they do: the firings of one that is deleted end, and it
waits for nobody any more.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.schedule import SAGA, begun, said
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import Status
from kompensate.schemas.formats import payloads_of

VERBS = ("pause", "resume", "resume", "trigger", "backfill", "declare")
"""What somebody may say to a schedule; paused ones are resumed more often, so that most of them fire."""
BACKFILL_MS = 3_600_000


class Schedules:
    """Those that `application` declares."""

    def __init__(self, application: Application) -> None:
        self._schedules = {schedule.saga_id: schedule for schedule in application.schedules}
        self._payloads = payloads_of(application.payloads, application.name)
        self._triggers = 0

    def starts(self) -> Iterator[tuple[str, Any]]:
        """Each one's saga, and its input."""
        for saga_id, schedule in self._schedules.items():
            yield saga_id, begun(schedule, schedule.hash)

    def word(self, saga_id: str, now: int, random: Random) -> Any:
        """What somebody says to the schedule that this saga keeps."""
        schedule = self._schedules[saga_id]
        match random.choice(VERBS):
            case "trigger":
                self._triggers += 1
                return said("trigger", key=str(self._triggers))
            case "backfill":
                since = now - random.randrange(BACKFILL_MS)
                return said("backfill", since=since, until=since + BACKFILL_MS // 10)
            case "declare":
                return said("declare", schedule, declared=schedule.hash)
            case verb:
                return said(verb, reason="scripted")

    def deletion(self) -> Any:
        """What makes it fire no more."""
        return said("delete")

    def keeps(self, saga_id: str) -> bool:
        """Is this saga a schedule's?"""
        return saga_id in self._schedules

    def over(self, state: SagaState) -> bool:
        """Was it deleted, and has it nothing left to wait for?"""
        if state.saga_id not in self._schedules or state.status is not Status.RUNNING or state.hold is not None:
            return False
        shown = state.published.get(SAGA)
        if shown is None or state.open or state.sleeps or state.undos or state.signals:
            return False
        return bool(self._payloads.for_saga(state.saga_id).decode(shown, dict[str, Any])["deleted"])
