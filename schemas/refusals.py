"""Why brokers would not talk to a client: librdkafka tells it by a callback, and hides it from the call that times out.

A `Refusals` is a client's `error_cb`; whoever reports that Kafka did not answer appends what it has heard.
`check_bootstrap` refuses what is no address before there is a client.
"""

from typing import Protocol

CERTIFICATE = (
    "the broker's certificate is not of the authority in ssl.ca.location, does not name this address, or has expired"
)
UNANSWERED = "is it running, and is that its address?"


def check_bootstrap(bootstrap: str) -> str:
    """Return `bootstrap`, or raise ValueError: without an address librdkafka waits for brokers that nobody named."""
    if not isinstance(bootstrap, str) or not bootstrap.strip():
        raise ValueError(f"bootstrap: expected Kafka's addresses, 'host:9092' or several by commas, got {bootstrap!r}")
    return bootstrap


class Error(Protocol):
    """What is needed of librdkafka's error."""

    def name(self) -> str: ...
    def str(self) -> str: ...


class Refusals:
    """Keeps the last of a client's errors that says what to mend."""

    def __init__(self) -> None:
        self._heard = ""

    def __call__(self, error: Error) -> None:
        text = error.str()
        if error.name() in ("_SSL", "_AUTHENTICATION", "_RESOLVE") or "alert" in text:
            self._heard = f"{text}: {CERTIFICATE}" if "certificate verify failed" in text else text

    @property
    def advice(self) -> str:
        """What to look at, for the end of a message."""
        return self._heard or UNANSWERED
