"""A model that follows a script: the shipped double for tests, demonstrations and recorded replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from agent.policies.chat_model import ModelRefused, Reply, ToolCall, ToolSpec, Turn
from agent.settings import SettingsError
from tools.task import Frozen

Answer = Reply | Exception | Callable[[str, Sequence[Turn]], Reply]
"""A reply, an exception to raise (`Transient`, `ModelRefused`), or a function of system prompt and conversation."""


class ScriptedModel:
    """Gives its answers in order; a lone callable answers for ever.

    Attributes:
        calls: what it was asked: system prompt, turns and tools of every call.
    """

    def __init__(self, answers: Iterable[Answer] | Callable[[str, Sequence[Turn]], Reply]) -> None:
        self._forever = answers if callable(answers) else None
        self._answers = iter(()) if callable(answers) else iter(answers)
        self.calls: list[tuple[str, tuple[Turn, ...], tuple[ToolSpec, ...]]] = []

    model = "script"
    listed_price = False

    def complete(
        self, system: str, turns: Sequence[Turn], tools: Sequence[ToolSpec], on_text: Callable[[str], None]
    ) -> Reply:
        """The next answer of the script.

        Raises:
            ModelRefused: the script is at its end, or says so.
            Transient: the script says so.
        """
        self.calls.append((system, tuple(turns), tuple(tools)))
        answer = self._forever or next(self._answers, None)
        if answer is None:
            raise ModelRefused("the script has no further reply")
        if isinstance(answer, Exception):
            raise answer
        reply = answer if isinstance(answer, Reply) else answer(system, turns)
        if reply.text:
            on_text(reply.text)
        return reply

    @classmethod
    def from_file(cls, path: Path) -> ScriptedModel:
        """Read a JSON list of replies: `{"text": ..., "calls": [{"name": ..., "arguments": {...}}]}`.

        Raises:
            SettingsError: the file can't be read or isn't such a list.
        """
        try:
            entries = _SCRIPT.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
            raise SettingsError(f"KERNELWRIGHT_SCRIPT: {path} is no list of replies ({first})") from error
        return cls([entry.reply(index) for index, entry in enumerate(entries)])


class _Call(Frozen):
    name: str
    arguments: dict[str, JsonValue] | str = Field(default_factory=dict)


class _Entry(Frozen):
    """One reply in a script file."""

    text: str = ""
    calls: tuple[_Call, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0

    def reply(self, index: int) -> Reply:
        made = tuple(
            ToolCall(
                id=f"call-{index}-{i}",
                name=call.name,
                arguments=call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments),
            )
            for i, call in enumerate(self.calls)
        )
        return Reply(
            text=self.text,
            calls=made,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            stop="tools" if made else "end",
        )


_SCRIPT = TypeAdapter(list[_Entry])
