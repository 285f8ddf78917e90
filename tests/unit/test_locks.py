"""Semantic locks on SQLite: what two sagas do to each other without, and what is promised with."""

from dataclasses import replace
from pathlib import Path

import pytest

from kompensate.outbox.locks import Held, locks_of
from kompensate.participants import locks
from kompensate.participants.database import connect
from kompensate.participants.outcome import Call
from tests.fixtures.locking import (
    Bank,
    Hold,
    LetGo,
    Read,
    Write,
    one_sees_what_is_undone,
    outcome,
    two_raise,
)


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    made = Bank(connect(f"sqlite:///{tmp_path}/bank.db", "accounts"))
    made.open("acct")
    return made


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


def test_it_is_held_or_refused_at_once(bank: Bank) -> None:
    """Without waiting: a refusal that names the lock and its holder, for the saga's code too."""
    assert bank.ask("a", Hold(["x"])) == "done"
    assert bank.ask("b", Hold(["x"], wait=0)) == "refused"

    assert bank.answer("b") == {
        "reason": "lock x is held, or was asked for before, by saga a of bank",
        "detail": {"lock": "x", "holder": "a"},
    }
    assert bank.ask("a", LetGo()) == "done"
    assert bank.answer("a")["names"] == ["x"]
    assert bank.ask("b", Hold(["x"], wait=0)) == "done"


def test_who_holds_it_goes_on_holding(bank: Bank) -> None:
    """In another step, or sent again: the same token; its expiry is only ever put off."""
    assert bank.ask("a", Read("acct", expires=1000)) == "done"
    first = bank.answer("a")["token"]
    assert bank.ask("a", Read("acct", expires=10)) == "done"

    assert bank.answer("a")["token"] == first
    [held] = held_in(bank)
    assert held.expires_at is not None
    assert held.expires_at > held.now + 900


def held_in(bank: Bank) -> list[Held]:
    with bank.engine.begin() as connection:
        return locks_of(connection).holders()


def waiting_in(bank: Bank) -> list[str]:
    with bank.engine.begin() as connection:
        return [waiting.owner.saga_id for waiting in locks_of(connection).waiters()]


def test_first_come_first_served(bank: Bank) -> None:
    """Who asked first is next, also where another asks first once it is free; nobody's neighbour in a group waits."""
    bank.ask("a", Hold(["x"]))
    asked = {saga: bank.command(saga, Hold(["x"])) for saga in ("b", "c", "d")}
    results = bank.handle(*asked.values(), bank.command("e", Hold(["y"])))
    assert [outcome(result) for result in results] == ["Later", "Later", "Later", "done"]
    assert waiting_in(bank) == ["b", "c", "d"]
    bank.ask("a", LetGo())

    order = []
    for _ in range(3):
        for saga in ("d", "c", "b"):
            if outcome(bank.handle(asked[saga])[0]) == "done" and saga not in order:
                order.append(saga)
                bank.ask(saga, LetGo())
    assert order == ["b", "c", "d"]
    assert waiting_in(bank) == []


def test_who_asks_no_more_holds_up_nobody(bank: Bank) -> None:
    """A command that was given up, or whose process is gone, loses its place after a while; if it comes back, anew."""
    bank.ask("a", Hold(["x"]))
    gone = bank.command("gone", Hold(["x"]))
    assert outcome(bank.handle(gone)[0]) == "Later"
    bank.run("UPDATE saga_lock_wait SET seen_at = seen_at - 60, since = since - 60")
    assert bank.ask("b", Hold(["x"])) == "Later"
    assert outcome(bank.handle(gone)[0]) == "Later"
    assert waiting_in(bank) == ["b", "gone"]

    bank.run("UPDATE saga_lock_wait SET seen_at = seen_at - 60")
    bank.ask("a", LetGo())
    assert bank.ask("c", Hold(["x"], wait=0)) == "done"


def test_waiting_ends(bank: Bank) -> None:
    """After the time that was given it is refused, and the next in line does not wait for it."""
    bank.ask("a", Hold(["x"]))
    slow = bank.command("slow", Hold(["x"], wait=5))
    bank.handle(slow)
    bank.run("UPDATE saga_lock_wait SET since = since - 6")

    assert outcome(bank.handle(slow)[0]) == "refused"
    assert "waited 6." in bank.answer("slow")["reason"]
    assert waiting_in(bank) == []


def test_an_expired_lock_may_be_taken_and_its_holder_is_told(bank: Bank) -> None:
    """The next one's token is greater; the former holder is refused where it confirms, and releases nothing."""
    assert bank.ask("a", Read("acct")) == "done"
    assert bank.ask("b", Read("acct", wait=0)) == "refused"
    bank.run("UPDATE saga_lock SET expires_at = 1")

    assert bank.ask("a", Write("acct", 1)) == "refused"
    assert "got one that has expired" in bank.answer("a")["reason"]
    assert bank.ask("b", Read("acct", wait=0)) == "done"
    assert bank.answer("b")["token"] > 0
    assert bank.ask("a", Write("acct", 1)) == "refused"
    assert "got saga b of bank, who took it after it had expired or was broken" in bank.answer("a")["reason"]
    assert bank.ask("a", LetGo()) == "done"
    assert bank.answer("a")["names"] == []
    assert bank.ask("b", Write("acct", 7)) == "done"
    assert bank.balance("acct") == 7


def test_tokens_only_grow(bank: Bank) -> None:
    """Released, expired or broken: who comes next has a greater one."""
    tokens = []
    for n, end in enumerate(["release", "expire", "break", "release"]):
        assert bank.ask(f"s{n}", Read("acct", wait=0)) == "done"
        tokens.append(bank.answer(f"s{n}")["token"])
        if end == "release":
            bank.ask(f"s{n}", LetGo())
        elif end == "expire":
            bank.run("UPDATE saga_lock SET expires_at = 1")
        else:
            with bank.engine.begin() as connection:
                locks_of(connection).break_("acct", "ann", "closed")

    assert tokens == sorted(set(tokens))


def test_all_or_none(bank: Bank) -> None:
    """Of several locks none is held while one lacks: who waits for two stands in nobody's way for the other."""
    bank.ask("a", Hold(["y"]))
    both = bank.command("b", Hold(["x", "y"]))
    assert outcome(bank.handle(both)[0]) == "Later"
    assert bank.ask("c", Hold(["x"], wait=0)) == "done"
    bank.ask("a", LetGo())
    assert outcome(bank.handle(both)[0]) == "Later"
    bank.ask("c", LetGo())
    assert outcome(bank.handle(both)[0]) == "done"
    assert {held.owner.saga_id for held in held_in(bank)} == {"b"}


@pytest.mark.parametrize("length", [2, 3, 5])
def test_a_circle_is_refused(bank: Bank, length: int) -> None:
    """Sagas that take locks in different orders: who would close the circle goes back, the others go on."""
    sagas = [f"s{n}" for n in range(length)]
    for n, saga in enumerate(sagas):
        assert bank.ask(saga, Hold([f"lock-{n}"])) == "done"
    wants = [bank.command(saga, Hold([f"lock-{(n + 1) % length}"])) for n, saga in enumerate(sagas)]
    for command in wants[:-1]:
        assert outcome(bank.handle(command)[0]) == "Later"

    assert outcome(bank.handle(wants[-1])[0]) == "refused"
    answer = bank.answer(sagas[-1])
    assert answer["detail"]["deadlock"] is True
    assert answer["reason"].count(" waits for ") == length
    bank.ask(sagas[-1], LetGo())
    for command in reversed(wants[:-1]):
        assert outcome(bank.handle(command)[0]) == "done"
        bank.ask(command.saga_id, LetGo())


def test_sagas_that_are_held_keep_theirs(bank: Bank) -> None:
    """A hundred sagas that go no further: a hundred locks to be seen, each with its saga."""
    bank.handle(*[bank.command(f"s{n}", Hold([f"sku:{n}"])) for n in range(100)])

    assert [(held.name, held.owner.saga_id) for held in held_in(bank)] == [(f"sku:{n}", f"s{n}") for n in range(100)]


def test_a_compensation_releases_what_its_command_took(bank: Bank) -> None:
    """Also where another saga undoes it: a fork has kept the step, and has another id."""
    bank.handle(bank.command("origin", Hold(["x", "y"]), id_="taking"))
    undo = bank.command("fork", LetGo(), compensates="taking")

    assert outcome(bank.handle(undo)[0]) == "done"
    assert bank.answer("fork")["names"] == ["x", "y"]
    assert held_in(bank) == []


def test_a_broken_lock_is_free_and_says_why(bank: Bank) -> None:
    """Who held it is refused with the reason, the next one takes it, and what was broken cannot be broken again."""
    bank.ask("a", Read("acct"))
    with bank.engine.begin() as connection:
        assert str(locks_of(connection).break_("acct", "ann", "closed by hand")) == "saga a of bank"
        assert locks_of(connection).break_("acct", "bob", "me too") is None

    assert bank.ask("a", Write("acct", 1)) == "refused"
    assert "got one that was broken by ann: closed by hand" in bank.answer("a")["reason"]
    assert bank.ask("b", Read("acct", wait=0)) == "done"


def test_two_applications_are_two_owners(bank: Bank) -> None:
    """The same saga id in another application is another saga."""
    bank.ask("a", Hold(["x"]))
    stranger = replace(bank.command("a", Hold(["x"], wait=0)), source="kompensate:other")

    assert outcome(bank.handle(stranger)[0]) == "refused"


def test_too_many_do_not_wait(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A participant keeps so many commands back and no more: past it they are refused, not kept."""
    monkeypatch.setattr(locks, "WAITERS_MAX", 3)
    bank.ask("a", Hold(["x"]))

    outcomes = [bank.ask(f"s{n}", Hold(["x"])) for n in range(5)]

    assert outcomes == ["Later"] * 3 + ["refused"] * 2
    assert "3 sagas wait in this database already" in bank.answer("s3")["reason"]


@pytest.mark.parametrize(
    ("names", "given", "told"),
    [
        ((), {}, "expected at least one name, got none"),
        (("",), {}, "expected a name of 1 to 200 printable characters, got ''"),
        (("a\nb",), {}, "printable characters"),
        (("x",), {"expires": 0}, "expected expires in seconds, more than 0, or None, got 0"),
        (("x",), {"wait": 61}, "expected wait of 0 to 60 seconds, got 61"),
        (("x",), {"wait": -1}, "expected wait of 0 to 60 seconds"),
    ],
)
def test_arguments_that_cannot_be(names: tuple[str, ...], given: dict[str, float], told: str) -> None:
    """Expected and got, before anything is asked of the database."""
    call = Call("c", "s", "t", "step", "forward", 1)
    with pytest.raises(ValueError, match=told):
        locks.take(None, call, *names, **{"expires": 10.0, **given})
