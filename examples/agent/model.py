"""A scripted stand-in for a language model, so that the example runs offline and gives the same each time.

It is no model: `think` follows a script for one kind of request, a broken parcel. In its place goes a call to a
provider, sync or `async def`, with the same arguments; nothing else changes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """A tool that was wanted, and what came of it: what the model sees of its past."""

    tool: str
    argument: str
    said: str


@dataclass(frozen=True, slots=True)
class Thought:
    """What the model wants next: a tool with its argument, or to give its answer."""

    tool: str = ""
    argument: str = ""
    answer: str = ""


def think(request: str, notes: Sequence[Note]) -> Thought:
    """The scripted model's next thought."""
    said = {note.tool: note.said for note in notes}
    order = re.search(r"o-\d+", request)
    if order is None:
        return Thought(answer="Which order is it about?")
    if "look_up" not in said:
        return Thought("look_up", order[0])
    if "refund" not in said:
        return Thought("refund", order[0])
    if said["refund"].startswith("denied"):
        return Thought(answer=f"I am sorry, {order[0]} cannot be refunded.")
    return Thought(answer=f"{order[0]} was {said['look_up']}; {said['refund']}.")
