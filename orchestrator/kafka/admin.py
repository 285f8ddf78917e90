"""What an admin client's answers mean: ours for Kafka's errors, and for its silence."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from kompensate.orchestrator.errors import Fatal, NoAnswer
from kompensate.orchestrator.kafka.options import CALL_SECONDS
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.refusals import Refusals

_AWAY = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT})


@contextmanager
def asking(settings: Settings, admin: AdminClient, refusals: Refusals) -> Iterator[None]:
    """Turn what Kafka answers `admin` into Fatal, and its silence into NoAnswer with what its `refusals` have heard."""
    where = f"Kafka at {settings.bootstrap}"
    try:
        yield
    except TimeoutError as error:
        admin.poll(0)  # calls back
        raise NoAnswer(f"{where}: expected an answer within {CALL_SECONDS:g} s, got none: {refusals.advice}") from error
    except KafkaException as error:
        cause = error.args[0]
        if cause.code() in _AWAY:
            admin.poll(0)
            got = f"got none ({cause.str()}): {refusals.advice}"
            raise NoAnswer(f"{where}: expected an answer within {CALL_SECONDS:g} s, {got}") from error
        raise Fatal(f"{where}: {cause.str()} ({cause.name()})") from error
