"""Reads the corpus of requests, and says in plain NumPy what its words mean. Nothing here comes from the generator."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.task import Task

Array = NDArray[Any]
_DATA = tomllib.loads((Path(__file__).parent / "corpus.toml").read_text(encoding="utf-8"))
MEANS: list[tuple[str, str]] = [(t, m) for t, m in _DATA["means"] if m != "!"]
REFUSED: list[tuple[str, str]] = [(t, m) for t, m in _DATA["refused"]]
FACTS: list[tuple[str, dict[str, Any]]] = [(t, f) for t, f in _DATA["facts"]]
EITHER: list[str] = [t for t, m in _DATA["means"] if m == "!"]
"""Requests so odd that only a crash would be wrong."""


def softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def logsoftmax(x: Array) -> Array:
    s = x - x.max(-1, keepdims=True)
    return np.asarray(s - np.log(np.exp(s).sum(-1, keepdims=True)))


def rmsnorm(x: Array, eps: float = 1e-6) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps))


def layernorm(x: Array, eps: float = 1e-5, axis: int = -1) -> Array:
    return np.asarray((x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps))


def gelu(x: Array) -> Array:
    return np.asarray(x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def exact_gelu(x: Array) -> Array:
    return np.asarray(x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def attention(q: Array, k: Array, v: Array, causal: bool = False) -> Array:
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:])) == 1, scores, -np.inf)
    return np.asarray(softmax(scores) @ v)


_NAMES = {
    "np": np,
    **{f.__name__: f for f in (softmax, logsoftmax, rmsnorm, layernorm, gelu, exact_gelu, silu, relu, attention)},
}


def draw(task: Task, seed: int = 0) -> list[Array]:
    """Random float64 inputs of a task, positive where it asks for that."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(s.shape) for s in task.inputs]
    return [np.abs(a) + 0.1 if s.distribution == "positive" else a for a, s in zip(arrays, task.inputs)]


def meant(formula: str, task: Task, arrays: list[Array]) -> tuple[Array, ...]:
    """The value that the corpus gives for these inputs."""
    value = eval(formula, {**_NAMES, **{s.name: a for s, a in zip(task.inputs, arrays)}})
    return value if isinstance(value, tuple) else (value,)


def computed(task: Task, arrays: list[Array]) -> tuple[Array, ...]:
    """The value of a task's reference, which works in float32."""
    names: dict[str, Any] = {}
    exec(task.reference.source, names)
    value = names[task.reference.function](*arrays)
    return value if isinstance(value, tuple) else (value,)


def agrees(formula: str, task: Task) -> bool:
    """Whether a task's reference has the value that its request means."""
    arrays = draw(task)
    wanted, got = meant(formula, task, arrays), computed(task, arrays)
    return len(wanted) == len(got) and all(
        np.shape(g) == (np.shape(w) or (1,)) and np.allclose(g, w, rtol=2e-3, atol=2e-4) for g, w in zip(got, wanted)
    )
