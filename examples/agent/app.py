"""An agent that thinks, uses tools, and asks a person before it does what cannot be taken back.

    kompensate worker --app examples.agent.app:app

A thought and a tool call are local steps: what they gave is kept, so that an agent that was killed goes on with what it
knows, and neither pays for a thought twice nor does twice what it has done.
"""

from dataclasses import dataclass

from examples.agent.model import Note, think
from examples.agent.tools import NEED_APPROVAL, find_call, use
from kompensate.orchestrator import Application, Context, FailSaga, saga

TURNS_MAX = 10
APPROVAL_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Task:
    """What the agent is asked."""

    task_id: str
    request: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person says to a question."""

    approved: bool
    by: str


@saga("assistant")
async def assistant(ctx: Context, task: Task) -> str:
    """The agent's answer. What it is about is published as `status`, what it asks as `question`."""
    notes: tuple[Note, ...] = ()
    for turn in range(1, TURNS_MAX + 1):
        ctx.publish("status", "thinks")
        thought = await ctx.run(think, task.request, notes)
        if thought.answer:
            ctx.publish("status", "has answered")
            return str(thought.answer)
        call = f"{thought.tool}({thought.argument})"
        if thought.tool in NEED_APPROVAL:
            ctx.publish("question", {"turn": turn, "call": call})
            ctx.publish("status", "waits for approval")
            verdict = await approval(ctx, turn)
            if not verdict.approved:
                notes = (*notes, Note(thought.tool, thought.argument, f"denied by {verdict.by}"))
                continue
        ctx.publish("status", f"calls {call}")
        said = await ctx.run(
            use, thought.tool, thought.argument, step=thought.tool, at_most_once=True, reconcile=find_call
        )
        notes = (*notes, Note(thought.tool, thought.argument, said))
    raise FailSaga(f"no answer after {TURNS_MAX} thoughts")


async def approval(ctx: Context, turn: int) -> Verdict:
    """The verdict on this turn's call and no other: a click that comes twice does not approve the next one too."""
    try:
        verdict: Verdict = await ctx.receive(f"approval-{turn}", timeout=APPROVAL_SECONDS, type=Verdict)
    except TimeoutError:
        ctx.publish("status", "was not approved in time")
        raise FailSaga("nobody approved it within an hour") from None
    return verdict


app = Application("support", [assistant], partitions=2)
