"""Dead letters and quarantined records: the headers that say why a record was put aside, and what was disposed of it.

A record that cannot be handled is kept with its key, bytes and headers, and with these beside them. Who puts it
aside (participants, relays, workers, intakes) writes them, and `kompensate dlq` reads them: so they stand here once.

A *disposal* is a record of its own in the same topic: nobody has a database for it. It names the letter by where that
was first read, so a letter that a crash wrote twice is disposed of once.
"""

from typing import Final

from kompensate.schemas.messages import timestamp

REASON, TIME = "q_reason", "q_time"
TOPIC, PARTITION, OFFSET = "q_topic", "q_partition", "q_offset"
LSN, INDEX = "q_lsn", "q_index"  # of an outbox row, in the place of an offset
TRANSACTIONAL_ID = "kompensate-dlq-"
"""Before the topic's name: who disposes of its letters needs the right to write under it."""
OMITTED = "q_omitted"
ANSWERED: Final = "q_answered"
"""The outcome that whoever waits for it was told: then it is final, and not handed in again."""
STACK: Final = "q_stack"

DONE, OF, WHO, WHY = "q_done", "q_of", "q_who", "q_why"
RETRIED, DISCARDED = "retried", "discarded"

REASON_CHARACTERS_MAX: Final = 2_000
"""What an exception says may hold a whole record, and a letter must fit where its record did."""


def put_aside(topic: str, partition: int, offset: int, reason: str, time: int) -> list[tuple[str, bytes]]:
    """The headers of a record that is put aside: why, where it lay, and a time in ms since the epoch."""
    return [
        (REASON, reason_bytes(reason)),
        (TOPIC, topic.encode()),
        (PARTITION, b"%d" % partition),
        (OFFSET, b"%d" % offset),
        (TIME, _moment(time).encode()),
    ]


def _moment(time: int) -> str:
    try:
        return timestamp(time)
    except (ValueError, OverflowError, OSError):
        return str(time)  # a producer may write any 64 bits as its record's time, and years have four digits


def reason_bytes(reason: str) -> bytes:
    """The reason as its header: of a long one the beginning."""
    return reason[:REASON_CHARACTERS_MAX].encode(errors="replace")
