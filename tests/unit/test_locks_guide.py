"""docs/guides/locks.md: its service runs, and does what the page says of it."""

import re
from pathlib import Path
from typing import Any

from kompensate.outbox.locks import LAPSE_SECONDS
from kompensate.participants import locks
from kompensate.participants.database import connect
from tests.fixtures.locking import Bank, outcome

GUIDE = (Path(__file__).parents[2] / "docs/guides/locks.md").read_text(encoding="utf-8")


def test_the_guides_service_keeps_two_sagas_apart(tmp_path: Path) -> None:
    """The second reads what the first has written; a third is let in after the second has gone back."""
    [source] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    made: dict[str, Any] = {"__name__": "guide"}
    exec(compile(source, "locks.md", "exec", dont_inherit=True), made)  # what the page shows
    bank = Bank(connect(f"sqlite:///{tmp_path}/limits.db", "limits"), made["limits"])
    bank.run("CREATE TABLE limits (customer text, amount integer)")
    bank.run("INSERT INTO limits VALUES ('c-7', 100)")
    first, second, third = (bank.command(saga, made["Look"]("c-7"), id_=f"look-{saga}") for saga in "abc")

    assert [outcome(result) for result in bank.handle(first, second)] == ["done", "Later"]
    assert bank.ask("a", made["Set"]("c-7", bank.answer("a")["amount"] + 10)) == "done"
    assert [outcome(result) for result in bank.handle(second, third)] == ["done", "Later"]
    assert bank.answer("b") == {"amount": 110}
    assert bank.ask("b", made["Leave"]("c-7"), compensates="look-b") == "done"
    assert outcome(bank.handle(third)[0]) == "done"


def test_its_figures_are_the_codes() -> None:
    """Limits that the page names."""
    assert f"({locks.WAIT_SECONDS_MAX:.0f} at most)" in GUIDE
    assert f"At most {locks.WAITERS_MAX} sagas wait" in GUIDE
    assert f"after {locks.AGAIN_SECONDS:g} to {locks.AGAIN_SECONDS_MAX:g} seconds" in GUIDE
    assert f"who has not asked for {LAPSE_SECONDS:.0f}\nseconds" in GUIDE
    assert f"(up to {locks.NAME_CHARACTERS_MAX} characters)" in GUIDE
