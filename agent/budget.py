"""The hard budget: what may be spent, what was spent, and the one place that says stop."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from agent.state import StopReason, Used
from tools.task import Budget


class Clock(Protocol):
    """Time as a run sees it; tests bring their own."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait that long."""


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait that long."""
        time.sleep(seconds)


class BudgetSpent(Exception):
    """Work has to stop here; carries the reason. Raised inside policies, turned into a decision by the nodes."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Meter:
    """Counts what a run spends against its budget. Safe to use from several threads."""

    def __init__(self, budget: Budget, clock: Clock, used: Used | None = None) -> None:
        self.budget = budget
        self.clock = clock
        self._used = used or Used()
        self._started = clock.now() - self._used.seconds
        self._cancelled = threading.Event()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Wall seconds of this run, earlier sittings included."""
        return self.clock.now() - self._started

    @property
    def seconds_left(self) -> float:
        """Wall seconds until the budget is spent; never below zero."""
        return max(0.0, self.budget.seconds - self.seconds)

    @property
    def used(self) -> Used:
        """What was spent until now."""
        with self._lock:
            return self._used.model_copy(update={"seconds": self.seconds})

    def charge_attempt(self) -> None:
        """Count one full evaluation."""
        with self._lock:
            self._used = self._used.model_copy(update={"attempts": self._used.attempts + 1})

    def charge_tokens(self, tokens: int, dollars: float | None) -> None:
        """Count a model's answer; `dollars` None: the price is unknown."""
        with self._lock:
            used = self._used
            update: dict[str, float | int] = {"tokens": used.tokens + tokens}
            if dollars is None:
                update["unpriced_tokens"] = used.unpriced_tokens + tokens
            else:
                update["dollars"] = used.dollars + dollars
            self._used = used.model_copy(update=update)

    def cancel(self) -> None:
        """Ask for a stop at the next chance."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._cancelled.is_set()

    @property
    def stop(self) -> StopReason | None:
        """Why work must stop now, None while it may go on."""
        used, budget = self.used, self.budget
        if self.cancelled:
            return StopReason.CANCELLED
        if used.attempts >= budget.attempts:
            return StopReason.ATTEMPTS
        if used.seconds >= budget.seconds:
            return StopReason.SECONDS
        # A budget of 0 tokens or dollars forbids models; it doesn't stop a policy that uses none.
        if used.tokens > 0 and used.tokens >= budget.tokens:
            return StopReason.TOKENS
        if used.dollars > 0 and used.dollars >= budget.dollars:
            return StopReason.DOLLARS
        return None

    def check(self) -> None:
        """Raise when work must stop.

        Raises:
            BudgetSpent: a limit is reached or the run was cancelled.
        """
        if (reason := self.stop) is not None:
            raise BudgetSpent(reason)

    def check_judging(self) -> None:
        """Raise when no kernel may be judged any more. Spent tokens don't forbid it: the kernel is paid for.

        Raises:
            BudgetSpent: attempts or time are spent, or the run was cancelled.
        """
        reason = self.stop
        if reason is not None and reason not in (StopReason.TOKENS, StopReason.DOLLARS):
            raise BudgetSpent(reason)

    def check_model_allowed(self) -> None:
        """Raise when no further model call may be made.

        Raises:
            BudgetSpent: a limit is reached, or the budget allows no tokens at all.
        """
        self.check()
        if self.budget.tokens == 0:
            raise BudgetSpent(StopReason.TOKENS)
