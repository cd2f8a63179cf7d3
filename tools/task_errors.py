"""What is wrong with a request, said to the person who made it."""

from __future__ import annotations


class RequestError(ValueError):
    """A request or reference can't become a task; the message is one sentence with the fix."""
