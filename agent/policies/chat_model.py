"""A conversation with a model, in words that no vendor owns. Vendors translate these types to their wire format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from pydantic import JsonValue

from tools.task import Frozen


class ToolSpec(Frozen):
    """A tool as the model sees it: name, description, JSON schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, JsonValue]


class ToolCall(Frozen):
    """The model wants a tool used. `arguments` is the model's text: it may not even be JSON."""

    id: str
    name: str
    arguments: str


class ToolResult(Frozen):
    """Answer to a `ToolCall`."""

    call_id: str
    text: str
    ok: bool = True


class Reply(Frozen):
    """One answer of the model."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    input_tokens: int = 0
    """All tokens read, cached ones included."""
    cached_tokens: int = 0
    """Part of `input_tokens` that was read from the vendor's cache."""
    cache_write_tokens: int = 0
    """Part of `input_tokens` that was written to it, where the vendor charges for that."""
    output_tokens: int = 0
    stop: Literal["end", "tools", "length", "refusal"] = "end"


class UserTurn(Frozen):
    """What we say."""

    text: str


class AssistantTurn(Frozen):
    """What the model said."""

    reply: Reply


class ToolTurn(Frozen):
    """What the tools answered, one result for each call of the turn before."""

    results: tuple[ToolResult, ...]


Turn = UserTurn | AssistantTurn | ToolTurn


class Transient(Exception):
    """The call may work when repeated: rate limit, overload, lost connection.

    Attributes:
        retry_after: seconds that the vendor asked to wait, None when it didn't say.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class ModelRefused(Exception):
    """The vendor rejects the call for good (key, model name, malformed request); one sentence."""


class ChatModel(Protocol):
    """A vendor's model."""

    @property
    def model(self) -> str:
        """The vendor's name of the model."""

    @property
    def listed_price(self) -> bool:
        """Whether the vendor's price list holds for this endpoint; not so behind a changed base URL."""

    def complete(
        self, system: str, turns: Sequence[Turn], tools: Sequence[ToolSpec], on_text: Callable[[str], None]
    ) -> Reply:
        """Ask once, streaming text to `on_text` as it comes.

        Raises:
            Transient: worth a repetition.
            ModelRefused: not worth one.
        """
