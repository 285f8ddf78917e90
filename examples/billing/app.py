"""Subscriptions billed each month for years, and a schedule that closes each month's books.

kompensate worker --app examples.billing.app:app
"""

from calendar import monthrange
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from kompensate.orchestrator import Application, Context, Schedule, Service, StepRefused, saga

payments = Service("payments")
PRICES = {"basic": 990, "pro": 2_490}
DAY = 24 * 3600
PATIENCE = (3, 5, 7)
"""Days between attempts at a card that was refused; after the last one the subscription ends."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One customer's; `months` is how many bills it has had. Its first is due on `since` (an ISO date)."""

    customer: str
    plan: str
    since: str
    months: int = 0

    @property
    def due(self) -> datetime:
        """When the next bill is due: each month on the same day, or on the month's last where it has no such day."""
        first = date.fromisoformat(self.since)
        year, month = divmod(first.year * 12 + first.month - 1 + self.months, 12)
        day = min(first.day, monthrange(year, month + 1)[1])
        return datetime(year, month + 1, day, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Change:
    """The signal `change`: another plan from the next bill on, or none to end the subscription."""

    plan: str | None


@dataclass(frozen=True, slots=True)
class Charge:
    bill: str
    customer: str
    cents: int
    day: str


@dataclass(frozen=True, slots=True)
class Refund:
    bill: str


@dataclass(frozen=True, slots=True)
class Remind:
    bill: str
    customer: str
    attempt: int


@dataclass(frozen=True, slots=True)
class CloseMonth:
    month: str


@saga("subscription")
async def subscription(ctx: Context, current: Subscription) -> str:
    """One month: wait for its bill, collect it, and go on as a new run. Its result says why it ended."""
    ctx.publish("subscription", {"plan": current.plan, "next_bill": current.due.date()})
    while True:
        # What loses is dropped: a change that comes while a bill is collected waits for the next month.
        what, change = await ctx.select(
            cancel_losers=True, due=ctx.sleep_until(current.due), change=ctx.receive("change", type=Change)
        )
        if what == "due":
            break
        if change.plan is None:
            return "ended by the customer"
        current = replace(current, plan=change.plan)
        ctx.publish("subscription", {"plan": current.plan, "next_bill": current.due.date()})
    if await collected(ctx, current):
        ctx.continue_as_new(replace(current, months=current.months + 1))
    return "ended: not paid"


async def collected(ctx: Context, current: Subscription) -> bool:
    """Charge the card; where it is refused, remind the customer and try again, at once when there is a new card."""
    bill = f"{ctx.saga_id}-{current.months + 1}"
    for attempt, days in enumerate((*PATIENCE, None), 1):
        day = datetime.fromtimestamp(ctx.now() / 1000, UTC).date().isoformat()
        charge = Charge(bill, current.customer, PRICES[current.plan], day)
        try:
            await ctx.call(payments, charge, undo=Refund(bill), step=f"charge-{attempt}")
        except StepRefused:
            if days is None:
                break
            await ctx.call(payments, Remind(bill, current.customer, attempt), step=f"remind-{attempt}")
            await ctx.select(cancel_losers=True, later=ctx.sleep(days * DAY), new_card=ctx.receive("new-card"))
        else:
            return True
    return False


@saga("close-month")
async def close_month(ctx: Context, _: None) -> int:
    """Add up the month that is over: the firing's id is the schedule's name and the time that it is for."""
    first = date.fromisoformat(ctx.saga_id.partition(":")[2][:10])
    year, month = divmod(first.year * 12 + first.month - 2, 12)
    cents: int = await ctx.call(payments, CloseMonth(f"{year}-{month + 1:02}"), kind="pivot", returns=int)
    return cents


app = Application(
    "billing",
    [subscription, close_month],
    services=[payments],
    # In order and none left out, also after a week without workers.
    schedules=[Schedule("closing", close_month, cron="0 6 1 * *", overlap="BUFFER_ALL")],
)
