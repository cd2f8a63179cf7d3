"""Which errors end a run as the user's or the operator's to mend, and in what words."""

from __future__ import annotations

from agent.budget import BudgetSpent
from agent.events import RunRefused
from agent.policies.protocol import BeyondPolicy, PolicyFailed
from agent.settings import SettingsError
from agent.state import RunRequest, StopReason
from tools.task_errors import RequestError


def refusal_of(error: BaseException, request: RunRequest) -> RunRefused | None:
    """The event for an error that is the user's or the operator's to mend, None for a fault of ours."""
    if isinstance(error, RequestError):
        return RunRefused(message=str(error), kind="input")
    if isinstance(error, BeyondPolicy):
        return RunRefused(message=str(error), kind="beyond")
    if isinstance(error, SettingsError | PolicyFailed):
        return RunRefused(message=str(error), kind="settings")
    if isinstance(error, BudgetSpent):
        cancelled = error.reason is StopReason.CANCELLED
        return RunRefused(
            message=unspecified(request, error.reason),
            kind="cancelled" if cancelled else "settings",
        )
    return None


def unspecified(request: RunRequest, reason: StopReason) -> str:
    """Why a run ended before it had a task."""
    if reason is StopReason.SECONDS and request.reference_function is not None:
        return (
            f"the reference {request.reference_function!r} had not returned when the time was spent ({reason}); look for a loop "
            "that doesn't end, or allow more --seconds"
        )
    return f"stopped before the request was understood ({reason})"
