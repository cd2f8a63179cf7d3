"""OpenAI's Chat Completions, and every server that speaks them, behind `ChatModel`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolUnionParam

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
from agent.policies.endpoint import Endpoint, HostedModel, refusal
from agent.settings import Settings

_CHARACTERS_PER_TOKEN = 4
"""Rough size of a token, used only where a server reports no usage."""


def openai_model(settings: Settings, model: str) -> HostedModel:
    """A model behind OpenAI's endpoint, or behind the server of `OPENAI_BASE_URL`.

    Raises:
        SettingsError: there is neither a key nor a base URL.
    """
    key, base_url = settings.openai_api_key, settings.openai_base_url
    endpoint = Endpoint.of("openai", key, base_url, "https://api.openai.com/v1", settings)
    client = openai.OpenAI(
        api_key=endpoint.key,
        base_url=endpoint.base_url,
        timeout=endpoint.timeout,
        max_retries=0,  # repeated by `with_backoff`, which knows the budget
    )
    return HostedModel(model, endpoint, _Completions(model, client, endpoint))


@dataclass(frozen=True, slots=True)
class _Completions:
    """Asks by one streamed chat completion."""

    model: str
    client: openai.OpenAI
    endpoint: Endpoint

    def __call__(
        self, system: str, turns: Sequence[Turn], tools: Sequence[ToolSpec], on_text: Callable[[str], None]
    ) -> Reply:
        messages = _messages(system, turns)
        # Own servers often know only the older name of the limit.
        limit = "max_tokens" if self.endpoint.own_server else "max_completion_tokens"
        extra: dict[str, Any] = {limit: self.endpoint.max_output_tokens}
        if tools:
            extra["tools"] = [_tool(spec) for spec in tools]
        try:
            stream = self.client.chat.completions.create(
                model=self.model, messages=messages, stream=True, stream_options={"include_usage": True}, **extra
            )
            with stream:
                return _read(stream, messages, on_text)
        except openai.APIStatusError as error:
            raise _translated(error) from error
        except openai.APIConnectionError as error:
            raise Transient(f"no connection to {self.client.base_url}: {error}") from error
        except openai.APIError as error:
            # An error inside the stream carries no status: overload and the like.
            raise Transient(f"the answer broke off: {error.message}") from error
        except httpx2.TransportError as error:
            raise Transient(f"the connection broke off: {error}") from error


def _messages(system: str, turns: Sequence[Turn]) -> list[ChatCompletionMessageParam]:
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": system}]
    for turn in turns:
        if isinstance(turn, UserTurn):
            messages.append({"role": "user", "content": turn.text})
        elif isinstance(turn, AssistantTurn):
            reply = turn.reply
            message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
            if reply.calls:
                message["tool_calls"] = [
                    {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                    for c in reply.calls
                ]
            elif not reply.text:
                message["content"] = "..."  # an assistant turn must have content
            messages.append(message)  # type: ignore[arg-type]
        else:
            for result in turn.results:
                messages.append({"role": "tool", "tool_call_id": result.call_id, "content": result.text})
    return messages


def _tool(spec: ToolSpec) -> ChatCompletionToolUnionParam:
    return {
        "type": "function",
        "function": {"name": spec.name, "description": spec.description, "parameters": dict(spec.parameters)},
    }


def _read(
    stream: Iterable[ChatCompletionChunk],
    messages: Sequence[ChatCompletionMessageParam],
    on_text: Callable[[str], None],
) -> Reply:
    text = ""
    calls: dict[int, dict[str, str]] = {}
    finish: str | None = None
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            if choice.delta.content:
                text += choice.delta.content
                on_text(choice.delta.content)
            for piece in choice.delta.tool_calls or ():
                call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] = piece.id or call["id"]
                if piece.function is not None:
                    call["name"] += piece.function.name or ""
                    call["arguments"] += piece.function.arguments or ""
    if finish is None:
        raise Transient("the answer broke off before its end")
    made = tuple(
        ToolCall(id=call["id"] or f"call_{index}", name=call["name"], arguments=call["arguments"])
        for index, call in sorted(calls.items())
    )
    if usage is None:
        said = len(text) + sum(len(call.name) + len(call.arguments) for call in made)
        counts = {
            "input_tokens": len(str(messages)) // _CHARACTERS_PER_TOKEN,
            "output_tokens": said // _CHARACTERS_PER_TOKEN,
        }
    else:
        details = usage.prompt_tokens_details
        counts = {
            "input_tokens": usage.prompt_tokens,
            "cached_tokens": (details.cached_tokens if details else None) or 0,
            "output_tokens": usage.completion_tokens,
        }
    stop = "tools" if made else {"length": "length", "content_filter": "refusal"}.get(finish, "end")
    return Reply.model_validate({"text": text, "calls": made, "stop": stop, **counts})


def _translated(error: openai.APIStatusError) -> Transient | ModelRefused:
    if error.code == "insufficient_quota":
        return ModelRefused("the OpenAI account has no credit left; top it up or use --policy offline")
    return refusal("openai", error.status_code, error.message, error.response.headers)
