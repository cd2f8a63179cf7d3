"""Both vendors' wire formats, so that one test can be run over both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from agent.policies.anthropic import anthropic_model
from agent.policies.chat_model import ChatModel
from agent.policies.openai import openai_model
from agent.settings import Settings

Call = tuple[str, str]
"""Tool name and argument text."""


def sse(*events: tuple[str | None, Any]) -> bytes:
    """Server-sent events of (type, data)."""
    text = ""
    for name, data in events:
        text += f"event: {name}\n" if name else ""
        text += f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
    return text.encode()


@dataclass(frozen=True)
class OpenAIWire:
    """Chat Completions."""

    name = "openai"
    url = "https://api.openai.com/v1/chat/completions"
    local_url = "http://127.0.0.1:9999/v1/chat/completions"
    base = "http://127.0.0.1:9999/v1"
    key = "OPENAI_API_KEY"

    def model(self, settings: Settings) -> ChatModel:
        return openai_model(settings, "gpt-5.4")

    def answer(
        self, text: str = "", calls: Sequence[Call] = (), usage: tuple[int, int, int] | None = (100, 40, 20)
    ) -> httpx.Response:
        """A streamed answer; usage is (input with cache, cached, output)."""

        def chunk(delta: dict[str, Any], finish: str | None = None) -> tuple[None, dict[str, Any]]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return None, {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

        events: list[tuple[str | None, Any]] = [chunk({"role": "assistant"})]
        events += [chunk({"content": piece}) for piece in _pieces(text)]
        for index, (name, arguments) in enumerate(calls):
            head = {
                "index": index,
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            events.append(chunk({"tool_calls": [head]}))
            for piece in _pieces(arguments):
                events.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
        events.append(chunk({}, "tool_calls" if calls else "stop"))
        if usage is not None:
            total, cached, out = usage
            counts = {
                "prompt_tokens": total,
                "completion_tokens": out,
                "total_tokens": total + out,
                "prompt_tokens_details": {"cached_tokens": cached},
            }
            end = {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [],
                "usage": counts,
            }
            events.append((None, end))
        events.append((None, "[DONE]"))
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=sse(*events))

    def cut_off(self) -> httpx.Response:
        """A stream that ends in the middle."""
        whole = self.answer("half of an answer").content
        end = whole.index(b'"finish_reason": "stop"')
        kept = whole[: whole.rindex(b"data:", 0, end)]
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=kept)

    def error(self, status: int, message: str, headers: dict[str, str] | None = None) -> httpx.Response:
        body = {"error": {"message": message, "type": "x", "code": None, "param": None}}
        return httpx.Response(status, json=body, headers=headers or {})

    def tool_results(self, body: dict[str, Any]) -> list[str]:
        return [m["content"] for m in body["messages"] if m["role"] == "tool"]

    def tools(self, body: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {t["function"]["name"]: t["function"]["parameters"] for t in body["tools"]}


@dataclass(frozen=True)
class AnthropicWire:
    """Messages."""

    name = "anthropic"
    url = "https://api.anthropic.com/v1/messages"
    local_url = "http://127.0.0.1:9999/v1/messages"
    base = "http://127.0.0.1:9999"
    key = "ANTHROPIC_API_KEY"

    def model(self, settings: Settings) -> ChatModel:
        return anthropic_model(settings, "claude-sonnet-4-6")

    def answer(
        self, text: str = "", calls: Sequence[Call] = (), usage: tuple[int, int, int] | None = (100, 40, 20)
    ) -> httpx.Response:
        """A streamed answer; usage is (input with cache, cached, output)."""
        total, cached, out = usage or (0, 0, 0)
        counts = {
            "input_tokens": total - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
        }
        message = {
            "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
            "stop_sequence": None, "usage": counts,
        }  # fmt: skip
        events: list[tuple[str | None, Any]] = [("message_start", {"type": "message_start", "message": message})]
        index = 0
        if text:
            events += self._block(index, {"type": "text", "text": ""}, "text_delta", "text", text)
            index += 1
        for number, (name, arguments) in enumerate(calls):
            block = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {}}
            events += self._block(index, block, "input_json_delta", "partial_json", arguments)
            index += 1
        delta = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
        events.append(("message_delta", {"type": "message_delta", "delta": delta, "usage": {"output_tokens": out}}))
        events.append(("message_stop", {"type": "message_stop"}))
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=sse(*events))

    def _block(
        self, index: int, block: dict[str, Any], kind: str, field: str, text: str
    ) -> list[tuple[str | None, Any]]:
        start = ("content_block_start", {"type": "content_block_start", "index": index, "content_block": block})
        deltas = [
            (
                "content_block_delta",
                {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}},
            )
            for piece in _pieces(text)
        ]
        return [start, *deltas, ("content_block_stop", {"type": "content_block_stop", "index": index})]

    def cut_off(self) -> httpx.Response:
        """A stream that ends in the middle."""
        whole = self.answer("half of an answer").content
        kept = whole[: whole.index(b"event: message_delta")]
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=kept)

    def error(self, status: int, message: str, headers: dict[str, str] | None = None) -> httpx.Response:
        body = {"type": "error", "error": {"type": "x", "message": message}}
        return httpx.Response(status, json=body, headers=headers or {})

    def tool_results(self, body: dict[str, Any]) -> list[str]:
        return [
            block["content"]
            for m in body["messages"]
            if isinstance(m["content"], list)
            for block in m["content"]
            if block["type"] == "tool_result"
        ]

    def tools(self, body: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {t["name"]: t["input_schema"] for t in body["tools"]}


Wire = OpenAIWire | AnthropicWire


def _pieces(text: str) -> list[str]:
    """Cut as a vendor does: anywhere."""
    return [text[i : i + 7] for i in range(0, len(text), 7)]
