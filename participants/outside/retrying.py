"""The door to tenacity: whether an outside call is tried again, and after how long.

Tenacity gives the policy alone. Its loop would hold a thread, and forget with the process how often it had tried; the
numbers are in the database, so that no crash, and no other worker, begins the count anew.
"""

from tenacity import RetryCallState, Retrying, stop_after_attempt, stop_before_delay, wait_exponential_jitter

from kompensate.participants.outside.options import External

WAIT_SECONDS_FIRST, WAIT_SECONDS_MAX = 0.25, 15.0
"""Between tries: doubled each time, and up to as much again as the first by chance, so that a crowd spreads."""


def next_wait(options: External, tries: int, spent: float) -> float | None:
    """Seconds until the next try, after `tries` that took `spent` seconds with their waits; None: no more."""
    retrying = Retrying(
        stop=stop_after_attempt(options.tries) | stop_before_delay(options.budget),
        wait=wait_exponential_jitter(multiplier=WAIT_SECONDS_FIRST, max=WAIT_SECONDS_MAX, jitter=WAIT_SECONDS_FIRST),
    )
    state = RetryCallState(retrying, fn=None, args=(), kwargs={})
    state.attempt_number = tries
    state.outcome_timestamp = state.start_time + spent
    state.upcoming_sleep = retrying.wait(state)
    return None if retrying.stop(state) else state.upcoming_sleep
