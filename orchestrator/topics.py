"""The topics of an application: what they must be like, how they differ from it, and how they are made.

Everything is derived from the application's definition, and for services that publish or subscribe from theirs. Some
properties a worker cannot do without (it refuses to run on a drift there), others only make it slower; `check` shows
both. Counts of partitions are never changed: a saga's partition is computed from its id.
"""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not re-exported for checkers
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.kafka.admin import asking
from kompensate.orchestrator.kafka.options import AUTHORIZATION, CALL_SECONDS, Options, admin_options, consumer_options
from kompensate.orchestrator.services import ParticipantLike
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.refusals import Refusals
from kompensate.schemas.topics import Topics

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MIB = 1024 * 1024
FOREVER = "-1"
REPLICAS = 3
"""On a cluster of as many brokers or more; with fewer, as many as there are."""

LEADER_WAIT_SECONDS = 0.05
COORDINATOR_SECONDS = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a topic's setting is created with, and how far it may differ: `relation` is =, >= or <=.

    `needed`: a worker refuses to run without it. The reason is shown with a drift.
    """

    name: str
    value: str
    relation: str = "="
    needed: bool = True
    reason: str = ""

    def holds(self, got: str) -> bool:
        if self.relation == "=":
            return got == self.value
        if FOREVER in (got, self.value):
            return got == (FOREVER if self.relation == ">=" else self.value)
        return int(got) >= int(self.value) if self.relation == ">=" else int(got) <= int(self.value)


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as it is to be. `own`: the application's, so its partitions count; `input`: workers read it."""

    name: str
    partitions: int
    replicas: int
    rules: tuple[Rule, ...]
    own: bool = True
    input: bool = False

    @property
    def configuration(self) -> dict[str, str]:
        return {rule.name: rule.value for rule in self.rules}


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as it is."""

    partitions: int
    replicas: int
    configuration: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between a topic and its plan."""

    topic: str
    what: str
    expected: str
    got: str
    needed: bool
    reason: str

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.topic}: {self.what}: expected {self.expected}, got {self.got}{why}"


def plan(
    application: Application, settings: Settings, brokers: int, participants: Sequence[ParticipantLike] = ()
) -> list[TopicPlan]:
    """Every topic of `application`, and of these `participants`, on a cluster of so many brokers."""
    names = Topics(application.name, settings.prefix)
    replicas = min(REPLICAS, max(1, brokers))
    always = (
        Rule("min.insync.replicas", "2" if replicas >= REPLICAS else "1", ">=", reason="a broker may be lost"),
        Rule("unclean.leader.election.enable", "false", reason="acknowledged records would be lost"),
        Rule("message.timestamp.type", "LogAppendTime", reason="inputs take their time from the broker"),
    )
    input_bytes = settings.record_bytes_max // 4
    inputs = (*always, *_kept("delete", 7 * DAY_MS), _sized(input_bytes, "<=", "what is taken in must fit into a page"))
    commands = (*always, *_kept("delete", 7 * DAY_MS), _sized(input_bytes, ">=", "payloads are as large as that"))
    history = (
        *always,
        Rule("cleanup.policy", "delete", reason="its keys repeat"),
        Rule("retention.ms", FOREVER, ">=", needed=False, reason="as long as audits look back"),
        _sized(settings.record_bytes_max, ">=", "pages are as large as that"),
    )
    aside = (*always, *_kept("delete", 30 * DAY_MS), _sized(2 * input_bytes, ">=", "an input and why it is there"))

    count = application.partitions
    plans = [TopicPlan(name, count, replicas, inputs, input=True) for name in names.inputs(application.services)]
    for name, rules in (
        (names.state, (*always, *_state_rules(settings))),
        (names.history, history),
        (names.quarantine, aside),
    ):
        plans.append(TopicPlan(name, count, replicas, rules))
    takers = {participant.name for participant in participants if participant.contracts}
    takers.update(application.services)
    for service in sorted(takers | {participant.name for participant in participants}):
        if service in takers:
            plans.append(TopicPlan(names.commands(service), count, replicas, commands, own=False))
        plans.append(TopicPlan(names.dead(service), count, replicas, aside, own=False))
    events = (*always[:2], *_kept("delete", 7 * DAY_MS), commands[-1])
    for topic in (topic for participant in participants for topic in participant.publishes):
        plans.append(TopicPlan(topic.name, topic.partitions, replicas, events))
    return plans


def _kept(policy: str, retention_ms: int) -> tuple[Rule, Rule]:
    return (
        Rule("cleanup.policy", policy, reason="compaction would drop all but the last of a key"),
        Rule("retention.ms", str(retention_ms), ">=", needed=False, reason="an outage of days must lose nothing"),
    )


def _sized(limit: int, relation: str, reason: str) -> Rule:
    return Rule("max.message.bytes", str(limit), relation, reason=reason)


def _state_rules(settings: Settings) -> tuple[Rule, ...]:
    restore = "restores read what compaction has not reached"
    tombstones_ms = round(settings.tombstone_retention_seconds * 1000)
    return (
        Rule("cleanup.policy", "compact", reason="deletion would lose sagas in flight"),
        Rule("delete.retention.ms", str(tombstones_ms), ">=", reason="a slow restore must see what has ended"),
        _sized(settings.record_bytes_max, ">=", "pages are as large as that"),
        Rule("segment.bytes", str(64 * MIB), "<=", needed=False, reason=restore),
        Rule("segment.ms", str(HOUR_MS), "<=", needed=False, reason=restore),
        Rule("min.cleanable.dirty.ratio", "0.2", needed=False, reason=restore),
        Rule("max.compaction.lag.ms", str(6 * HOUR_MS), "<=", needed=False, reason=restore),
    )


def differences(plans: Sequence[TopicPlan], found: Mapping[str, Found]) -> list[Drift]:
    """How the topics found differ from their plans."""
    return [drift for one in plans for drift in _differences(one, found.get(one.name))]


def _differences(wanted: TopicPlan, found: Found | None) -> Iterator[Drift]:
    if found is None:
        make = "make it with `kompensate topics apply`"
        yield Drift(wanted.name, "topic", f"{wanted.partitions} partitions", "none", needed=True, reason=make)
        return
    if wanted.own and found.partitions != wanted.partitions:
        reason = "records are placed by this number: it cannot be changed, drain into a new application or topic"
        yield Drift(
            wanted.name, "partitions", str(wanted.partitions), str(found.partitions), needed=True, reason=reason
        )
    if found.replicas < wanted.replicas:
        reason = "a broker may be lost"
        yield Drift(wanted.name, "replicas", str(wanted.replicas), str(found.replicas), needed=True, reason=reason)
    for rule in wanted.rules:
        got = found.configuration.get(rule.name, "nothing")
        if got == "nothing" or not rule.holds(got):
            relation = "" if rule.relation == "=" else f"{rule.relation} "
            yield Drift(wanted.name, rule.name, f"{relation}{rule.value}", got, rule.needed, rule.reason)


class TopicAdmin:
    """Reads and makes the topics of one application. Raises Fatal where the cluster does not answer or refuses."""

    def __init__(
        self, application: Application, settings: Settings, participants: Sequence[ParticipantLike] = ()
    ) -> None:
        self._application = application
        self._participants = participants
        self._settings = settings
        self._names = Topics(application.name, settings.prefix)
        self._refusals = Refusals()
        options: Options = {**admin_options(settings), "error_cb": self._refusals}
        self._admin = AdminClient(options)
        self.group = group_of(application, settings)

    def _asking(self) -> AbstractContextManager[None]:
        return asking(self._settings, self._admin, self._refusals)

    def brokers(self) -> int:
        return len(self._metadata().brokers)

    def plan(self) -> list[TopicPlan]:
        return plan(self._application, self._settings, self.brokers(), self._participants)

    def check(self) -> list[Drift]:
        """Every difference between the topics and their plan."""
        plans = self.plan()
        return differences(plans, self.found(plans))

    def found(self, plans: Sequence[TopicPlan]) -> dict[str, Found]:
        there = self._metadata().topics
        names = [one.name for one in plans if one.name in there]
        configurations = self._configurations(names)
        return {
            name: Found(
                len(there[name].partitions),
                min((len(p.replicas) for p in there[name].partitions.values()), default=0),
                configurations[name],
            )
            for name in names
        }

    def apply(self, *, alter: bool = False) -> list[str]:
        """Make what is missing, seed the group's offsets; with `alter` also set what differs. What was done, in words.

        Partitions and replicas are never changed.
        """
        plans = self.plan()
        done = self._create([one for one in plans if one.name not in self.found(plans)])
        if alter:
            done += self._alter(plans, differences(plans, self.found(plans)))
        return done + self._seed()

    def _metadata(self) -> Any:
        with self._asking():
            return self._admin.list_topics(timeout=CALL_SECONDS)

    def _configurations(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        with self._asking():
            asked = self._admin.describe_configs(resources, request_timeout=CALL_SECONDS)
            return {
                resource.name: {name: entry.value for name, entry in future.result(CALL_SECONDS).items()}
                for resource, future in asked.items()
            }

    def _create(self, plans: Sequence[TopicPlan]) -> list[str]:
        done = []
        new = [NewTopic(one.name, one.partitions, one.replicas, config=one.configuration) for one in plans]
        for name, future in self._admin.create_topics(new).items() if new else ():
            try:
                with self._asking():
                    future.result(CALL_SECONDS)
            except Fatal as error:
                cause = error.__cause__
                if isinstance(cause, KafkaException) and cause.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    continue  # somebody else was as fast
                raise
            done.append(f"{name}: made")
        return done

    def _alter(self, plans: Sequence[TopicPlan], drifts: Sequence[Drift]) -> list[str]:
        wanted = {one.name: one.configuration for one in plans}
        by_topic: dict[str, list[ConfigEntry]] = {}
        for drift in drifts:
            value = wanted[drift.topic].get(drift.what)
            if value is not None:
                entry = ConfigEntry(drift.what, value, incremental_operation=AlterConfigOpType.SET)
                by_topic.setdefault(drift.topic, []).append(entry)
        if not by_topic:
            return []
        resources = [
            ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries) for name, entries in by_topic.items()
        ]
        with self._asking():
            for future in self._admin.incremental_alter_configs(resources).values():
                future.result(CALL_SECONDS)
        return [f"{name}: {e.name} set to {e.value}" for name, entries in by_topic.items() for e in entries]

    def _seed(self) -> list[str]:
        """Give the group its first offsets: the beginning of every input. Only where no state was ever written."""
        inputs = [one.name for one in self.plan() if one.input]
        partitions = range(self._application.partitions)
        wanted = [TopicPartition(topic, number) for topic in inputs for number in partitions]
        with self._asking(), self._member() as group:
            written = self._ends([TopicPartition(self._names.state, number) for number in partitions], latest=True)
            known = _answered(lambda: group.committed(wanted, timeout=COORDINATOR_SECONDS))
            have = {(p.topic, p.partition) for p in known if p.offset >= 0}
            lacking = [
                p for p in wanted if (p.topic, p.partition) not in have and not written[self._names.state, p.partition]
            ]
            if not lacking:
                return []
            begin = self._ends(lacking, latest=False)
            seeds = [TopicPartition(t, n, offset) for (t, n), offset in begin.items()]
            try:
                _answered(lambda: group.commit(offsets=seeds, asynchronous=False))
            except KafkaException as error:
                # Workers are at work already: they begin a new reply topic at its beginning themselves.
                if error.args[0].code() in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.STALE_MEMBER_EPOCH):
                    return []
                raise
        return [f"group {self.group}: {len(seeds)} first offsets set"]

    @contextmanager
    def _member(self) -> Iterator[Consumer]:
        """The group's offsets, read and written by a consumer that never joins.

        Not by the admin client: its requests for a group's offsets end the process (SIGSEGV in librdkafka
        2.16) on a cluster that has no offsets topic yet.
        """
        consumer = Consumer(consumer_options(self._settings, self.group, {}))
        try:
            yield consumer
        finally:
            consumer.close()

    def _ends(self, partitions: Sequence[TopicPartition], *, latest: bool) -> dict[tuple[str, int], int]:
        spec = OffsetSpec.latest() if latest else OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # untyped there
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            asked = self._admin.list_offsets(
                dict.fromkeys(partitions, spec), isolation_level=IsolationLevel.READ_UNCOMMITTED
            )
            try:
                return {(p.topic, p.partition): future.result(CALL_SECONDS).offset for p, future in asked.items()}
            except KafkaException as error:
                # A topic that was just made has no leader yet, or not every broker has heard of it.
                if error.args[0].code() in AUTHORIZATION or time.monotonic() > deadline:
                    raise
                time.sleep(LEADER_WAIT_SECONDS)
                # Only asking for metadata makes the client forget that there was no leader.
                self._metadata()


def _answered(ask: Callable[[], T]) -> T:
    """What `ask` returns, once the group's coordinator answers: a new cluster has to make one first."""
    deadline = time.monotonic() + CALL_SECONDS
    while True:
        try:
            return ask()
        except KafkaException as error:
            again = error.args[0].retriable() or error.args[0].code() in _NO_COORDINATOR
            if not again or time.monotonic() > deadline:
                raise
            time.sleep(LEADER_WAIT_SECONDS)


_NO_COORDINATOR = frozenset({KafkaError._TIMED_OUT, KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE})


def group_of(application: Application, settings: Settings) -> str:
    """The consumer group of the application's workers; its transactional ids begin with the same."""
    return Topics(application.name, settings.prefix).group


def as_json(plans: Sequence[TopicPlan]) -> str:
    """The plans for other tools: a list of topic, partitions, replicas, configuration."""
    return json.dumps(
        [
            {
                "topic": one.name,
                "partitions": one.partitions,
                "replicas": one.replicas,
                "configuration": one.configuration,
            }
            for one in plans
        ],
        indent=2,
    )


def as_commands(plans: Sequence[TopicPlan], group: str) -> str:
    """The plans as commands of Kafka's own tools; BOOTSTRAP is the variable they read."""
    lines = []
    for one in plans:
        words = ["--create", "--if-not-exists", "--topic", one.name]
        words += ["--partitions", str(one.partitions), "--replication-factor", str(one.replicas)]
        for name, value in one.configuration.items():
            words += ["--config", f"{name}={value}"]
        lines.append(f'kafka-topics.sh --bootstrap-server "$BOOTSTRAP" {shlex.join(words)}')
    topics = " ".join(f"--topic {shlex.quote(one.name)}" for one in plans if one.input)
    lines.append(
        f'kafka-consumer-groups.sh --bootstrap-server "$BOOTSTRAP" --group {shlex.quote(group)} {topics} '
        "--reset-offsets --to-earliest --execute  # once, before the first worker"
    )
    return "\n".join(lines)
