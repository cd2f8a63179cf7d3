"""The operations that simulators are compared on, and the loop that serves one simulator's runs to `peers.py`.

Every side imports this file in its own environment: NumPy only. All draw the same float32 inputs and are checked against the
same reference.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Prepare = Callable[[str, Mapping[str, int], list[Array]], Callable[[], Any]]
"""(operation, block sizes, inputs) -> a function that runs the kernel once and gives its output."""

EPSILON = 1e-5


def inputs(operation: str, size: Sequence[int]) -> list[Array]:
    """Inputs of an operation: softmax and layernorm (rows, columns), matmul (m, k, n), attention (queries, keys, d)."""
    shapes: dict[str, list[tuple[int, ...]]] = {
        "softmax": [tuple(size)],
        "layernorm": [tuple(size), (1, size[1]), (1, size[1])],
        "matmul": [(size[0], size[1]), (size[1], size[-1])],
        "attention": [(size[0], size[-1]), (size[1], size[-1]), (size[1], size[-1])],
    }
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes[operation]]


def reference(operation: str, values: list[Array]) -> Array:
    """What is right, in NumPy float32."""
    if operation == "softmax":
        return _softmax(values[0])
    if operation == "layernorm":
        x, gain, bias = values
        centred = x - x.mean(axis=1, keepdims=True)
        return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + np.float32(EPSILON)) * gain + bias
    if operation == "matmul":
        return values[0] @ values[1]
    q, k, v = values
    return _softmax(q @ k.T * np.float32(q.shape[1] ** -0.5)) @ v


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def serve(choices: Mapping[str, Sequence[Mapping[str, int]]], version: str, prepare: Prepare) -> None:
    """Answer requests, one JSON line each, until standard input ends.

    A request names `operation`, `size` and `block` (a number of `choices`). The first one of its kind prepares and runs once
    untimed, which also compiles where a side compiles; the answer holds that `first_s`, the `seconds` of one further run,
    and `rel_l2`, the distance from the reference.
    """
    kept: tuple[Any, Callable[[], Any], float, float] | None = None
    print(json.dumps({"version": version, "choices": choices}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        key = (asked["operation"], tuple(asked["size"]), asked["block"])
        if kept is None or kept[0] != key:
            kept = None
            values = inputs(asked["operation"], asked["size"])
            run = prepare(asked["operation"], choices[asked["operation"]][asked["block"]], values)
            wanted = reference(asked["operation"], values).astype(np.float64)
            start = time.perf_counter()
            got = np.asarray(run(), dtype=np.float64)
            first = time.perf_counter() - start
            kept = key, run, first, float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
            del got, wanted
        start = time.perf_counter()
        kept[1]()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "first_s": kept[2], "rel_l2": kept[3]}), flush=True)
