"""Anthropic's Messages behind `ChatModel`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
from agent.policies.endpoint import TRANSIENT, Endpoint, HostedModel, refusal
from agent.settings import Settings


def anthropic_model(settings: Settings, model: str) -> HostedModel:
    """A model behind Anthropic's endpoint, or behind the server of `ANTHROPIC_BASE_URL`.

    Raises:
        SettingsError: there is neither a key nor a base URL.
    """
    key, base_url = settings.anthropic_api_key, settings.anthropic_base_url
    endpoint = Endpoint.of("anthropic", key, base_url, "https://api.anthropic.com", settings)
    client = anthropic.Anthropic(
        api_key=endpoint.key,
        base_url=endpoint.base_url,
        timeout=endpoint.timeout,
        max_retries=0,  # repeated by `with_backoff`, which knows the budget
    )
    return HostedModel(model, endpoint, _Messages(model, client, endpoint))


@dataclass(frozen=True, slots=True)
class _Messages:
    """Asks by one streamed message."""

    model: str
    client: anthropic.Anthropic
    endpoint: Endpoint

    def __call__(
        self, system: str, turns: Sequence[Turn], tools: Sequence[ToolSpec], on_text: Callable[[str], None]
    ) -> Reply:
        extra: dict[str, Any] = {"tools": [_tool(spec) for spec in tools]} if tools else {}
        try:
            stream = self.client.messages.create(
                model=self.model,
                max_tokens=self.endpoint.max_output_tokens,
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
            raise Transient(f"no connection to {self.client.base_url}: {error}") from error
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
    # Overload inside a stream comes with the stream's own status, 200.
    return refusal("anthropic", error.status_code, error.message, error.response.headers, (200, *TRANSIENT))
