"""What the offline generator can't do."""

from __future__ import annotations


class BeyondOffline(Exception):
    """The reference needs something that the offline generator doesn't build.

    Attributes:
        reason: one sentence naming what it is.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason.rstrip(".")
        super().__init__(
            f"{self.reason}; this is beyond the offline policy: rewrite that step with element-wise operators, "
            "reductions, transposes and matmul, or use a model policy (--policy openai or anthropic)"
        )
