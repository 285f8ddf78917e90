"""Semantic locks on PostgreSQL: sagas at the same time in several processes' stead, and whatever a handler is given."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.rows import dict_row
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from kompensate.orchestrator.cli import main
from kompensate.outbox.tables import create_tables
from kompensate.participants import Call, Participant, locks
from kompensate.participants.database import connect
from kompensate.participants.main import Service
from kompensate.participants.settings import Settings
from kompensate.participants.unit import Undone
from kompensate.schemas.messages import Command
from tests.fixtures.locking import Bank, Hold, LetGo, Read, Write, accounts, one_sees_what_is_undone, outcome, two_raise
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

SAGAS, WORKERS = 40, 4


@pytest.fixture
def bank(postgres: str) -> Iterator[Bank]:
    made = Bank(connect(postgres, "accounts"))
    made.open("acct")
    yield made
    made.engine.dispose()


def test_a_lost_update(bank: Bank) -> None:
    """Without a lock the second writer overwrites the first; with it, it reads only after the first is done."""
    bank.open("unlocked")
    two_raise(bank, "unlocked", locked=False)
    two_raise(bank, "acct", locked=True)

    assert bank.balance("unlocked") == 120
    assert bank.balance("acct") == 130


@pytest.mark.parametrize(("locked", "told"), [(False, "refused"), (True, "done")])
def test_a_dirty_read(bank: Bank, locked: bool, told: str) -> None:
    """Without a lock a saga is refused for a state that never was to be; with it, it waits for what is."""
    assert one_sees_what_is_undone(bank, "acct", locked=locked) == told


def add_one(bank: Bank, saga: str, account: str, rng: random.Random, *, locked: bool) -> None:
    """A saga of two steps, its commands sent again until they are done."""
    assert _until_told(bank, bank.command(saga, Read(account, wait=60, locked=locked)), rng) == "done"
    balance = bank.answer(saga)["balance"]
    assert _until_told(bank, bank.command(saga, Write(account, balance + 1, locked)), rng) == "done"


def _until_told(bank: Bank, command: Command, rng: random.Random) -> str:
    """As the runner does it: what waits, and a group that contention has undone, is done again. The outcome."""
    told = "Later"

    def tried() -> bool:
        nonlocal told
        try:
            told = outcome(bank.handle(command)[0])
        except Undone as error:
            if not error.contended:
                raise
            return False
        if told == "Later":
            threading.Event().wait(rng.uniform(0.001, 0.01))
        return told != "Later"

    wait_until(f"{command.saga_id}: {command.type}", tried, 60)
    return told


@pytest.mark.slow
def test_many_at_the_same_time(bank: Bank, postgres: str) -> None:
    """Forty sagas at four participants add one each to one balance: with locks none is lost, without many are."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    bank.open("unlocked", 0)
    bank.open("locked", 0)
    banks = [Bank(connect(postgres, f"accounts-{n}")) for n in range(WORKERS)]

    def work(n: int) -> None:
        rng = random.Random(seed + n)
        for k in range(n, SAGAS, WORKERS):
            for account in ("unlocked", "locked"):
                add_one(banks[n], f"{account}-{k}", account, rng, locked=account == "locked")

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))
    for made in banks:
        made.engine.dispose()

    assert bank.balance("locked") == SAGAS
    assert bank.balance("unlocked") < SAGAS


@pytest.mark.slow
def test_many_in_different_orders(bank: Bank, postgres: str) -> None:
    """Sagas that take two of three locks in any order, one after the other: who closes a circle goes back and tries
    again; all get through, and no update is lost."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    names = ["x", "y", "z"]
    for name in names:
        bank.open(name, 0)
    banks = [Bank(connect(postgres, f"accounts-{n}")) for n in range(WORKERS)]

    def work(n: int) -> int:
        rng = random.Random(seed + n)
        return sum(_move(banks[n], f"s-{k}", rng.sample(names, 2), rng) for k in range(n, SAGAS, WORKERS))

    with ThreadPoolExecutor(WORKERS) as pool:
        refused = sum(pool.map(work, range(WORKERS)))
    for made in banks:
        made.engine.dispose()

    print(f"{refused} of {SAGAS} were refused, once or more")
    assert sum(bank.balance(name) for name in names) == 2 * SAGAS


def _move(bank: Bank, saga: str, names: list[str], rng: random.Random) -> int:
    """Add one to each of two balances; how often it had to go back."""
    refused = 0
    while True:
        seen: list[int] = []
        for name in names:
            if _until_told(bank, bank.command(saga, Read(name, wait=60)), rng) == "refused":
                assert bank.answer(saga)["detail"]["deadlock"] is True
                break
            seen.append(bank.answer(saga)["balance"])
        else:
            break
        refused += 1
        assert _until_told(bank, bank.command(saga, LetGo()), rng) == "done"
    for n, (name, balance) in enumerate(zip(names, seen, strict=True)):
        assert _until_told(bank, bank.command(saga, Write(name, balance + 1, last=n == 1)), rng) == "done"
    return refused


def test_a_lock_outlives_the_process_that_took_it(bank: Bank, postgres: str) -> None:
    """It is a row: another process of the service refuses, and another one releases."""
    bank.ask("a", Hold(["x"]))
    bank.engine.dispose()
    other = Bank(connect(postgres, "accounts-2"))

    assert other.ask("b", Hold(["x"], wait=0)) == "refused"
    assert other.ask("a", LetGo()) == "done"
    assert other.ask("b", Hold(["x"], wait=0)) == "done"
    other.engine.dispose()


def test_whoever_confirms_is_not_overtaken(bank: Bank, postgres: str) -> None:
    """Between confirming and its commit nobody takes an expired lock: the taker waits for that commit."""
    bank.ask("a", Hold(["x"]))
    call = Call("c", "a", "t", "step", "forward", 1, source="kompensate:bank")
    with bank.engine.begin() as connection:
        locks.confirm(connection, call, "x")
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute("SET lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("UPDATE saga_lock SET saga_id = 'b' WHERE name = 'x'")


KINDS = ["session", "connection", "async session", "psycopg", "cursor"]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_handler_is_given(postgres: str, kind: str) -> None:
    """A session, a connection, psycopg's own, with rows of its own shape: the same locks."""
    service = Participant("accounts")

    def act(where: object, call: Call) -> int:
        token = locks.take(where, call, "x", expires=60)
        assert locks.confirm(where, call, "x") == token
        return token

    def by_session(command: Hold, session: Session, call: Call) -> None:  # as its like
        act(session, call)

    def by_connection(command: Hold, connection: Connection, call: Call) -> None:
        act(connection, call)

    async def by_async_session(command: Hold, session: AsyncSession, call: Call) -> None:
        act(session, call)

    def by_psycopg(command: Hold, driver: psycopg.Connection[Any], call: Call) -> None:
        driver.row_factory = dict_row
        act(driver, call)

    def by_cursor(command: Hold, cursor: psycopg.Cursor[Any], call: Call) -> None:
        act(cursor, call)

    handlers: list[Callable[..., object]] = [by_session, by_connection, by_async_session, by_psycopg, by_cursor]
    service.handles(handlers[KINDS.index(kind)])
    bank = Bank(connect(postgres, "accounts"), service)

    assert bank.ask("a", Hold(["x"])) == "done"
    assert bank.ask("b", Hold(["x"])) == "refused"
    bank.unit.close()
    bank.engine.dispose()


@pytest.mark.slow
def test_waiting_holds_up_nobody_else(kafka: str, topic_prefix: str, postgres: str) -> None:
    """In a running participant: while one saga waits for a lock all others are served, and its turn comes."""
    topics = ServiceTopics(kafka, topic_prefix, "accounts")
    topics.make()
    bank = Bank(connect(postgres, "accounts"))
    others = [bank.command(f"o-{n}", Hold([f"other-{n}"])) for n in range(50)]
    waits = bank.command("b", Hold(["x"], wait=60))

    def answered() -> set[str]:
        with psycopg.connect(postgres) as looking:
            rows = looking.execute("SELECT ce_correlationid, ce_replyoutcome FROM outbox").fetchall()
        assert {row[1] for row in rows} <= {"done"}
        return {row[0] for row in rows}

    settings = Settings(waiting_max=1000)
    with Service(accounts, postgres, kafka, prefix=topic_prefix, settings=settings):
        topics.send([bank.command("a", Hold(["x"]))])
        wait_until("a holds it", lambda: answered() == {"a"})
        topics.send([waits, *others])
        wait_until("the others", lambda: len(answered()) == 51)
        assert "b" not in answered()
        topics.send([bank.command("a", LetGo())])
        wait_until("b's turn", lambda: "b" in answered())
        wait_until("all offsets committed", lambda: topics.committed() == topics.ends())
    bank.engine.dispose()


def test_they_are_listed_and_broken(bank: Bank, postgres: str) -> None:
    """Who holds, since when and until when, who waits; broken by hand with a reason, the next one gets it."""
    waits = bank.command("order-18", Hold(["account:17"]))
    bank.ask("order-17", Hold(["account:17"]))
    bank.handle(waits)

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["locks", *words], env={"KOMPENSATE_DSN": postgres})
        return result.exit_code, result.output

    code, table = run()
    assert code == 0
    assert [word in table for word in ("account:17", "order-17", "bank", "order-18 (", "in ")] == [True] * 5
    assert "1 locks, 1 sagas wait" in table
    [lock] = json.loads(run("-o", "json")[1])
    assert (lock["saga_id"], lock["free"], lock["waiting"][0]["saga_id"]) == ("order-17", False, "order-18")

    assert run("break", "account:17", "--reason", "order-17 was closed", "--by", "ann") == (
        0,
        "account:17 was held by saga order-17 of bank\n",
    )
    assert "broken by ann: order-17 was closed" in run()[1]
    code, told = run("break", "account:17", "--reason", "again")
    assert (code, "expected a saga to hold it, got none" in told) == (3, True)
    assert outcome(bank.handle(waits)[0]) == "done"
    assert run("break", "account:17")[0] == 2


def test_a_database_without_the_tables(postgres: str) -> None:
    """The command says which file makes them."""
    result = CliRunner().invoke(main, ["locks", "--dsn", postgres])
    assert (result.exit_code, "kompensate/outbox/schema.sql" in result.output) == (1, True)
    nobody = CliRunner().invoke(main, ["locks", "--dsn", "postgresql://127.0.0.1:1/none"])
    assert (nobody.exit_code, "Traceback" in nobody.output) == (1, False)


def test_tables_of_before(postgres: str) -> None:
    """The file may be run again over tables that were made before there were locks, and over these."""
    engine = connect(postgres, "accounts")
    for _ in range(2):
        with engine.begin() as connection:
            create_tables(connection)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE saga_lock, saga_lock_wait")
        create_tables(connection)
    engine.dispose()
