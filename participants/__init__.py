"""Services that take commands and answer through their outbox.

Declare with `Participant`; run with `kompensate participant`, or `Service` and `serve` of
`kompensate.participants.main`.
"""

from kompensate.participants.outcome import Call, Failed, OutsideCall, Refused, Retry
from kompensate.participants.participant import Participant

__all__ = ["Call", "Failed", "OutsideCall", "Participant", "Refused", "Retry"]
