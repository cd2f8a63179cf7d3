"""Anthropic's Messages behind `ChatModel`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anthropic
import httpx2
from anthropic.types import MessageParam, RawMessageStreamEvent, ToolParam, ToolResultBlockParam

from agent.policies.chat_model import (
    AssistantTurn,
    ModelRefused,
    Reply,
    ToolCall,
    ToolSpec,
    Transient,
    Turn,
    UserTurn,
)
from agent.policies.retry import retry_after
from agent.settings import Settings, SettingsError


class AnthropicModel:
    """A model behind Anthropic's Messages endpoint."""

    def __init__(self, model: str, client: anthropic.Anthropic, *, own_server: bool, max_output_tokens: int) -> None:
        self._model = model
        self._client = client
        self._own_server = own_server
        self._max_output_tokens = max_output_tokens

    @classmethod
    def from_settings(cls, settings: Settings, model: str) -> AnthropicModel:
        """Connect to the vendor, or to the server of `ANTHROPIC_BASE_URL`.

        Raises:
            SettingsError: there is neither a key nor a base URL.
        """
        key, base_url = settings.anthropic_api_key, settings.anthropic_base_url
        if key is None and base_url is None:
            raise SettingsError(
                "the anthropic policy needs ANTHROPIC_API_KEY, or ANTHROPIC_BASE_URL for a server of your own; "
                "the offline policy needs neither"
            )
        client = anthropic.Anthropic(
            api_key=key.get_secret_value() if key else "none",
            base_url=base_url or "https://api.anthropic.com",
            timeout=settings.model_timeout,
            max_retries=0,  # repeated by `with_backoff`, which knows the budget
        )
        return cls(model, client, own_server=base_url is not None, max_output_tokens=settings.max_output_tokens)

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def listed_price(self) -> bool:
        """Whether Anthropic's price list holds."""
        return not self._own_server

    def complete(
        self, system: str, turns: Sequence[Turn], tools: Sequence[ToolSpec], on_text: Callable[[str], None]
    ) -> Reply:
        """One streamed message.

        Raises:
            Transient: 408, 409, 429, 5xx (529 is overload), lost connection, answer cut off.
            ModelRefused: any other refusal.
        """
        extra: dict[str, Any] = {"tools": [_tool(spec) for spec in tools]} if tools else {}
        try:
            stream = self._client.messages.create(
                model=self._model,
                max_tokens=self._max_output_tokens,
                # The system prompt is the same in every call of a run: let the vendor cache it.
                system=[{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
                messages=_messages(turns),
                stream=True,
                **extra,
            )
            with stream:
                return _read(stream, on_text)
        except anthropic.APIStatusError as error:
            raise _translated(error) from error
        except anthropic.APIConnectionError as error:
            raise Transient(f"no connection to {self._client.base_url}: {error}") from error
        except httpx2.TransportError as error:
            raise Transient(f"the connection broke off: {error}") from error


def _messages(turns: Sequence[Turn]) -> list[MessageParam]:
    messages: list[MessageParam] = []
    for turn in turns:
        if isinstance(turn, UserTurn):
            messages.append({"role": "user", "content": turn.text})
        elif isinstance(turn, AssistantTurn):
            messages.append({"role": "assistant", "content": _assistant_blocks(turn.reply)})
        else:
            results: list[ToolResultBlockParam] = [
                {"type": "tool_result", "tool_use_id": r.call_id, "content": r.text, "is_error": not r.ok}
                for r in turn.results
            ]
            turn_message: MessageParam = {"role": "user", "content": results}
            messages.append(turn_message)
    return messages


def _assistant_blocks(reply: Reply) -> Any:
    blocks: list[dict[str, Any]] = []
    if reply.text.strip():
        blocks.append({"type": "text", "text": reply.text})
    for call in reply.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _as_object(call.arguments)})
    return blocks or [{"type": "text", "text": "..."}]  # an assistant turn must have content


def _as_object(arguments: str) -> dict[str, Any]:
    """What goes back as the call's input: it must be an object, also when the model's text was none."""
    try:
        value = json.loads(arguments or "{}")
    except json.JSONDecodeError:
        return {"malformed": arguments}
    return value if isinstance(value, dict) else {"malformed": arguments}


def _tool(spec: ToolSpec) -> ToolParam:
    return {"name": spec.name, "description": spec.description, "input_schema": dict(spec.parameters)}


def _read(stream: Iterable[RawMessageStreamEvent], on_text: Callable[[str], None]) -> Reply:
    text = ""
    calls: dict[int, dict[str, str]] = {}
    counts = {"input_tokens": 0, "cached_tokens": 0, "cache_write_tokens": 0, "output_tokens": 0}
    reason: str | None = None
    for event in stream:
        if event.type == "message_start":
            usage = event.message.usage
            cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
            counts["input_tokens"] = usage.input_tokens + cached + written
            counts["cached_tokens"], counts["cache_write_tokens"] = cached, written
            counts["output_tokens"] = usage.output_tokens
        elif event.type == "content_block_start" and event.content_block.type == "tool_use":
            calls[event.index] = {"id": event.content_block.id, "name": event.content_block.name, "arguments": ""}
        elif event.type == "content_block_delta":
            if event.delta.type == "text_delta":
                text += event.delta.text
                on_text(event.delta.text)
            elif event.delta.type == "input_json_delta":
                calls[event.index]["arguments"] += event.delta.partial_json
        elif event.type == "message_delta":
            counts["output_tokens"] = event.usage.output_tokens
            reason = event.delta.stop_reason or reason
    if reason is None:
        raise Transient("the answer broke off before its end")
    made = tuple(ToolCall.model_validate(call) for _, call in sorted(calls.items()))
    stop = "tools" if made else {"max_tokens": "length", "refusal": "refusal"}.get(reason, "end")
    return Reply.model_validate({"text": text, "calls": made, "stop": stop, **counts})


def _translated(error: anthropic.APIStatusError) -> Transient | ModelRefused:
    status = error.status_code
    # Overload inside a stream comes with the stream's own status, 200.
    if status in (200, 408, 409, 429) or status >= 500:
        return Transient(f"HTTP {status}: {error.message}", retry_after(error.response.headers))
    if status in (401, 403):
        return ModelRefused(f"the server refused the key (HTTP {status}); check ANTHROPIC_API_KEY")
    return ModelRefused(f"the server refused the call (HTTP {status}): {error.message}")
