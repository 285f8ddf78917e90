"""Asks the provider over HTTP, and says of every end what is known: it was done, it was not, or who can tell.

The address is the operator's and never a message's.
"""

import json

from kompensate.participants import Failed, Refused, Retry
from kompensate.participants.http import ask


def charge(address: str, cents: int, key: str | None, seconds: float) -> str:
    """Charge under `key`; the charge's id. Raises Refused, Failed, Retry where nothing was charged, else anything."""
    headers = {"Content-Type": "application/json", **({} if key is None else {"Idempotency-Key": key})}
    body = json.dumps({"cents": cents}).encode()
    answer = ask("POST", f"http://{address}/charges", body=body, headers=headers, seconds=seconds)
    match answer.status:
        case 200:
            return str(json.loads(answer.body)["charge"])
        case 402:
            raise Refused(str(json.loads(answer.body)["error"]))
        case 503:
            raise Retry("the provider is busy")
        case 500 if answer.headers.get("idempotent-replayed") == "true":
            # Its documentation: a failure is kept with its key, and no key that failed has charged.
            raise Failed("the provider answers this key with the failure that it has kept")
        case status:
            raise OSError(f"expected status 200, 402 or 503, got {status}")


def find(address: str, key: str, seconds: float) -> str:
    """The id of the charge that was made under `key`. Raises Failed where there is none, else anything."""
    answer = ask("GET", f"http://{address}/charges/{key}", seconds=seconds)
    if answer.status == 404:
        raise Failed("the provider knows no such charge")
    if answer.status != 200:
        raise OSError(f"expected status 200 or 404, got {answer.status}")
    return str(json.loads(answer.body)["charge"])
