"""Who may do what to an application's topics, groups and transactional ids: the least that each role works with.

Derived from the application's definition, as its topics are (`topics.plan`). A role is one kind of process with
a principal of its own: no service can answer for another, and nobody but the orchestrator writes state, history
and commands. Pure: `acls` compares with a cluster.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.services import ParticipantLike
from kompensate.schemas.letters import TRANSACTIONAL_ID
from kompensate.schemas.topics import READER_GROUP, Topics, check_name, participant_group

Kind = Literal["topic", "group", "transactional-id"]
Pattern = Literal["literal", "prefixed"]

APPLICATION_ROLES = ("orchestrator", "client", "operator", "letters", "intake", "hook", "admin")
_MAKE = ("Create", "DescribeConfigs", "AlterConfigs")
_PRINCIPAL = re.compile(r"[A-Za-z]+:[^\x00-\x1f]+\Z")


class BadRight(ValueError):
    """A role or principal that is none; the text says what is expected."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One principal may do `operations` (Kafka's names) to one resource. `role` is why."""

    role: str
    principal: str
    kind: Kind
    name: str
    operations: tuple[str, ...]
    pattern: Pattern = "literal"


def rights(
    application: Application,
    prefix: str = "",
    *,
    principals: Mapping[str, str] | None = None,
    starting: Sequence[str] = (),
    participants: Sequence[ParticipantLike] = (),
    hook_topic: str | None = None,
) -> list[Grant]:
    """What every role of `application` needs, and no more.

    Roles are `orchestrator`, `client`, `operator`, `letters`, `intake`, `hook`, `admin`, and for each service
    `service:NAME` and `relay:NAME`. `principals` names theirs; others are `User:<prefix><app>-<role>`,
    `User:<prefix><service>` and `User:<prefix><service>-relay`. `starting` are services, the application's or not,
    whose outbox also starts, signals or cancels sagas; `participants` are services, the application's or not, with the
    domain events that they publish and subscribe to, which its definition does not know: as for `topics.plan`.
    `hook_topic` is what `kompensate hook --topic` writes to. Raises BadRight.
    """
    named = (*starting, *(participant.name for participant in participants))
    services = tuple(dict.fromkeys((*application.services, *named)))
    for name in starting:
        try:
            check_name("service", name)
        except ValueError as error:
            raise BadRight(str(error)) from error
    known = _default_principals(application.name, services, prefix)
    for role, principal in (principals or {}).items():
        if role not in known:
            raise BadRight(f"role: expected one of {', '.join(known)}, got {role!r}")
        if not _PRINCIPAL.match(principal):
            raise BadRight(f"principal of {role}: expected Kafka's TYPE:NAME, as in User:shop, got {principal!r}")
    _expect_apart(known, principals or {})
    known.update(principals or {})
    names = Topics(application.name, prefix)
    found = [
        *_orchestrator(application, names),
        *_clients(application, names),
        *_letters(application, names),
        *_admin(application, names),
        *_intake(application, names),
        *_hook(names, hook_topic),
    ]
    for service in services:
        found += _service(names, service, calls=service in application.services, starts=service in starting)
    for participant in participants:
        found += _participant(names, participant, calls=participant.name in application.services)
    order = list(known)
    return [
        Grant(role, known[role], kind, name, operations, pattern)
        for role, kind, name, operations, pattern in sorted(dict.fromkeys(found), key=lambda need: order.index(need[0]))
    ]


Need = tuple[str, Kind, str, tuple[str, ...], Pattern]


def _default_principals(app: str, services: Sequence[str], prefix: str) -> dict[str, str]:
    found = {role: f"User:{prefix}{app}-{role}" for role in APPLICATION_ROLES}
    for service in services:
        found[f"service:{service}"] = f"User:{prefix}{service}"
        found[f"relay:{service}"] = f"User:{prefix}{service}-relay"
    return found


def _expect_apart(default: Mapping[str, str], chosen: Mapping[str, str]) -> None:
    """Two roles have one principal only where that was said: a service could be named as another's relay is."""
    roles: dict[str, str] = {}
    for role, principal in default.items():
        other = roles.setdefault(principal, role)
        if other != role and not chosen.keys() & {other, role}:
            raise BadRight(f"principal of {role}: expected one of its own, got {principal}, {other}'s: give it another")


def _topic(role: str, name: str, *operations: str) -> Need:
    return role, "topic", name, operations, "literal"


def _member(role: str, group: str) -> list[Need]:
    """Who takes part in a group and commits its offsets by transactions, of whichever slot."""
    return [
        (role, "group", group, ("Read",), "literal"),
        (role, "transactional-id", f"{group}.", ("Write",), "prefixed"),
    ]


def _orchestrator(application: Application, names: Topics) -> Iterator[Need]:
    """Workers: at their start they compare every topic's configuration with the plan."""
    role = "orchestrator"
    # Declared schedules are asked for by requests; what sagas ask of each other stands with the orders.
    for name in (names.requests, names.control):
        yield _topic(role, name, "Read", "Write", "DescribeConfigs")
    yield _topic(role, names.state, "Read", "Write", "DescribeConfigs")
    yield _topic(role, names.history, "Write", "DescribeConfigs")
    yield _topic(role, names.quarantine, "Write", "DescribeConfigs")
    for service in application.services:
        yield _topic(role, names.replies(service), "Read", "DescribeConfigs")
        yield _topic(role, names.commands(service), "Write", "DescribeConfigs")
        yield _topic(role, names.dead(service), "Describe", "DescribeConfigs")
    yield from _member(role, names.group)


def _service(names: Topics, service: str, *, calls: bool, starts: bool) -> Iterator[Need]:
    """A participant and its relay. `calls`: sagas call it; `starts`: its outbox holds requests too."""
    participant, relay = f"service:{service}", f"relay:{service}"
    if calls:
        yield _topic(participant, names.commands(service), "Read")
        yield _topic(participant, names.dead(service), "Write")
        yield participant, "group", participant_group(service, names.prefix), ("Read",), "literal"
        yield _topic(relay, names.replies(service), "Write")
    if starts:
        yield _topic(relay, names.requests, "Write")
    yield _topic(relay, names.dead(service), "Write")


def _participant(names: Topics, participant: ParticipantLike, *, calls: bool) -> Iterator[Need]:
    """Its domain events, and what `_service`, `_letters` and `_admin` give to one that sagas call (`calls`)."""
    name = participant.name
    commands, dead = names.commands(name), names.dead(name)
    for topic in participant.publishes:
        yield _topic(f"relay:{name}", topic.name, "Write")
        yield _topic(f"service:{name}", topic.name, "Describe")  # it asks at its start whether it is there
        yield _topic("operator", topic.name, "Describe", "DescribeConfigs")
        yield _topic("admin", topic.name, *_MAKE, "Describe")
    for subscribed in participant.subscribes:
        yield _topic(f"service:{name}", subscribed, "Read")
    for back in dict.fromkeys((*(topic.name for topic in participant.publishes), *participant.subscribes)):
        yield _topic("letters", back, "Write")
    if calls:
        return
    if participant.contracts:
        yield _topic(f"service:{name}", commands, "Read")
        yield _topic("letters", commands, "Write")
        yield _topic("operator", commands, "Describe", "DescribeConfigs")
        yield _topic("admin", commands, *_MAKE, "Describe")
    if participant.contracts or participant.subscribes:
        yield _topic(f"service:{name}", dead, "Write")
        yield f"service:{name}", "group", participant_group(name, names.prefix), ("Read",), "literal"
    yield from _box(dead)
    yield _topic("operator", dead, "Read", "DescribeConfigs")
    yield _topic("admin", dead, *_MAKE, "Describe")


def _clients(application: Application, names: Topics) -> Iterator[Need]:
    """Who asks and looks. An operator sees what nobody has handled, and every topic's configuration, too."""
    for role in ("client", "operator"):
        yield _topic(role, names.requests, "Write", *(("Read", "DescribeConfigs") if role == "operator" else ()))
        for name in (names.state, names.history, names.quarantine):
            yield _topic(role, name, "Read", *(("DescribeConfigs",) if role == "operator" else ()))
        yield role, "group", READER_GROUP, ("Describe",), "literal"
    yield _topic("operator", names.control, "Write", "Read", "DescribeConfigs")
    for service in application.services:
        yield _topic("operator", names.replies(service), "Read", "DescribeConfigs")
        yield _topic("operator", names.commands(service), "Describe", "DescribeConfigs")
        yield _topic("operator", names.dead(service), "Read", "DescribeConfigs")
    yield "operator", "group", names.group, ("Describe",), "literal"


def _letters(application: Application, names: Topics) -> Iterator[Need]:
    """`kompensate dlq retry | discard`: a record goes back to where it lay, whoever wrote it there."""
    role, back, boxes = "letters", [names.requests, names.control], [names.quarantine]
    for service in application.services:
        back += [names.replies(service), names.commands(service)]
        boxes.append(names.dead(service))
    for name in back:
        yield _topic(role, name, "Write")
    for name in boxes:
        yield from _box(name)
    yield role, "group", READER_GROUP, ("Describe",), "literal"


def _box(name: str) -> Iterator[Need]:
    """A topic that `letters` disposes of the letters of."""
    yield _topic("letters", name, "Read", "Write")
    yield "letters", "transactional-id", f"{TRANSACTIONAL_ID}{name}", ("Write",), "literal"


def _admin(application: Application, names: Topics) -> Iterator[Need]:
    """`kompensate topics apply --alter`: it makes topics, and sets the group's first offsets."""
    role = "admin"
    inputs = names.inputs(application.services)
    others = [names.state, names.history, names.quarantine]
    for service in application.services:
        others += [names.commands(service), names.dead(service)]
    for name in inputs:
        yield _topic(role, name, *_MAKE, "Read")  # whoever commits an offset may read
    for name in others:
        yield _topic(role, name, *_MAKE, "Describe")
    yield role, "group", names.group, ("Read",), "literal"


def _intake(application: Application, names: Topics) -> Iterator[Need]:
    sources = sorted({mapping.topic for mapping in application.intake})
    if not sources:
        return
    role = "intake"
    for source in sources:
        yield _topic(role, source, "Read")
    for name in (names.requests, names.quarantine):
        yield _topic(role, name, "Write", "DescribeConfigs")
    yield from _member(role, names.intake_group)


def _hook(names: Topics, topic: str | None) -> Iterator[Need]:
    role, group = "hook", names.hook_group("")  # of every hook
    for name in (names.state, names.quarantine):
        yield _topic(role, name, "Read")
    if topic is not None:
        yield _topic(role, topic, "Write")
    yield role, "group", group, ("Read",), "prefixed"
    yield role, "transactional-id", group, ("Write",), "prefixed"


def as_json(grants: Sequence[Grant]) -> str:
    """The grants for other tools."""
    fields = ("role", "principal", "kind", "name", "pattern")
    return json.dumps(
        [{**{field: getattr(one, field) for field in fields}, "operations": list(one.operations)} for one in grants],
        indent=2,
    )


def as_commands(grants: Sequence[Grant]) -> str:
    """The grants as commands of Kafka's own tool; BOOTSTRAP and CONFIG (for --command-config) are its variables."""
    lines, role = [], ""
    for one in grants:
        if one.role != role:
            role = one.role
            lines.append(f"# {role}")
        words = ["--add", "--allow-principal", one.principal]
        for operation in one.operations:
            words += ["--operation", operation]
        words += [f"--{one.kind}", one.name]
        if one.pattern == "prefixed":
            words += ["--resource-pattern-type", "prefixed"]
        lines.append(f'kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$CONFIG" {shlex.join(words)}')
    return "\n".join(lines)
