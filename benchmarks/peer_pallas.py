"""JAX Pallas' side of `peers.py`: `interpret=True` under `jax.jit` on the CPU, kernels of our own in its idiom."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from peer_operations import EPSILON, Array, serve

CHOICES = {
    "softmax": [{"rows": 8}, {"rows": 128}, {"rows": 512}],
    "layernorm": [{"rows": 8}, {"rows": 128}, {"rows": 512}],
    "matmul": [{"m": 128, "n": 128, "k": 128}, {"m": 256, "n": 256, "k": 256}, {"m": 512, "n": 512, "k": 512}],
    "attention": [{"m": 128, "n": 128}, {"m": 256, "n": 512}, {"m": 512, "n": 1024}],
}
"""Block sizes that one would also use on an accelerator: operands of some megabytes of fast memory."""


def softmax(x_ref: Any, out_ref: Any) -> None:
    """A block of whole rows."""
    x = x_ref[...]
    powers = jnp.exp(x - jnp.max(x, axis=1, keepdims=True))
    out_ref[...] = powers / jnp.sum(powers, axis=1, keepdims=True)


def layernorm(x_ref: Any, gain_ref: Any, bias_ref: Any, out_ref: Any) -> None:
    """A block of whole rows."""
    x = x_ref[...]
    centred = x - jnp.mean(x, axis=1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=1, keepdims=True) + EPSILON)
    out_ref[...] = centred * scale * gain_ref[...] + bias_ref[...]


def matmul(a_ref: Any, b_ref: Any, out_ref: Any) -> None:
    """A block of the result; the grid's last axis goes over the contraction and adds up in place."""

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        out_ref[...] = jnp.zeros_like(out_ref)

    out_ref[...] += jnp.dot(a_ref[...], b_ref[...], preferred_element_type=jnp.float32)


def attention(q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any, *, width: int) -> None:
    """A block of queries against all keys, `width` of them at a time, with a running maximum and sum."""
    queries = q_ref[...]
    height, d = queries.shape

    def step(i: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        peak, total, blended = state
        some = pl.ds(i * width, width)
        scores = jnp.dot(queries, k_ref[some, :].T) * d**-0.5
        higher = jnp.maximum(peak, jnp.max(scores, axis=1, keepdims=True))
        weights, shrink = jnp.exp(scores - higher), jnp.exp(peak - higher)
        total = total * shrink + jnp.sum(weights, axis=1, keepdims=True)
        return higher, total, blended * shrink + jnp.dot(weights, v_ref[some, :])

    begin = jnp.full((height, 1), -jnp.inf), jnp.zeros((height, 1)), jnp.zeros((height, d))
    _, total, blended = jax.lax.fori_loop(0, k_ref.shape[0] // width, step, begin)
    out_ref[...] = blended / total


def prepare(operation: str, block: Mapping[str, int], values: list[Array]) -> Callable[[], Any]:
    """The compiled launch of a kernel with these block sizes."""
    given = [jnp.asarray(v) for v in values]
    (rows, inner), columns = values[0].shape, values[-1].shape[1]
    if operation in ("softmax", "layernorm"):
        body: Any = softmax if operation == "softmax" else layernorm
        height = min(block["rows"], rows)
        grid: tuple[int, ...] = (rows // height,)
        tile = pl.BlockSpec((height, columns), lambda i: (i, 0))
        whole = pl.BlockSpec((1, columns), lambda i: (0, 0))
        specs, out_spec = [tile, *[whole] * (len(given) - 1)], tile
    elif operation == "matmul":
        body = matmul
        m, k, n = (min(block[key], size) for key, size in (("m", rows), ("k", inner), ("n", columns)))
        grid = (rows // m, columns // n, inner // k)
        specs = [pl.BlockSpec((m, k), lambda i, j, t: (i, t)), pl.BlockSpec((k, n), lambda i, j, t: (t, j))]
        out_spec = pl.BlockSpec((m, n), lambda i, j, t: (i, j))
    else:
        keys = values[1].shape[0]
        body = functools.partial(attention, width=min(block["n"], keys))
        height = min(block["m"], rows)
        grid = (rows // height,)
        whole = pl.BlockSpec((keys, inner), lambda i: (0, 0))
        specs, out_spec = (
            [pl.BlockSpec((height, inner), lambda i: (i, 0)), whole, whole],
            pl.BlockSpec((height, columns), lambda i: (i, 0)),
        )
    call = jax.jit(
        pl.pallas_call(
            body,
            grid=grid,
            in_specs=specs,
            out_specs=out_spec,
            out_shape=jax.ShapeDtypeStruct((rows, columns), jnp.float32),
            interpret=True,
        )
    )
    return lambda: call(*given).block_until_ready()


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    serve(CHOICES, jax.__version__, prepare)
