"""What is wrong with a value that a model of ours refused, in words for the person who gave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a JSON object",
    "model": "a JSON object",
    "model_attributes": "a JSON object",
}
_SIZES = {"Tuple": "entry", "List": "entry", "String": "character"}
_LIMITS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_ORDER = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def fault_text(fault: Mapping[str, Any]) -> str:
    """What one fault of a pydantic `ValidationError` says: what was given and what is wanted, without the field's name."""
    kind, limits = str(fault["type"]), fault.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind in _LIMITS:
        key = _LIMITS[kind]
        return f"must be {_ORDER[key]} {limits[key]}, not {fault['input']!r}"
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        return _size(kind, limits)
    if kind == "finite_number":
        return f"must be a finite number, not {fault['input']!r}"
    base, _, problem = kind.rpartition("_")
    if kind == "int_from_float":
        return f"must be a whole number, not {fault['input']!r}"
    if problem in ("type", "parsing") and base in _KINDS:
        return f"must be {_KINDS[base]}, not {_shown(fault['input'])}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}" if message[:2].istitle() else message


def place_of(parts: tuple[int | str, ...]) -> str:
    """A field's place as one writes it: `inputs[0].shape`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _size(kind: str, limits: Mapping[str, Any]) -> str:
    unit = "character" if kind.startswith("string") else _SIZES.get(str(limits.get("field_type", "")), "entry")
    short = kind.endswith("short")
    count = limits["min_length" if short else "max_length"]
    plural = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return f"must have {'at least' if short else 'at most'} {count:,} {unit if count == 1 else plural}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
