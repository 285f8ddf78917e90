"""Messages: what is written is read, records are read leniently, and each header that is wrong says so."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompensate.schemas.messages import (
    OUTCOMES,
    REQUEST_TYPES,
    SIGNAL,
    START,
    Answer,
    BadMessage,
    Command,
    Reply,
    Request,
    Trace,
    milliseconds,
    timestamp,
)
from tests.fixtures import samples
from tests.fixtures.samples import texts

_names = texts.filter(bool)
_traces = st.builds(Trace, st.none() | _names, st.none() | _names).filter(lambda trace: trace.parent or not trace.state)
_numbers = st.integers(0, 10**18 - 1)
_times = st.integers(0, 4_102_444_800_000)
_payloads = st.none() | st.binary(max_size=50)
commands = st.builds(
    Command,
    *[_names] * 6,
    phase=st.just("forward"),
    attempt=_numbers,
    reply_to=_names,
    reply_partition=_numbers,
    payload=_payloads,
    content_type=_names,
    compensates=st.none(),
    expires_at=st.none() | _times,
    trace=_traces,
)
replies = st.builds(Reply, *[_names] * 5, st.sampled_from(OUTCOMES), _payloads, _names, _traces)
requests = st.builds(
    Request,
    _names,
    st.sampled_from(REQUEST_TYPES),
    _names,
    _names,
    _names,
    _names,
    _payloads,
    st.none() | _times,
    _names,
    _traces,
    not_before=st.none() | _times,
    deadline=st.none() | _times,
    parent=st.none() | _names,
    command_id=_names,
    outcome=st.sampled_from(OUTCOMES),
    who=_names,
    step=_names,
)


@given(commands | replies | requests)
def test_what_is_written_is_read(message: Command | Reply | Request) -> None:
    """All fields, in any script."""
    assert type(message).parse(message.headers(), message.payload) == message


@pytest.mark.parametrize("name", samples.messages())
def test_records_are_read_leniently(name: str) -> None:
    """Unknown headers are ignored, null ones are absent, text is as good as bytes, the last of a name counts."""
    message = samples.messages()[name]
    headers: list[tuple[str, Any]] = [("ce_id", b"an earlier one"), ("x-unknown", b"\xff"), ("ce_dataschema", None)]
    headers += [(key, value.decode() if value else None) for key, value in message.headers()]

    assert type(message).parse(headers, message.payload) == message


_reply_names = st.sampled_from([name for name, _ in samples.messages()["reply_done"].headers()] + ["traceparent"])


@given(replies, st.lists(st.tuples(_reply_names, st.none() | st.binary(max_size=4) | _names), max_size=2))
def test_an_answer_is_what_the_reply_says(reply: Reply, wrong: list[tuple[str, Any]]) -> None:
    """Read quickly or as a whole, a reply says the same, and where a header is wrong the same error tells it."""
    headers = [*reply.headers(), *wrong]
    try:
        whole = Reply.parse(headers, None)
    except BadMessage as error:
        with pytest.raises(BadMessage, match=f"^{re.escape(str(error))}$"):
            Answer.parse(headers)
    else:
        assert Answer.parse(headers) == (whole.saga_id, whole.command_id, whole.outcome)


def test_a_reply_of_plain_debezium() -> None:
    """Where ce_id is null the row's `id` stands for it."""
    reply = samples.messages()["reply_done"]
    headers = [(key, None if key == "ce_id" else value) for key, value in reply.headers()]

    assert Reply.parse(headers, reply.payload) == reply


REQUIRED = {
    Command: [
        *("ce_id", "ce_type", "ce_source", "ce_correlationid", "ce_sagatype", "ce_sagastep", "ce_sagaphase"),
        *("ce_sagaattempt", "ce_replyto", "ce_replypartition"),
    ],
    Reply: ["ce_causationid", "ce_correlationid", "ce_type", "ce_source", "ce_replyoutcome"],
    Request: ["ce_type", "ce_correlationid", "ce_source"],
}
MISSING = [(kind, name) for kind, names in REQUIRED.items() for name in names]


@pytest.mark.parametrize("bad", [None, b"", b"\xff"])
@pytest.mark.parametrize(("kind", "name"), MISSING)
def test_a_header_that_is_needed(kind: Any, name: str, bad: bytes | None) -> None:
    """Absent, empty or no UTF-8: the error names the header, expected and got."""
    message = next(m for m in samples.messages().values() if type(m) is kind)
    headers = [(key, bad if key == name else value) for key, value in message.headers()]

    with pytest.raises(BadMessage, match=f"header {name}: expected (text, got|UTF-8, got)"):
        kind.parse(headers, None)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        (Command, {"ce_sagaphase": b"sideways"}, "header ce_sagaphase: expected one of"),
        (Command, {"ce_sagaphase": b"compensate"}, "header ce_compensates: expected on compensating commands"),
        (Command, {"ce_compensates": b"c0"}, "header ce_compensates: expected on compensating commands and no others"),
        (Command, {"ce_sagaattempt": b"-1"}, "header ce_sagaattempt: expected a whole number, got '-1'"),
        (Command, {"ce_replypartition": "³".encode()}, "header ce_replypartition: expected a whole number"),
        (Command, {"ce_replypartition": b"9" * 19}, "header ce_replypartition: expected a whole number"),
        (Command, {"ce_expirytime": b"tomorrow"}, "header ce_expirytime: expected an RFC 3339 time, got 'tomorrow'"),
        (Command, {"ce_expirytime": b"2026-01-01T00:00:00"}, "expected an RFC 3339 time with its offset"),
        (Reply, {"ce_replyoutcome": b"maybe"}, "header ce_replyoutcome: expected one of"),
        (Request, {"ce_type": b"kompensate.dance"}, "header ce_type: expected one of"),
        (Request, {"ce_type": SIGNAL.encode()}, "header ce_subject: expected text, got nothing"),
        (Request, {"ce_sagatype": b""}, "header ce_sagatype: expected text, got empty text"),
    ],
)
def test_a_header_with_a_wrong_value(kind: Any, changes: dict[str, bytes], told: str) -> None:
    """The error names the header, expected and got."""
    message = next(m for m in samples.messages().values() if type(m) is kind)
    headers = {**dict(message.headers()), **changes}

    with pytest.raises(BadMessage, match=told):
        kind.parse(list(headers.items()), None)


def test_no_headers_at_all() -> None:
    """A record without headers is none of ours."""
    for kind in (Command, Reply, Request):
        with pytest.raises(BadMessage):
            kind.parse(None, b"{}")


@given(_times)
def test_times_keep_their_milliseconds(ms: int) -> None:
    """RFC 3339 there and back."""
    assert milliseconds("x", timestamp(ms)) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2023-11-14T22:13:20.001Z", 1_700_000_000_001),
        ("2023-11-14T23:13:20.001999+01:00", 1_700_000_000_002),
    ],
)
def test_times_of_others(text: str, ms: int) -> None:
    """Offsets count; finer times are rounded."""
    assert milliseconds("x", text) == ms


def test_a_start_is_acknowledged_by_its_type() -> None:
    """The types that are asked for are these; a new one is added at the end."""
    assert REQUEST_TYPES[0] == START
    assert [t.removeprefix("kompensate.") for t in REQUEST_TYPES] == [
        *("start", "signal", "cancel", "pause", "resume", "child-ended"),
        *("retry", "skip", "complete", "compensate", "close"),
        *("fork", "fork-held", "reset", "fork-released"),
    ]
