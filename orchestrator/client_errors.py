"""Errors of clients and readers: what whoever asks can do something about.

KompensateError
└── ClientError
    ├── Unreachable      Kafka does not answer at the address given
    ├── MissingTopic     Kafka answers, and has no such topic: another application, prefix or cluster?
    ├── NotAcknowledged  Kafka did not confirm a request; it may or may not be there
    ├── NotFound         no such saga in the topics
    ├── DamagedSaga      its records are there and do not read
    ├── AlreadyStarted   the saga id of a start was in use
    ├── StartRejected    a start lies in the quarantine
    ├── TimedOut         what was waited for did not happen in time
    ├── NotTaken         a topic refuses a letter that is handed in again
    └── Superseded       somebody else disposes of the same topic's letters now
"""

from kompensate.orchestrator.errors import KompensateError


class ClientError(KompensateError):
    """Base of what clients and readers raise; bad arguments are ValueErrors."""


class Unreachable(ClientError):
    """Kafka does not answer. The text names the bootstrap servers."""


class MissingTopic(ClientError):
    """Kafka has no such topic. The text names it, and what to do."""


class NotAcknowledged(ClientError):
    """Kafka did not confirm it in time. A start or signal may be sent again: their ids make that harmless."""


class NotFound(ClientError):
    """The topics know no such saga."""


class DamagedSaga(ClientError):
    """A saga's records do not read, or do not fit together. The text says which and why."""


class AlreadyStarted(ClientError):
    """A saga of that id is there, or was within the dedup window, and the start was to fail then."""


class StartRejected(ClientError):
    """A worker could not take the start. The text says why; the request is in the quarantine."""


class TimedOut(ClientError):
    """It did not happen within the time given; it may still."""


class NotTaken(ClientError):
    """A letter cannot be written where it came from; nothing was disposed of it. The text names both places."""


class Superseded(ClientError):
    """Two operators at once: whoever began later goes on. What was disposed before stands."""
