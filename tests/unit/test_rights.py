"""Rights derived from an application's definition, and how they are printed. What brokers make of them: integration."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from kompensate.orchestrator.cli import main
from kompensate.orchestrator.rights import BadRight, as_commands, rights
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import plan
from kompensate.outbox.events import EventTopic
from kompensate.schemas.refusals import UNANSWERED, Refusals
from tests.fixtures.guarded_app import app

PLACE = ("--app", "tests.fixtures.guarded_app:app", "--app-dir", ".")


def test_only_one_role_writes_what_is_the_orchestrators() -> None:
    """State, history and commands have one writer, each reply topic its service's relay."""
    writers: dict[str, set[str]] = {}
    for grant in rights(app):
        if grant.kind == "topic" and "Write" in grant.operations:
            writers.setdefault(grant.name, set()).add(grant.role)

    assert writers["shop.state"] == writers["shop.history"] == {"orchestrator"}
    # Who hands dead letters in again puts them back where they lay.
    assert writers["inventory.commands"] == writers["payments.commands"] == {"orchestrator", "letters"}
    assert writers["shop.replies.payments"] == {"relay:payments", "letters"}
    assert writers["shop.requests"] == {"orchestrator", "client", "operator", "letters", "intake"}
    # Of children, and of operators: no client, relay or intake gives orders.
    assert writers["shop.control"] == {"orchestrator", "operator", "letters"}


def test_a_relay_may_write_requests_only_where_its_service_starts_sagas() -> None:
    """Whoever writes requests can start and cancel any saga: it takes a word of who makes the ACLs."""
    plain = {(grant.role, grant.name) for grant in rights(app)}
    starting = {(grant.role, grant.name) for grant in rights(app, starting=("payments", "web"))}

    assert starting - plain == {
        ("relay:payments", "shop.requests"),
        ("relay:web", "shop.requests"),
        ("relay:web", "web.dead"),
    }


@dataclass(frozen=True)
class Declared:
    """A service's declaration, as a Participant has it."""

    name: str
    publishes: Sequence[EventTopic] = ()
    subscribes: Sequence[str] = ()
    contracts: Sequence[str] = ()


def _more(*participants: Declared) -> set[tuple[str, str, tuple[str, ...]]]:
    plain = {(one.role, one.name, one.operations) for one in rights(app)}
    return {(one.role, one.name, one.operations) for one in rights(app, participants=participants)} - plain


MAKES = ("Create", "DescribeConfigs", "AlterConfigs", "Describe")


def test_domain_events_are_written_by_relays_and_read_by_participants() -> None:
    """Who publishes does not read; who runs `topics apply` with that participant makes the topic, and `dlq retry` puts
    a letter back into it."""
    paid = EventTopic("paid", service="payments", partitions=2)

    assert _more(Declared("payments", publishes=[paid], subscribes=["refunds"])) == {
        ("relay:payments", "paid", ("Write",)),
        ("service:payments", "paid", ("Describe",)),
        ("service:payments", "refunds", ("Read",)),
        ("admin", "paid", MAKES),
        ("operator", "paid", ("Describe", "DescribeConfigs")),
        ("letters", "paid", ("Write",)),
        ("letters", "refunds", ("Write",)),
    }


def test_a_service_that_no_saga_calls_has_its_own_topics() -> None:
    """It is read, answered for and looked after as one that they call; commands only if it takes any."""
    mail = {
        ("service:mail", "paid", ("Read",)),
        ("service:mail", "mail", ("Read",)),
        ("service:mail", "mail.dead", ("Write",)),
        ("relay:mail", "mail.dead", ("Write",)),
        ("letters", "paid", ("Write",)),
        ("letters", "mail.dead", ("Read", "Write")),
        ("letters", "kompensate-dlq-mail.dead", ("Write",)),
        ("operator", "mail.dead", ("Read", "DescribeConfigs")),
        ("admin", "mail.dead", MAKES),
    }
    assert _more(Declared("mail", subscribes=["paid"])) == mail
    assert _more(Declared("mail", subscribes=["paid"], contracts=["mail.Send"])) - mail == {
        ("service:mail", "mail.commands", ("Read",)),
        ("letters", "mail.commands", ("Write",)),
        ("operator", "mail.commands", ("Describe", "DescribeConfigs")),
        ("admin", "mail.commands", MAKES),
    }


def test_whoever_makes_topics_may_make_all_that_are_planned() -> None:
    """`topics apply --participant` and `topics acl --participant` know of the same topics."""
    mail = Declared("mail", [EventTopic("sent", service="mail", partitions=1)], ["paid"], ["mail.Send"])
    planned = {one.name for one in plan(app, Settings(bootstrap="b"), brokers=1, participants=[mail])}

    for role, operation in (("admin", "AlterConfigs"), ("operator", "DescribeConfigs")):
        found = rights(app, participants=[mail])
        assert {one.name for one in found if one.role == role and operation in one.operations} == planned


def test_the_prefix_stands_before_all_that_is_ours() -> None:
    """Topics, groups, transactional ids and default principals; a mapping's topic is named whole."""
    names = {grant.name for grant in rights(app, "eu.")} - {"orders.placed", "kompensate-reader"}

    assert all(name.removeprefix("kompensate-dlq-").startswith("eu.") for name in names)
    assert {grant.principal for grant in rights(app, "eu.") if grant.role == "client"} == {"User:eu.shop-client"}


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        ({"waiter": "User:x"}, "role: expected one of orchestrator, client, .*, relay:payments, got 'waiter'"),
        ({"client": "shop"}, "principal of client: expected Kafka's TYPE:NAME, as in User:shop, got 'shop'"),
        ({"client": "User:a\nb"}, "principal of client: expected"),
    ],
)
def test_a_role_or_principal_that_is_none_is_refused(chosen: dict[str, str], complaint: str) -> None:
    with pytest.raises(BadRight, match=complaint):
        rights(app, principals=chosen)


def test_two_roles_share_a_principal_only_where_that_is_said() -> None:
    """A service that is named as another's relay is would answer for it."""
    with pytest.raises(BadRight, match="expected one of its own, got User:payments-relay, relay:payments's"):
        rights(app, starting=("payments-relay",))

    rights(app, starting=("payments-relay",), principals={"service:payments-relay": "User:p"})


def test_commands_are_what_the_shell_takes_apart_again() -> None:
    """Principals of certificates have spaces and commas in them."""
    text = as_commands(rights(app, principals={"client": "User:CN=it's web,O=Shop"}))

    assert (
        'kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$CONFIG" --add '
        """--allow-principal 'User:CN=it'"'"'s web,O=Shop' --operation Read --topic shop.state"""
    ) in text.splitlines()
    assert text.splitlines()[0] == "# orchestrator"
    assert "--transactional-id shop. --resource-pattern-type prefixed" in text


def test_the_command_line_prints_them() -> None:
    """As commands, or as JSON for other tools; wrong usage is told."""
    run = CliRunner().invoke
    printed = run(main, ["topics", "acl", *PLACE, "-o", "json", "--principal", "hook=User:CN=ops,O=Shop"])

    assert printed.exit_code == 0, printed.output
    found = {(one["role"], one["principal"]) for one in json.loads(printed.stdout)}
    assert ("hook", "User:CN=ops,O=Shop") in found
    more = run(main, ["topics", "acl", *PLACE, "--participant", "tests.fixtures.subscribers:news"])
    assert more.exit_code == 0, more.output
    roles = [line for line in more.stdout.splitlines() if line.startswith("# ")]
    assert len(roles) == len(set(roles)), "a role's rights stand together"
    assert "--operation AlterConfigs --operation Describe --topic news.events" in more.output
    refused = run(main, ["topics", "acl", *PLACE, "--principal", "hook=ops"])
    assert refused.exit_code == 2
    assert "expected Kafka's TYPE:NAME" in refused.output
    assert run(main, ["tables", "roles", "--owner", "o", "--app", "a", "--relay", "a"]).exit_code == 2


class Said:
    """An error of librdkafka's."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text

    def name(self) -> str:
        return self._name

    def str(self) -> str:
        return self._text


def test_why_a_broker_would_not_talk_is_kept() -> None:
    """The last that says something: that all brokers are down says nothing."""
    refusals = Refusals()
    assert refusals.advice == UNANSWERED

    refusals(Said("_SSL", "certificate verify failed"))
    refusals(Said("_ALL_BROKERS_DOWN", "1/1 brokers are down"))

    assert refusals.advice.startswith("certificate verify failed: the broker's certificate is not of the authority")
