"""Declares which records of an existing topic start or signal sagas. `kompensate intake` carries it out.

FromTopic("orders.placed", start="checkout", type=OrderPlaced, saga_id=lambda record: record.value.order_id)
FromTopic("payments", signal="paid", saga_id=lambda record: record.value["order"],
          when=lambda record: record.value["status"] == "settled")
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kompensate.orchestrator.definitions.steps import DefinitionError
from kompensate.schemas.topics import check_name


class Incoming:
    """A record of a source topic, as a mapping's functions see it.

    `key` and `headers` are bytes, as they stand; `raw` is the value's bytes. `timestamp` is in ms since the epoch.
    """

    __slots__ = ("_read", "_value", "headers", "key", "offset", "partition", "raw", "timestamp", "topic")

    def __init__(
        self,
        place: tuple[str, int, int],
        timestamp: int,
        key: bytes | None,
        raw: bytes | None,
        headers: Mapping[str, bytes | None],
        read: Callable[[bytes], Any],
    ) -> None:
        self.topic, self.partition, self.offset = place
        self.timestamp, self.key, self.raw, self.headers = timestamp, key, raw, headers
        self._read = read
        self._value: tuple[Any] | None = None

    @property
    def value(self) -> Any:
        """The value, read as the mapping's `type` when it is first asked for; None where the record has none.

        Raises BadPayload, which puts the record into the quarantine.
        """
        if self.raw is None:
            return None
        if self._value is None:
            self._value = (self._read(self.raw),)
        return self._value[0]


@dataclass(frozen=True, slots=True)
class FromTopic:
    """Each record of `topic` starts a saga of definition `start`, or sends the signal `signal`.

    `saga_id` names the saga. `input` is what it starts with, or the signal's payload: by default the record's value as
    it is. `when` says which records count; without it all do. `type` is what `record.value` is read as: by default
    plain JSON values, `bytes` leaves them alone. `attributes` are what a saga that is started is found by. `topic` is
    the whole name; the application's prefix is not put before it. The functions are called again where a record is read
    again, so they answer from the record alone.
    Raises DefinitionError, ValueError.
    """

    topic: str
    saga_id: Callable[[Incoming], str]
    start: str | None = None
    signal: str | None = None
    input: Callable[[Incoming], Any] | None = None
    when: Callable[[Incoming], bool] | None = None
    type: Any = Any
    attributes: Callable[[Incoming], Mapping[str, object]] | None = None

    def __post_init__(self) -> None:
        if not self.topic:
            raise DefinitionError("FromTopic: expected the name of a topic, got none")
        if (self.start is None) == (self.signal is None) or "" in (self.start, self.signal):
            raise DefinitionError(
                f"FromTopic {self.topic!r}: expected either start='a saga' or signal='a name', "
                f"got start={self.start!r}, signal={self.signal!r}"
            )
        if self.start is not None:
            check_name("saga", self.start)
        if self.signal is not None and self.attributes is not None:
            raise DefinitionError(f"FromTopic {self.topic!r}: expected attributes with start=, got them with signal=")
        for name in ("saga_id", "input", "when", "attributes"):
            found = getattr(self, name)
            if found is not None and not callable(found):
                raise DefinitionError(
                    f"FromTopic {self.topic!r}: expected {name} to be a function of the record, got {found!r}"
                )

    @property
    def what(self) -> str:
        """What it makes of a record, in words."""
        return f"start of {self.start!r}" if self.start is not None else f"signal {self.signal!r}"
