"""`kompensate explain`: why a saga is not moving, and what would move it."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import click

from kompensate.orchestrator.cli.asking import lookup
from kompensate.orchestrator.cli.exits import EPILOG, ERROR, NOT_FOUND
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import ids_argument, output_option, print_one_or_many
from kompensate.orchestrator.client_errors import ClientError, DamagedSaga, NotFound
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.reading.explaining import (
    Reason,
    of_damage,
    of_ended,
    of_saga,
    of_surroundings,
    of_unknown,
)
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.owners import Owners, owners
from kompensate.orchestrator.reading.recordings import recordings
from kompensate.orchestrator.reading.standing import standings
from kompensate.orchestrator.reading.status import fold, view, view_of
from kompensate.orchestrator.reading.surroundings import Surroundings, surroundings
from kompensate.orchestrator.replay import Replay
from kompensate.schemas.messages import timestamp


@dataclass(frozen=True, slots=True)
class Explained:
    """A saga, why it stands, and who has its partition."""

    saga_id: str
    type: str
    status: str
    reasons: list[Reason]
    around: Surroundings


@click.command(epilog=EPILOG)
@ids_argument
@output_option("table", "json", "jsonl")
@cluster_options
def explain(ids: list[str], output: str, cluster: Cluster) -> None:
    """Say why sagas are not moving, and what would move each; `-` takes ids from standard input.

    Read from the topics and the workers' group: no worker need be alive. With --app today's code is asked too
    whether it could go on from the saga's history.

    \b
    Example:
      kompensate explain order-17 --app-name shop
    """
    with lookup(cluster) as looking:
        owned = _owners(cluster)
        found = [_explained(looking, saga_id, owned, cluster.application) for saga_id in ids]
    if output == "table":
        for number, each in enumerate(found):
            click.echo(("\n" if number else "") + "\n".join(_text(each)))
    else:
        print_one_or_many([_json(each) for each in found], output)
    kinds = {reason.kind for each in found for reason in each.reasons}
    if kinds & {"unknown", "rejected"}:
        raise SystemExit(NOT_FOUND)
    if kinds & {"damaged"}:
        raise SystemExit(ERROR)


def _owners(cluster: Cluster) -> Owners | None:
    """The workers' group; None where this client may not ask, or the broker does not say."""
    try:
        return owners(cluster.bootstrap, cluster.kafka, f"{cluster.prefix}{cluster.app}", cluster.topics.requests)
    except ClientError:
        return None


def _explained(looking: Lookup, saga_id: str, owned: Owners | None, code: Application | None) -> Explained:
    around = surroundings(looking, saga_id, owned)
    found = looking.find(saga_id)
    try:
        if found is not None and found.damaged:
            raise DamagedSaga(found.damaged)
        if found is not None and found.ended:
            ended = view(looking.topics.app, found, payloads=looking.payloads)
            return Explained(saga_id, ended.type, ended.shown_status, [of_ended(ended)], around)
        folded = fold(looking.topics.app, saga_id, looking.history(saga_id), looking.payloads)
    except NotFound:
        reason = of_unknown(saga_id, looking.rejected(around.partition, saga_id), around)
        others = [each for each in of_surroundings(around) if each.kind != "unhandled"]
        return Explained(saga_id, "-", reason.kind, [reason, *others], around)
    except DamagedSaga as error:
        return Explained(saga_id, "-", "damaged", [of_damage(saga_id, str(error))], around)
    shown = view_of(folded, around.partition)
    if shown.ended:  # the state topic has forgotten it, the history has not
        return Explained(saga_id, shown.type, shown.shown_status, [of_ended(shown)], around)
    partitions = (owned.together if owned is not None else {}).get(around.partition, (around.partition,))
    limits = {} if code is None else {name: limit.concurrent for name, limit in code.limits.items()}
    standing = standings(looking, folded.state, partitions, limits)
    reasons = [*of_saga(folded, time.time_ns() // 1_000_000, standing), *of_surroundings(around)]
    if code is not None:
        reasons += _of_code(looking, saga_id, around.partition, code)
    return Explained(saga_id, shown.type, shown.shown_status, reasons, around)


def _of_code(looking: Lookup, saga_id: str, partition: int, code: Application) -> list[Reason]:
    """What a worker with today's code would find out on waking the saga."""
    *_, recording = recordings(looking, partition, saga_id)  # the run under way comes last
    difference = Replay(code).difference(recording)
    if difference is None:
        return []
    why = f"today's code does not fit its history: event {difference.event}: {difference.reason}"
    where = f" (at {difference.where})" if difference.where else ""
    moves = "deploy code that does; `kompensate replay` tells beforehand"
    return [Reason("code", why + where, moves, error=difference.reason)]


def _text(found: Explained) -> list[str]:
    around = found.around
    lines = [f"saga {found.saga_id} ({found.type}): {found.status}"]
    for reason in found.reasons:
        lines += [f"- {reason.why}", f"  what moves it: {reason.moves}"]
    owner = around.owner or ("nobody" if around.owners is not None else "not told by the broker")
    lines.append(f"partition {around.partition}: owned by {owner}, {around.behind} inputs not handled yet")
    return lines


def _json(found: Explained) -> dict[str, Any]:
    around = found.around
    return {
        "saga_id": found.saga_id,
        "type": found.type,
        "status": found.status,
        "reasons": [
            {key: timestamp(value) if key.endswith("_at") and value else value for key, value in asdict(reason).items()}
            for reason in found.reasons
        ],
        "partition": around.partition,
        "owner": around.owner,
        "workers": None if around.owners is None else around.owners.members,
        "inputs_behind": around.behind,
        "unhandled": [asdict(each) for each in around.unhandled],
    }
