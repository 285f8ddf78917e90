"""The kit's run: every case, one after another, and what each found.

Cases share nothing: each has sagas of its own, and a service's other traffic does not disturb them. If the first
command is not even answered the rest is not tried, for then something is not running.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kompensate.orchestrator.conformance.cases import CASES, Case
from kompensate.orchestrator.conformance.replies import faults
from kompensate.orchestrator.conformance.subject import Subject
from kompensate.orchestrator.conformance.talk import APP, Finding, Silence, Talk, Wire
from kompensate.schemas.topics import Topics

FINDINGS_MAX = 10
"""Of one case: eight sagas that all go wrong alike say no more than one."""
REPLIES = ("replies", "Every reply has its headers, its saga's key, and lies in the partition that was asked for.")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one case. `lacking` are the samples without which it was not tried."""

    case: str
    promise: str
    result: Literal["pass", "fail", "skipped"]
    findings: list[Finding] = field(default_factory=list)
    lacking: Sequence[str] = ()


def run(
    wire: Wire, subject: Subject, prefix: str = "", patience: float = 20.0, cases: Sequence[Case] = CASES
) -> Iterator[Result]:
    """Try every one of `cases`, and yield what came of it. `patience` is how long an answer may take, in seconds.

    Raises CannotCount, and what the wire raises.
    """
    topics = Topics(APP, prefix)
    name = f"{APP}-{int(time.time())}-{secrets.token_hex(3)}"
    wrong: dict[Finding, None] = {}
    for number, case in enumerate(cases):
        lacking = [kind for kind in case.needs if kind not in subject.samples]
        if lacking:
            yield Result(case.name, case.promise, "skipped", lacking=lacking)
            continue
        talk = Talk(wire, subject, topics, f"{name}-{case.name}", patience)
        silent = _tell(case, talk)
        wrong.update(dict.fromkeys(fault for record, sent in talk.heard for fault in faults(record, sent)))
        yield _result(case.name, case.promise, talk.findings)
        if number == 0 and silent:
            if wrong:  # something was said, and could not be told for an answer
                yield _result(*REPLIES, list(wrong))
            return
    yield _result(*REPLIES, list(wrong))


def _tell(case: Case, talk: Talk) -> bool:
    """Tell a case to its end; True where it ended because nothing came."""
    try:
        case.tell(talk)
    except Silence:
        return True
    return False


def _result(name: str, promise: str, findings: list[Finding]) -> Result:
    return Result(name, promise, "fail" if findings else "pass", findings[:FINDINGS_MAX])
