"""From a record of an input topic to the kernel's input. What cannot be read raises BadMessage."""

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.tables import CHILD
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.sagas.forking import read_fork, read_reset
from kompensate.schemas.messages import (
    CANCEL,
    CHILD_ENDED,
    FORK,
    FORK_HELD,
    ORDERS,
    PAUSE,
    RELEASE,
    RESET,
    RESUME,
    SIGNAL,
    START,
    Answer,
    BadMessage,
    Request,
)
from kompensate.schemas.requests import topic_of
from kompensate.schemas.topics import Topics, check_saga_id, partition_of


class Intake:
    """Reads one application's input records.

    A start that was asked for longer ago than `dedup_window` (ms) is refused: its id may have been used
    and forgotten since.
    """

    def __init__(self, application: Application, topics: Topics, dedup_window: int) -> None:
        self._partitions = application.partitions
        self._topics = topics
        self._services = {topics.replies(service): service for service in application.services}
        self._dedup_window = dedup_window

    def read(self, record: Record) -> tuple[str, i.Input]:
        """(saga id, input). Raises BadMessage."""
        origin = i.Origin(record.topic, record.partition, record.offset, record.timestamp)
        service = self._services.get(record.topic)
        if service is not None:
            answer = Answer.parse(record.headers)
            return answer.saga_id, i.ReplyArrived(
                origin, service, answer.command_id, answer.outcome, record.value or b""
            )
        request = Request.parse(record.headers, record.value)
        expected = topic_of(request, self._topics)
        if record.topic != expected:
            raise BadMessage(
                f"saga {request.saga_id!r}: expected a {request.type}{' of a child' if request.parent else ''} on "
                f"{expected}, got it on {record.topic}: requests start, signal and cancel sagas from outside, orders "
                "are what operators and sagas say, and each topic has its own writers"
            )
        try:
            check_saga_id(request.saga_id)
            if request.parent is not None:
                check_saga_id(request.parent)
        except ValueError as error:
            raise BadMessage(str(error)) from error
        return request.saga_id, self._asked(request, origin)

    def _asked(self, request: Request, origin: i.Origin) -> i.Input:
        payload, reason = request.payload or b"", request.subject or ""
        match request.type:
            case t if t == START:
                self._expect_placed(request.saga_id, origin)
                self._expect_fresh(request, origin)
                assert request.saga_type is not None  # Request.parse saw to it
                return i.StartAsked(
                    origin,
                    request.saga_type,
                    payload,
                    request.trace.parent,
                    request.trace.state,
                    request.not_before,
                    request.deadline,
                    request.parent,
                    request.command_id,
                    attributes=request.attributes or b"",
                )
            case t if t == SIGNAL:
                self._expect_placed(request.saga_id, origin)
                return i.SignalArrived(origin, reason, request.id, payload)
            case t if t == CANCEL:
                return i.CancelAsked(origin, reason)
            case t if t == PAUSE:
                return i.PauseAsked(origin, reason)
            case t if t == RESUME:
                return i.ResumeAsked(origin, reason)
            case t if t == CHILD_ENDED:
                assert request.command_id is not None  # Request.parse saw to it
                assert request.outcome is not None
                return i.ReplyArrived(origin, CHILD, request.command_id, request.outcome, payload)
            case t if t in ORDERS.values():
                assert request.who is not None  # as above
                verb = t.rpartition(".")[2]
                step, command_id = request.step or "", request.command_id or ""
                return i.OrderAsked(origin, verb, request.who, reason, step, payload, command_id)
            case t if t in (RESET, RELEASE):
                return read_reset(origin, payload) if t == RESET else i.ForkReleased(origin, reason)
            case t if t in (FORK, FORK_HELD):
                self._expect_placed(request.saga_id, origin)
                self._expect_fresh(request, origin)
                run = self._topics.run_of(*origin[:3])
                return read_fork(origin, run, payload, held=t == FORK_HELD)
        raise AssertionError(f"a request type that Request.parse lets through: {request.type}")

    def _expect_placed(self, saga_id: str, origin: i.Origin) -> None:
        expected = partition_of(saga_id, self._partitions)
        if origin.partition != expected:
            raise BadMessage(
                f"saga {saga_id!r} lives on partition {expected} of {self._partitions} (murmur2 of its id), "
                f"got its request on partition {origin.partition}: was it sent with another partitioner?"
            )

    def _expect_fresh(self, request: Request, origin: i.Origin) -> None:
        if request.time is not None and origin.time - request.time > self._dedup_window:
            raise BadMessage(
                f"saga {request.saga_id!r}: expected a start asked for within the last {self._dedup_window // 1000} s, "
                f"got one from {(origin.time - request.time) // 1000} s before: it may have run and been forgotten"
            )
