"""Definitions: what contradicts itself is told when it is written down, with saga, step, expected and got."""

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from kompensate.orchestrator import NOTHING, Application, Context, Policy, Saga, Scope, Service, Step, saga
from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.definitions.steps import DefinitionError
from kompensate.orchestrator.kernel.policy import RetryPolicy
from tests.fixtures.driving import (
    CHECKOUT,
    Charge,
    Confirm,
    Driven,
    Order,
    Refund,
    Release,
    Reserve,
    Ship,
    inventory,
    payments,
    shipping,
)


@dataclass
class Parcel:
    order_id: str
    weight: int


@dataclass
class Gift:
    order_id: str
    wrapped: bool = True


class Note(msgspec.Struct):
    order_id: str
    text: str = ""


class Typed(TypedDict):
    order_id: str


class Opaque:
    pass


RESERVE = Step("reserve", inventory, Reserve, undo=Release)
SHIP = Step("ship", shipping, Ship, kind="pivot")
CONFIRM = Step("confirm", inventory, Confirm, kind="retriable")

WRONG: list[tuple[list[Step], str]] = [
    ([], "saga 'wrong': expected at least one step, got none"),
    ([RESERVE, RESERVE], "saga 'wrong', step 'reserve': expected each step's name once, got it again"),
    (
        [Step("a/b", inventory, Reserve, undo=NOTHING)],
        "saga 'wrong', step 'a/b': step: expected 1 to 100 of A-Z a-z 0-9 . _ -",
    ),
    ([Step("", inventory, Reserve, undo=NOTHING)], "saga 'wrong', step '': step: expected 1 to 100"),
    (
        [Step("reserve", Service("in/ventory"), Reserve, undo=NOTHING)],
        "saga 'wrong', step 'reserve': service: expected 1 to 100 of A-Z a-z 0-9 . _ - beginning with",
    ),
    (
        [Step("reserve", inventory, Reserve, kind="optional")],
        (
            "saga 'wrong', step 'reserve': expected a kind of "
            "('compensatable', 'pivot', 'retriable', 'notification'), got 'optional'"
        ),
    ),
    (
        [Step("ship", shipping, Ship, kind="pivot", undo=Release)],
        "saga 'wrong', step 'ship': a pivot step is never undone, got undo Release",
    ),
    (
        [SHIP, Step("confirm", inventory, Confirm, kind="retriable", undo=Release)],
        "saga 'wrong', step 'confirm': a retriable step is never undone, got undo Release",
    ),
    (
        [Step("reserve", inventory, Reserve, make_undo=lambda s: Release("o1"))],
        "saga 'wrong', step 'reserve': got make_undo without undo; name the undo's type too",
    ),
    (
        [SHIP, RESERVE],
        "saga 'wrong', step 'reserve': expected a retriable step after the pivot 'ship', got compensatable",
    ),
    (
        [SHIP, Step("again", shipping, Ship, kind="pivot")],
        "saga 'wrong', step 'again': expected a retriable step after the pivot 'ship', got pivot",
    ),
    ([CONFIRM], "saga 'wrong', step 'confirm': expected a pivot before a retriable step, got none"),
    (
        [Step("pack", shipping, Parcel, undo=NOTHING)],
        "saga 'wrong', step 'pack': expected Order with weight for Parcel, got order_id: add the field, or",
    ),
    (
        [Step("reserve", inventory, Reserve, undo=Parcel)],
        "saga 'wrong', step 'reserve': expected Order with weight for Parcel",
    ),
    (
        [Step("odd", inventory, Opaque, undo=NOTHING)],
        "saga 'wrong', step 'odd': expected a dataclass, msgspec Struct or pydantic model as a command, got Opaque",
    ),
    (
        [Step("typed", inventory, Typed, undo=NOTHING)],
        "saga 'wrong', step 'typed': expected a dataclass, msgspec Struct or pydantic model as a command, got Typed",
    ),
    (
        [Step("reserve", inventory, Reserve, undo=dict)],
        "saga 'wrong', step 'reserve': expected a dataclass, msgspec Struct or pydantic model as a command, got dict",
    ),
    (
        [Step("reserve", inventory, Reserve, undo=NOTHING, timeout=0)],
        "saga 'wrong', step 'reserve': policy timeout: expected a whole number from 1 to 3162240000000, got 0",
    ),
    (
        [Step("reserve", inventory, Reserve, undo=NOTHING, resend_after=-1)],
        "saga 'wrong', step 'reserve': policy resend_after: expected a whole number from 1 to",
    ),
    (
        [Step("reserve", inventory, Reserve, undo=NOTHING, retry=RetryPolicy(initial_interval=9, maximum_interval=8))],
        "saga 'wrong', step 'reserve': policy retry_max: expected at least retry_initial 9000, got 8000",
    ),
    (
        [Step("reserve", inventory, Reserve, undo=NOTHING, retry=RetryPolicy(backoff_coefficient=0.5))],
        "saga 'wrong', step 'reserve': policy retry_percent: expected a whole number from 100 to 100000, got 50",
    ),
    (
        [Step("reserve", inventory, Reserve, undo=NOTHING, timeout=float("inf"))],
        "saga 'wrong', step 'reserve': expected finite times in seconds",
    ),
    (
        [Step("reserve", inventory, Reserve, undo=Release("o1"))],  # type: ignore[arg-type]  # that is the mistake
        "saga 'wrong', step 'reserve': expected a type as undo, got a value of type Release: give its class",
    ),
    (
        [Step("note", inventory, Note("o1"), undo=NOTHING)],  # type: ignore[arg-type]  # that is the mistake
        "saga 'wrong', step 'note': expected a type as command, got a value of type Note: give its class",
    ),
    (
        [Step("reserve", None, Reserve, undo=NOTHING)],  # type: ignore[arg-type]  # that is the mistake
        "saga 'wrong', step 'reserve': expected a Service or its name, got NoneType",
    ),
]


@pytest.mark.parametrize(("steps", "told"), WRONG, ids=[told[14:60] for _, told in WRONG])
def test_steps_that_contradict_each_other(steps: list[Step], told: str) -> None:
    """Told at definition time, never with sagas in flight."""
    with pytest.raises(DefinitionError) as raised:
        Saga("wrong", Order, steps)

    assert told in str(raised.value)


@pytest.mark.parametrize("input_", [Opaque, int, int | None, dict[str, Any], Any])
def test_an_input_that_does_not_tell_its_fields(input_: Any) -> None:
    """By name only what tells its fields can be filled from; with callables any input will do."""
    with pytest.raises(
        DefinitionError, match=r"to fill Reserve from .* by name, got another type: give a make callable"
    ):
        Saga("wrong", input_, [RESERVE])

    made = Step("reserve", inventory, Reserve, undo=NOTHING, make=lambda s: Reserve("o1"))
    assert Saga("right", input_, [made]).plan.steps[0].type == "inventory.Reserve"


def test_fields_are_filled_by_name() -> None:
    """From dataclasses, Structs and TypedDicts; a field with a default may be missing."""
    steps = [Step("gift", inventory, Gift, undo=NOTHING), Step("note", inventory, Note, undo=NOTHING)]
    for input_, value in ((Order, Order("o9")), (Typed, {"order_id": "o9"}), (Note, Note("o9", "hello"))):
        driven = Driven(Saga("filled", input_, steps))
        driven.start(value)
        driven.reply()

        assert driven.sent[0].payload == b'{"order_id":"o9","wrapped":true}'
        assert driven.sent[1].payload in (b'{"order_id":"o9","text":""}', b'{"order_id":"o9","text":"hello"}')


def test_a_make_callable_that_makes_something_else() -> None:
    """It is the step's type that participants know: another is the program's mistake, and holds the saga."""
    wrong: Any = lambda s: Charge("o1")  # noqa: E731  # as an author would write it in the list
    driven = Driven(Saga("made", Order, [Step("reserve", inventory, Reserve, undo=NOTHING, make=wrong)]))

    driven.start()

    assert "expected Reserve, got Charge from its make callable" in driven.state.hold_reason


def test_seconds_become_milliseconds() -> None:
    """A step's times reach the kernel as whole milliseconds; what is not given is the kind's default."""
    retry = RetryPolicy(initial_interval=0.5, backoff_coefficient=1.5, maximum_interval=30, maximum_attempts=7)
    step = Step("reserve", inventory, Reserve, undo=NOTHING, retry=retry, resend_after=2.5, timeout=10)

    assert step.policy() == Policy(2_500, 10_000, 7, 500, 150, 30_000, 10)
    assert SHIP.policy() == Policy(timeout=None)
    assert CONFIRM.policy() == Policy(timeout=None, attempts=0)
    assert RESERVE.policy() == Policy(timeout=300_000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("resend_after", v) for v in (0, -1, 1.5, None, "1", 10**15)],
        *[("timeout", v) for v in (0, 0.5, True, 10**15)],
        *[("attempts", v) for v in (-1, None, 1.0)],
        *[("retry_initial", v) for v in (-1, 2.0)],
        *[("retry_percent", v) for v in (99, 100_001)],
        *[("retry_max", v) for v in (999, -1)],
        *[("undo_attempts", v) for v in (0, -1)],
    ],
)
def test_policies_that_cannot_be(field: str, value: Any) -> None:
    """Whole numbers within limits, or an error that names the field, expected and got."""
    with pytest.raises(ValueError, match=f"policy {field}: expected"):
        Policy(**{field: value})


def test_the_plan_is_canonical() -> None:
    """The same definition has the same bytes and hash everywhere; any change of a step is another plan."""
    again = Saga("checkout", Order, list(CHECKOUT.steps.values()))
    steps = list(CHECKOUT.steps.values())
    others = [
        steps[:3],
        [steps[1], steps[0], *steps[2:]],
        [Step("reserve", inventory, Reserve, undo=NOTHING), *steps[1:]],
    ]

    assert again.plan.encode() == CHECKOUT.plan.encode()
    assert CHECKOUT.plan.hash == "5742e649b9ffd848"
    assert len({CHECKOUT.plan.hash, *(Saga("checkout", Order, other).plan.hash for other in others)}) == 4
    assert Plan.decode(CHECKOUT.plan.encode(), CHECKOUT.plan.hash) == CHECKOUT.plan


def test_a_plan_of_earlier_code_keeps_its_name() -> None:
    """A stored policy that lacks a field which came later reads with its default, under the hash of its bytes."""
    data = CHECKOUT.plan.encode().replace(b'"undo_attempts":10,', b"").replace(b',"undo_attempts":10', b"")
    assert data != CHECKOUT.plan.encode()

    assert Plan.decode(data, Plan.hash_of(data)) == CHECKOUT.plan


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"name":"x","steps":[{}]}', b'{"name":"x","steps":[1]}', b"\xff"]
)
def test_a_stored_plan_that_is_none(data: bytes) -> None:
    """It tells what it is not."""
    with pytest.raises(ValueError, match="stored plan: expected a plan's JSON, got"):
        Plan.decode(data, Plan.hash_of(data))
    with pytest.raises(ValueError, match="stored plan: expected bytes with the hash other, got"):
        Plan.decode(data, "other")


def test_an_async_saga_is_two_parameters() -> None:
    """`async def function(ctx, input)`, the input's type by its annotation."""

    @saga("right")
    async def right(ctx: Context, order: Order) -> None: ...

    @saga("plain")
    async def plain(ctx, value): ...  # type: ignore[no-untyped-def]  # an input without a type is plain JSON

    assert right.input is Order
    assert plain.input is None

    def not_async(ctx: Context, order: Order) -> None: ...
    async def one(ctx: Context) -> None: ...
    async def generator(ctx: Context, order: Order) -> Any:
        yield

    for function in (not_async, one, generator):
        with pytest.raises(
            DefinitionError, match=rf"saga 'wrong': expected `async def {function.__name__}\(ctx, input\)`, got"
        ):
            saga("wrong")(function)  # type: ignore[arg-type]  # that is the mistake

    async def unknown(ctx: Context, order: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # so is that

    with pytest.raises(
        DefinitionError, match="saga 'wrong': expected annotations that can be read, got name 'Nowhere'"
    ):
        saga("wrong")(unknown)


def test_a_saga_needs_its_name() -> None:
    """`@saga` as it stands, without a name, is told how it is written."""

    async def checkout(ctx: Context, order: Order) -> None: ...

    with pytest.raises(DefinitionError, match=r'saga: expected a name, as in @saga\("name"\), got checkout'):
        saga(checkout)  # type: ignore[arg-type]  # that is the mistake


def test_a_service_may_be_given_by_its_name() -> None:
    """A step that names its service as text is the same plan as one that has the Service."""
    named = Saga("named", Order, [Step("reserve", "inventory", Reserve, undo=Release)])

    assert named.plan == Saga("named", Order, [RESERVE]).plan
    assert named.services == ("inventory",)


def test_an_application_takes_a_list() -> None:
    """One saga that is in no list is told so."""
    with pytest.raises(DefinitionError, match="application 'shop': expected a list of sagas, got saga 'checkout'"):
        Application("shop", CHECKOUT)  # type: ignore[arg-type]  # that is the mistake


def test_an_application_names_each_thing_once() -> None:
    """Sagas by name, services by name, at least one partition."""
    with pytest.raises(DefinitionError, match="application 'shop': expected each saga's name once"):
        Application("shop", [CHECKOUT, CHECKOUT])
    with pytest.raises(DefinitionError, match="application 'shop': expected at least 1 partition, got 0"):
        Application("shop", [CHECKOUT], partitions=0)
    with pytest.raises(ValueError, match="application: expected 1 to 100 of"):
        Application("my shop", [CHECKOUT])
    with pytest.raises(ValueError, match="saga: expected 1 to 100 of"):
        Application("shop", [Saga("check out", Order, [RESERVE])])
    with pytest.raises(ValueError, match="service: expected 1 to 100 of"):
        Application("shop", [CHECKOUT], services=["a/b"])

    shop = Application("shop", [CHECKOUT], services=["mail", payments])
    assert shop.services == ("inventory", "mail", "payments", "shipping")


def test_a_scope_gives_results_by_step() -> None:
    """`scope["step"]` is that step's result."""
    assert Scope(None, {"reserve": 7})["reserve"] == 7
    assert Step("charge", payments, Charge, undo=Refund).undo is Refund
