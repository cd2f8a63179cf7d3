"""What a model call costs, from the small table in `prices.toml`."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

from agent.policies.chat_model import Reply
from tools.task import Frozen

_SNAPSHOT = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")


class Price(Frozen):
    """US dollars for a million tokens."""

    input: float
    cached: float
    output: float
    cache_write: float | None = None
    """None: writing to the cache costs what reading input costs."""


class PriceTable(Frozen):
    """The table and when it was true."""

    as_of: str
    source: str
    models: dict[str, Price]


@cache
def price_table() -> PriceTable:
    """The shipped table."""
    text = Path(__file__).with_name("prices.toml").read_text(encoding="utf-8")
    return PriceTable.model_validate(tomllib.loads(text))


def dollars(model: str, reply: Reply) -> float | None:
    """List price of one answer; None when the model is not in the table."""
    models = price_table().models
    price = models.get(model) or models.get(_SNAPSHOT.sub("", model))
    if price is None:
        return None
    fresh = reply.input_tokens - reply.cached_tokens - reply.cache_write_tokens
    write = price.input if price.cache_write is None else price.cache_write
    total = fresh * price.input + reply.cached_tokens * price.cached + reply.cache_write_tokens * write
    total += reply.output_tokens * price.output
    return total / 1e6
