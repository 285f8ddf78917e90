"""The limit of a service: its SQL by bare psycopg, in groups of the same size, with the same savepoints.

Claims, then for each command a savepoint and its UPDATE, then answers and replies, then COMMIT: statement for statement
what a participant sends. Nothing is read from Kafka, decoded or checked; replies are glued together from text.
"""

import argparse
import json
from uuid import uuid4

import psycopg

from bench.marks import Mark
from bench.services import ROWS
from kompensate.outbox import inbox
from kompensate.participants.settings import Settings

GROUP = Settings().group_max
_UPDATE = "UPDATE booked SET amount = amount + %s, commands = commands + 1 WHERE id = %s"
_REPLY = (
    '{"id":"%(id)s","aggregatetype":"bench.replies.inventory","aggregateid":"%(saga)s","type":"inventory.Done",'
    '"payload":"bnVsbA==","partition":1,"ce_id":"%(id)s","ce_source":"kompensate:inventory",'
    '"content_type":"application/json","ce_correlationid":"%(saga)s","ce_causationid":"%(command)s",'
    '"ce_replyoutcome":"done","ce_sagatype":null,"ce_subject":null,"ce_time":null,"ce_sagaattributes":null,'
    '"traceparent":null,"tracestate":null,"ce_specversion":"1.0"}'
)


def main() -> None:
    """Do so many commands; print what one cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--commands", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True)
    args = parser.parse_args()
    done, begun = 0, None
    with psycopg.connect(args.dsn) as connection:
        cursor = connection.cursor()
        while done < args.commands:
            if begun is None and done >= args.warm:
                begun, warm = Mark.now(connection.info.backend_pid), done
            _group(cursor, done)
            connection.commit()
            done += GROUP
        assert begun is not None
        print(json.dumps(Mark.now(connection.info.backend_pid).since(begun, done - warm)), flush=True)


def _group(cursor: psycopg.Cursor, first: int) -> None:
    ids = [uuid4().hex for _ in range(GROUP)]
    cursor.execute(inbox._CLAIM, ("bare", ids))
    cursor.fetchall()
    savepoint = "SAVEPOINT bare"
    for number in range(first, first + GROUP):
        cursor.execute(savepoint, prepare=False)
        savepoint = "RELEASE SAVEPOINT bare; SAVEPOINT bare"
        cursor.execute(_UPDATE, (2, number % ROWS))
    replies = ",".join(_REPLY % {"id": uuid4(), "saga": f"order-{first}", "command": each} for each in ids)
    cursor.execute(inbox._ANSWER, (f"[{replies}]", "bare", ids), prepare=False)


if __name__ == "__main__":
    main()
