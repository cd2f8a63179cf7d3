"""Repeat a model call that failed for a passing reason: exponential back-off with jitter, Retry-After first."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from agent.budget import Meter
from agent.policies.chat_model import Transient
from agent.policies.protocol import PolicyFailed

T = TypeVar("T")

FIRST_WAIT = 1.0
"""Seconds before the first repetition; doubles each time."""
LONGEST_WAIT = 60.0
"""Seconds between two calls at most, unless the vendor asks for more."""


def with_backoff(
    call: Callable[[], T],
    meter: Meter,
    retries: int,
    on_retry: Callable[[str, float], None],
    jitter: Callable[[], float] = random.random,
) -> T:
    """Call until it works.

    Args:
        call: raises `Transient` when it is worth a repetition.
        meter: waits end where the time budget ends, or at a cancellation.
        retries: repetitions after the first call.
        on_retry: told the reason and the seconds to wait.
        jitter: 0..1, spreads the waits over their upper half.

    Raises:
        PolicyFailed: it still fails after the last repetition, or the wait is longer than the time left.
        BudgetSpent: the run was cancelled or its time is spent.
    """
    for attempt in range(retries + 1):
        try:
            return call()
        except Transient as error:
            if attempt == retries:
                raise PolicyFailed(f"the model gave no answer after {retries + 1} calls: {error.reason}") from error
            wait = error.retry_after
            if wait is None:
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * (0.5 + 0.5 * jitter())
            if wait > meter.seconds_left:
                raise PolicyFailed(
                    f"the model asks to wait {wait:.0f} s, more than the run has left: {error.reason}"
                ) from error
            on_retry(error.reason, wait)
            _wait(wait, meter)
    raise AssertionError("unreachable: the last repetition returns or raises")


def _wait(seconds: float, meter: Meter) -> None:
    end = meter.clock.now() + seconds
    while (left := end - meter.clock.now()) > 0:
        meter.check()
        meter.clock.sleep(min(left, 0.5))
    meter.check()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from the headers `retry-after-ms` or `retry-after` (seconds or an HTTP date)."""
    if (text := headers.get("retry-after-ms")) is not None:
        try:
            return max(0.0, float(text) / 1000)
        except ValueError:
            return None
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
