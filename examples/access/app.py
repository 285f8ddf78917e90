"""Somebody asks for access: a chain of people approves, each within seven days, then accounts are made.

kompensate worker --app examples.access.app:app
kompensate signal verdict-ann r-1 --payload '{"approved": true}'
"""

from dataclasses import dataclass

from examples.access.directory import ask, grant, load_chain, revoke
from kompensate.orchestrator import Application, Context, FailSaga, RetryPolicy, saga

WEEK = 7 * 24 * 3600
SYSTEMS = {"developer": ("mail", "repository", "build", "cloud")}


@dataclass(frozen=True, slots=True)
class Access:
    """What is asked for: the accounts of a role."""

    person: str
    role: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an approver says; the signal's name has who."""

    approved: bool
    because: str = ""


@saga("access")
async def access(ctx: Context, wanted: Access) -> list[str]:
    """Every approver of the chain says yes; who is silent for a week has the deputy asked, for another week."""
    for level in await ctx.run(load_chain, wanted.person):
        for approver in (level.approver, level.deputy):
            await ctx.run(ask, approver, wanted.person, wanted.role)
            asked = ctx.receive(f"verdict-{approver}", type=Verdict)
            end, verdict = await ctx.select(said=asked, silence=ctx.sleep(WEEK), cancel_losers=True)
            if end == "said":
                break
        if end == "silence" or not verdict.approved:
            raise FailSaga(f"{approver}: {verdict.because if verdict else 'did not answer'}")
    return list(await ctx.child(provision, wanted, returns=list[str]))


@saga("provision")
async def provision(ctx: Context, wanted: Access) -> list[str]:
    """An account in each system, tried up to four times; where one cannot be had, those before it are revoked again."""
    retry = RetryPolicy(maximum_attempts=4)
    return [await ctx.run(grant, name, wanted.person, undo=revoke, retry=retry) for name in SYSTEMS[wanted.role]]


app = Application("staff", [access, provision], partitions=2)
