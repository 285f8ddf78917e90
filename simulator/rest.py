"""What holds once everything has healed and nothing is left to do.

I3   every saga that was asked for has ended, or is held where everybody can see it
I6   all memory is as the topic has it
I9   every answer in an inbox is in the outbox, and every row of an outbox is published
I11  nothing is undecided, no input and no row is left behind, every event is seen to
"""

from typing import TYPE_CHECKING

from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import Hold, Status
from kompensate.simulator.violation import expect

if TYPE_CHECKING:
    from kompensate.simulator.run import Run


def missing(run: "Run") -> list[str]:
    """What is still to come."""
    ledger, world = run.ledger, run.world
    found = [
        f"saga {saga_id}: {shadow.state.status}, hold {shadow.state.hold}, due {shadow.state.next_due()}"
        for saga_id, shadow in ledger.live.items()
        if not settled(run, shadow.state)
    ]
    known = ledger.live.keys() | ledger.ended.keys() | ledger.forgotten | ledger.refused
    found += [f"saga {saga_id}: asked for, never begun" for saga_id in run.load.asked_for() if saga_id not in known]
    for topic in world.inputs:
        for number in range(world.partitions):
            ends, at = world.broker.ends(topic, number), ledger.offsets.get((topic, number), 0)
            # What lies behind the last record that a child's transaction wrote there is its marker: nobody reads it.
            if ends.stable < ends.high or world.broker.read(topic, number, at):
                found.append(f"{topic}/{number}: read to {at} of {ends.high}")
    found += [f"{service}: {len(rows)} rows" for service, rows in run.effects.unpublished.items() if rows]
    found += [f"transaction of {id_}: {left} markers" for id_, left in world.broker.undelivered().items()]
    found += [f"{s}: lag" for s in world.application.services if world.lags(s, world.topics.commands(s))]
    if run.outside is not None:
        found += run.outside.missing()
    if run.audience is not None:
        found += run.audience.hearing.missing()
    return found


def _held(run: "Run", state: SagaState) -> bool:
    """Does somebody have to look at it, or at the saga that it waits for?"""
    other = run.ledger.live.get(state.waits_for)
    return state.hold is Hold.QUARANTINED or (other is not None and _held(run, other.state))


def settled(run: "Run", state: SagaState) -> bool:
    """Will nothing more come of this saga? It is held for a person, or a schedule that was deleted; or a signal came
    once more for one that was over and forgotten, which waits for a start that nobody will send."""
    if state.status is Status.PENDING and state.hold is None:
        return state.saga_id in run.ledger.forgotten or state.saga_id not in run.load.asked_for()
    return _held(run, state) or run.load.schedules.over(state)


def reached(run: "Run") -> bool:
    """Is there nothing left to do?"""
    return not run.paused_or_dead() and len(run.partitions) == run.world.partitions and not missing(run)


def check(run: "Run") -> None:
    """Everything above. Raises Violation."""
    ledger, world = run.ledger, run.world
    for number, partition in run.partitions.items():
        ledger.compare(partition)
        ends = world.broker.ends(world.topics.state, number)
        expect(
            ends.stable == ends.high, "I11", f"state partition {number}: undecided from {ends.stable} of {ends.high}"
        )
    for service, database in world.databases.items():
        found = database.query(
            "SELECT command_id FROM inbox WHERE state = 'answered' AND command_id NOT IN"
            " (SELECT ce_causationid FROM outbox WHERE ce_replyoutcome IS NOT NULL)"
        )
        lost = [id_ for (id_,) in found if run.audience is None or not run.audience.hearing.told(id_)]
        expect(not lost, "I9", f"{service}: commands {lost[:3]} answered, expected each of them in the outbox")
        [(claimed,)] = database.query("SELECT count(*) FROM inbox WHERE state = 'claimed'")
        expect(claimed == 0, "I9", f"{service}: {claimed} commands claimed by nobody")
