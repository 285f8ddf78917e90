"""Errors of the relay, named by what its loop does next. The text says what to mend.

RelayError
├── Disconnected   PostgreSQL or Kafka went away: connect again, read on from the confirmed position
├── SlotInUse      another relay holds the slot: stand by until it is free
└── Halted         nothing here can go on without a person: stop, loudly, with nothing confirmed
    ├── Misconfigured   server, publication, table or role are not what a relay needs
    ├── Gap             rows may have been passed over: only a resync can tell
    └── Undeliverable   a row was refused by its topic and by the dead-letter topic
"""

import re
from typing import Final

# libpq keeps no SQLSTATE of a connection that was refused: the server's text is all there is (class 28, 3D000).
# A server that speaks another language is asked again and again instead.
_REFUSED: Final = re.compile(
    r'FATAL: +(?:.*authentication failed|role ".*" (?:does not exist|is not permitted to log in)'
    r'|database ".*" does not exist|no pg_hba\.conf entry)|no password supplied'
)


class RelayError(Exception):
    """Base of what a relay raises."""


class Disconnected(RelayError):
    """A connection broke. Nothing is lost: what was not confirmed is read again."""


class SlotInUse(RelayError):
    """Another process reads the slot."""


class Halted(RelayError):
    """The relay stops until somebody acts."""


class Misconfigured(Halted):
    """PostgreSQL is not set up for a relay."""


class Gap(Halted):
    """Slot or publication are not as this relay left them, so committed rows may never have been published."""


class Undeliverable(Halted):
    """A row can go neither to its own topic nor to the dead-letter topic."""


def with_advice(text: str) -> str:
    """What libpq says of a failed connection; of a certificate that it does not believe it says no more than that."""
    advice = "expected a certificate of the authority in sslrootcert that has not expired"
    return f"{text}: {advice}" if "certificate verify failed" in text else text


def refused(text: str) -> bool:
    """Whether a failed connection's text says that the server is there and does not want us.

    Where several addresses were tried, all of them have to say so: one that is away may come back.
    """
    tried = [line for line in text.splitlines() if line.startswith("- host: ")]
    return all(_REFUSED.search(line) for line in tried or [text])
