"""Has the publication stayed as it was since the relay's last note? An SQL condition, asked with each note.

PostgreSQL decodes every transaction with the publication that stood when it committed. From version 18 on a publication
that is missing there is passed over without an error; one that did not publish inserts, or filtered them, always was.
So rows that are committed between a change and its repair never come, and nothing in the stream says so. Therefore
no position is noted, nor confirmed, behind a change: the relay stops with a Gap, and a resync publishes the table.

The version of a catalog's row is the transaction that wrote it, and so is that of the note: the younger one came later.
`age()` of a number from more than two billion transactions ago is negative; such a row is old.
"""

from typing import Final

UNCHANGED: Final = """EXISTS (
    SELECT FROM pg_publication p, coalesce((SELECT age(c.xmin) FROM {checkpoints} c WHERE c.slot = {slot}), 0) AS noted
    WHERE p.pubname = {publication} AND age(p.xmin) NOT BETWEEN 0 AND noted - 1 AND (
        p.puballtables
        OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND age(r.xmin) NOT BETWEEN 0 AND noted - 1)
        OR EXISTS (SELECT FROM pg_publication_namespace n
                   WHERE n.pnpubid = p.oid AND age(n.xmin) NOT BETWEEN 0 AND noted - 1)))"""
"""`{checkpoints}` is the table of notes, `{slot}` and `{publication}` are literals."""
