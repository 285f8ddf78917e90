"""What participants did to their databases, and what came of it in the reply topics.

I1   what a saga turned back from is undone, and nothing of it happens afterwards
I2   a command takes effect once, and only one attempt of a step does
I9   what is published was committed; what is confirmed to the slot was published
I10  only commands of committed transactions are executed, and what they tell came of an effect
"""

from collections.abc import Callable
from functools import partial

from kompensate.orchestrator.kernel.state import Call, SagaState
from kompensate.orchestrator.kernel.tables import CallStatus
from kompensate.orchestrator.ports import Record
from kompensate.simulator.database import COLUMNS, Database
from kompensate.simulator.hearing import Hearing
from kompensate.simulator.ledger import Ledger
from kompensate.simulator.scripted import EVENT
from kompensate.simulator.violation import Violation, expect

_NAMES = [column.name for column in COLUMNS]
_ID, _TOPIC, _CAUSE = _NAMES.index("id"), _NAMES.index("aggregatetype"), _NAMES.index("ce_causationid")
_NOT_DONE = (CallStatus.REFUSED, CallStatus.FAILED)


class Effects:
    """Watches the databases of all services."""

    def __init__(self, ledger: Ledger, databases: dict[str, Database], committed: Callable[[str], None]) -> None:
        """`committed` is told of a service whose database has new rows."""
        self._hearing: Hearing | None = None
        self._ledger = ledger
        self._committed = committed
        self._databases = databases
        self._seen = dict.fromkeys(databases, 0)
        self.done: set[str] = set()
        self.undone: set[str] = set()
        self._undos: set[str] = set()
        self._closed: set[str] = set()
        """Forward commands that were undone: nothing may come of them any more."""
        self.unpublished: dict[str, dict[bytes, int]] = {service: {} for service in databases}
        self._known: set[bytes] = set()
        for service, database in databases.items():
            database.on_rows = lambda lsn, rows, service=service: self._rows(service, lsn, rows)  # type: ignore[misc]

    def listen(self, hearing: Hearing) -> None:
        """Events are told and handled, too: an event's handler leaves no row in the outbox."""
        self._hearing = hearing
        for service, database in self._databases.items():
            database.on_change = partial(self._executed, service)

    def _rows(self, service: str, lsn: int, rows: list[list[bytes | None]]) -> None:
        for row in rows:
            id_ = row[_ID] or b""
            self.unpublished[service][id_] = lsn
            self._known.add(id_)
        self._executed(service)
        if self._hearing is not None:
            self._caused(service, rows, self._hearing)
        self._committed(service)

    def _caused(self, service: str, rows: list[list[bytes | None]], hearing: Hearing) -> None:
        """What a handler tells came of a command that took effect."""
        for row in rows:
            cause = (row[_CAUSE] or b"").decode()
            if cause and (row[_TOPIC] or b"").decode() in hearing.topics:
                expect(cause in self.done, "I10", f"{service} told an event of {cause}, which took no effect")

    def _executed(self, service: str) -> None:
        found = self._databases[service].query(
            "SELECT id, command_id, phase, compensates FROM effect WHERE id > ? ORDER BY id", self._seen[service]
        )
        for number, command_id, phase, compensates in found:
            self._seen[service] = number
            if phase == EVENT and self._hearing is not None:
                self._hearing.handled(service, command_id)
                continue
            self.took_effect(service, command_id, phase, compensates)

    def took_effect(self, service: str, command_id: str, phase: str, compensates: str | None) -> None:
        """A command did, in the service's database or at its provider. Raises Violation."""
        expect(command_id in self._ledger.issued, "I10", f"{service} executed {command_id}, which nobody issued")
        expect(command_id not in self.done, "I2", f"{service} executed {command_id} twice")
        self.done.add(command_id)
        if phase == "forward":
            expect(command_id not in self._closed, "I1", f"{service} executed {command_id} after it was undone")
            self._once(service, command_id)
        else:
            self._undos.add(command_id)
            expect(compensates in self.done, "I1", f"{service} undid {compensates}, which was not done")
            expect(compensates not in self.undone, "I2", f"{service} undid {compensates} twice")
            assert compensates is not None
            self.undone.add(compensates)
            self._closed.add(compensates)

    def _once(self, service: str, command_id: str) -> None:
        call = self._ledger.issued[command_id]
        if call.made.type and call.status is CallStatus.UNDONE:
            raise Violation("I1", f"{service} executed {command_id} after its saga had undone it")

    def published(self, service: str, record: Record) -> None:
        """A record of a reply topic."""
        id_ = next((value for name, value in record.headers or () if name == "id"), None) or b""
        if id_ not in self._known:
            raise Violation("I9", f"{service}: {id_!r} is published and was not committed")
        self.unpublished[service].pop(id_, None)

    def confirmed(self, service: str, lsn: int) -> None:
        """The relay is about to tell the slot that everything up to `lsn` is in Kafka."""
        for id_, at in self.unpublished[service].items():
            if at <= lsn:
                raise Violation("I9", f"{service}: {lsn} is confirmed, row {id_!r} at {at} is not published")
            break  # rows come in order of commit

    def ended(self, state: SagaState) -> None:
        """A saga has ended: what stands in the databases is what it says."""
        if state.waits_for:
            return  # a fork that was given up: the steps that it was given are another saga's
        for call in state.calls.values():
            if call.made.service not in self._databases:
                continue  # a local step, or a child: no participant's
            attempts = [id_ for id_, other in state.commands.items() if other is call]
            name, problem = self._problem(
                call, [id_ for id_ in attempts if id_ in self.done and id_ not in self._undos]
            )
            if problem:
                where = f"{state.saga_id} ({state.status}), step {call.made.step!r}, {call.status}"
                raise Violation(name, f"{where}: {problem}")
            if call.status is CallStatus.UNDONE:
                self._closed.add(call.forward_id)

    def _problem(self, call: Call, forward: list[str]) -> tuple[str, str]:
        """What is wrong with a call of a saga that has ended, of which these attempts took effect; mostly nothing."""
        if len(forward) > 1:
            return "I2", f"expected one attempt to take effect, got {forward}"
        if not call.made.type:  # a compensation that was registered: nothing goes forward
            run = len(forward) == (call.status is CallStatus.UNDONE)
            return ("", "") if run else ("I1", f"expected it run if undone, and only then, got {forward}")
        if call.status is CallStatus.DONE:
            if not forward:
                return "I1", "expected its effect in the database, got none"
            if forward[0] in self.undone:
                return "I1", "expected it to stay, but it was undone"
        elif call.status in _NOT_DONE and forward:
            return "I1", f"expected no effect, got {forward}"
        elif call.status is CallStatus.UNDONE and not self.undone.issuperset(forward):
            return "I1", f"expected it undone, {forward} still stands"
        return "", ""
