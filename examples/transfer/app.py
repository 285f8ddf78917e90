"""Money from one bank to another: each has its own database, and no transaction spans both.

kompensate worker --app examples.transfer.app:app
"""

from dataclasses import dataclass

from kompensate.orchestrator import Application, Context, Service, saga

north, south = Service("north"), Service("south")


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: `cents` from an account at north to one at south."""

    payer: str
    payee: str
    cents: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    transaction: str
    account: str
    cents: int


@dataclass(frozen=True, slots=True)
class PutBack:
    transaction: str
    account: str
    cents: int


@dataclass(frozen=True, slots=True)
class Deposit:
    transaction: str
    account: str
    cents: int


@saga("transfer")
async def transfer(ctx: Context, order: Order) -> str:
    """The transaction's id, once the money is there."""
    transaction = ctx.uuid()  # the same in every replay; uuid4() would be another one after a crash
    withdraw = Withdraw(transaction, order.payer, order.cents)
    await ctx.call(north, withdraw, undo=PutBack(transaction, order.payer, order.cents))
    await ctx.call(south, Deposit(transaction, order.payee, order.cents), kind="pivot")
    return transaction


app = Application("banks", [transfer], services=[north, south], partitions=2)
