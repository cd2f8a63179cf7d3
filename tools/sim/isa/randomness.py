"""Pseudo random numbers: XORWOW generators in the lanes of the Vector and GpSimd Engines, and dropout.

A generator's state is six 32-bit words; the Vector Engine holds four generators a lane, GpSimd one (ISA rand_set_state).
Runs repeat for equal seeds; no claim is made that the bits equal the hardware's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context, dtypes
from tools.sim.core import common_flags
from tools.sim.instruction import Effect, Engine, opcode
from tools.sim.isa.operands import (
    forbid_psum_on_gpsimd,
    is_tensor,
    lane_scalar,
    lane_values,
    on_chip,
    pick_engine,
    require_dtype,
    require_free,
    require_generation,
    same_free,
    same_partitions,
    shaped,
)
from tools.sim.isa.vector import psum_flags
from tools.sim.tensor import Tensor

Outs = tuple[Tensor, ...]
WORDS = 6
_GENERATORS = {Engine.VECTOR: 4, Engine.GPSIMD: 1}
_INTEGERS = (dtypes.uint32, dtypes.int32, dtypes.uint16, dtypes.int16, dtypes.uint8, dtypes.int8)
_STEP = np.uint32(362437)  # XORWOW's Weyl increment (Marsaglia 2003)


def generator_state(engine: Engine) -> NDArray[np.uint32]:
    """The engine's generators, uint32 [128 lanes, generators a lane, 6 words]."""
    core = context.current()
    state = core.random_states.get(engine)
    if state is None:
        shape = (core.machine.partitions, _GENERATORS[engine], WORDS)
        state = core.random.integers(1, 1 << 32, shape, dtype=np.uint32)
        core.random_states[engine] = state
    return state


def random_bits(engine: Engine, lanes: int, count: int) -> NDArray[np.uint32]:
    """`count` 32-bit numbers for each of the first `lanes` lanes, uint32 [lanes, count]; advances the generators."""
    state = generator_state(engine)
    x, y, z, w, v, d = (state[:lanes, :, i].copy() for i in range(WORDS))
    steps = -(-count // state.shape[1])
    result = np.empty((steps, *x.shape), np.uint32)
    for i in range(steps):
        t = x ^ (x >> np.uint32(2))
        x, y, z, w = y, z, w, v
        v = (v ^ (v << np.uint32(4))) ^ (t ^ (t << np.uint32(1)))
        d = d + _STEP
        result[i] = v + d
    for i, word in enumerate((x, y, z, w, v, d)):
        state[:lanes, :, i] = word
    return np.ascontiguousarray(result.transpose(1, 0, 2)).reshape(lanes, -1)[:, :count]


def uniform(lanes: int, count: int, engine: Engine = Engine.VECTOR) -> NDArray[np.float32]:
    """Uniform float32 numbers in [0, 1), [lanes, count]."""
    return (random_bits(engine, lanes, count) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


@opcode("rng", Engine.VECTOR, Engine.GPSIMD, cost="vector", source="ISA rng", effect=Effect.REGISTERS)
def RNG(outs: Outs, ins: Outs, engine: Engine) -> None:
    """Random bits: the low bits of 32-bit numbers."""
    dst = outs[0]
    bits = random_bits(engine, dst.shape[0], dst.size // dst.shape[0])
    narrow = bits.astype(np.dtype(f"u{dst.dtype.itemsize}")).view(dst.dtype.storage)
    dst.write(shaped(narrow, dst.shape))


def rng(dst: Tensor, engine: Any = None, name: str | None = None) -> None:
    """Fill an integer tile with random bits.

    Args:
        dst: int8/16/32 or uint8/16/32 tile.
        engine: Vector (default), or GpSimd from trn2 on.
    """
    api = "rng"
    dst = on_chip(dst, "dst", api=api)
    require_dtype(dst, "dst", _INTEGERS, api=api)
    unit = pick_engine(engine, RNG.engines, api=api)
    if unit is Engine.GPSIMD:
        require_generation(3, api="rng on the GpSimd Engine", operand="engine")
    forbid_psum_on_gpsimd(unit, (dst,), api=api)
    context.current().issue(
        RNG,
        unit,
        (dst,),
        (),
        free=dst.size // dst.shape[0],
        partitions=dst.shape[0],
        flags=common_flags(dst) | psum_flags(dst),
        params={"engine": unit},
    )


@opcode("rand2", Engine.VECTOR, cost="vector", source="ISA rand2", effect=Effect.REGISTERS)
def RAND2(outs: Outs, ins: Outs, low: Any, high: Any) -> None:
    """Uniform random numbers between two bounds."""
    dst = outs[0]
    bottom = lane_values(low, 2)
    y = bottom + uniform(dst.shape[0], dst.size // dst.shape[0]) * (lane_values(high, 2) - bottom)
    dst.write(shaped(y, dst.shape))


def rand2(dst: Tensor, min: Any, max: Any, name: str | None = None) -> None:
    """Uniform random numbers in [min, max]; trn3 and later.

    Args:
        dst: float or integer tile.
        min, max: numbers or float32 [P, 1] tiles, min < max.
    """
    require_generation(4, api="rand2")
    draw_uniform(dst, min, max, "rand2")


def draw_uniform(dst: Tensor, low: Any, high: Any, api: str) -> None:
    """`rand2` without its generation limit: what `nl.rand` stands on."""
    dst = on_chip(dst, "dst", api=api)
    p = dst.shape[0]
    bottom = lane_scalar(low, "min", p, api=api)
    top = lane_scalar(high, "max", p, api=api)
    if not isinstance(bottom, Tensor) and not isinstance(top, Tensor) and not bottom < top:
        context.fail(
            "KW-RANDOM-RANGE",
            f"{api}: min={bottom} must be below max={top}",
            operand="min",
            found=bottom,
            limit=top,
            fix="pass min below max",
        )
    context.current().issue(
        RAND2,
        Engine.VECTOR,
        (dst,),
        is_tensor(bottom, top),
        free=dst.size // p,
        partitions=p,
        flags=common_flags(dst) | psum_flags(dst),
        params={"low": bottom, "high": top},
    )


@opcode("dropout", Engine.VECTOR, cost="vector", source="ISA dropout", effect=Effect.REGISTERS)
def DROPOUT(outs: Outs, ins: Outs, probability: Any) -> None:
    """dst = data with elements replaced by 0 at the given probability."""
    dst, data = outs[0], ins[0]
    p = data.shape[0]
    drop = uniform(p, data.size // p) < lane_values(probability, 2)
    values = data.read().reshape(p, -1)
    dst.write(shaped(np.where(drop, np.zeros((), values.dtype), values), dst.shape))


def dropout(dst: Tensor, data: Tensor, prob: Any, name: str | None = None) -> None:
    """Replace elements of data by 0 with probability prob.

    Args:
        dst, data: tiles [P, F...] of one type and equal size.
        prob: drop probability, a number or a [P, 1] tile (float32 for integer data).
    """
    api = "dropout"
    dst = on_chip(dst, "dst", api=api)
    data = on_chip(data, "data", api=api)
    p = same_partitions(("dst", dst), ("data", data), api=api)
    n = same_free(("dst", dst), ("data", data), api=api)
    if dst.dtype is not data.dtype:
        context.fail(
            "KW-DTYPE",
            f"{api}: dst is {dst.dtype} and data is {data.dtype}; they must be equal",
            operand="dst",
            found=str(dst.dtype),
            limit=str(data.dtype),
            fix="give dst the type of data",
        )
    probability = lane_scalar(prob, "prob", p, api=api)
    if isinstance(probability, Tensor):
        allowed = (dtypes.float32,) if data.dtype.is_integer else tuple(d for d in dtypes.ALL if d.is_float)
        require_dtype(probability, "prob", allowed, api=api)
    context.current().issue(
        DROPOUT,
        Engine.VECTOR,
        (dst,),
        (data, *is_tensor(probability)),
        free=n,
        partitions=p,
        flags=common_flags(dst, data) | psum_flags(dst, data),
        params={"probability": probability},
    )


@opcode("set_rng_seed", Engine.VECTOR, cost="vector", source="ISA set_rng_seed", effect=Effect.REGISTERS)
def SET_RNG_SEED(outs: Outs, ins: Outs) -> None:
    """Seed the Vector Engine's generators from one 32-bit value."""
    seed = int(ins[0].read().reshape(-1).view(np.uint32)[0])
    core = context.current()
    shape = (core.machine.partitions, _GENERATORS[Engine.VECTOR], WORDS)
    core.random_states[Engine.VECTOR] = np.random.default_rng(seed).integers(1, 1 << 32, shape, dtype=np.uint32)


def set_rng_seed(src_seeds: Tensor, name: str | None = None) -> None:
    """Seed the Vector Engine's generators from a 32-bit [1, 1] tile."""
    api = "set_rng_seed"
    seeds = on_chip(src_seeds, "src_seeds", api=api)
    if seeds.size != 1 or seeds.dtype.itemsize != 4:
        context.fail(
            "KW-SEED",
            f"{api}: src_seeds is {seeds!r}; it must be one 32-bit element",
            operand="src_seeds",
            found=repr(seeds),
            limit="[1, 1], 32 bits",
            fix="pass a [1, 1] tile of a 32-bit type",
        )
    context.current().issue(SET_RNG_SEED, Engine.VECTOR, (), (seeds,), free=1, partitions=1, flags=common_flags(seeds))


def _state_engine(engine: Any, api: str) -> Engine:
    unit = pick_engine(engine, (Engine.GPSIMD, Engine.VECTOR), api=api)
    require_generation(4 if unit is Engine.VECTOR else 3, api=f"{api} on the {unit.name.title()} Engine")
    return unit


@opcode(
    "rand_set_state", Engine.GPSIMD, Engine.VECTOR, cost="gpsimd", source="ISA rand_set_state", effect=Effect.REGISTERS
)
def RAND_SET_STATE(outs: Outs, ins: Outs, engine: Engine) -> None:
    """Load the generators' state words, one lane a partition."""
    words = ins[0].read()
    state = generator_state(engine)
    state[: words.shape[0]] = words.reshape(words.shape[0], *state.shape[1:])


def rand_set_state(src_seeds: Tensor, engine: Any = None, name: str | None = None) -> None:
    """Load generator states: uint32 [P, 6] for GpSimd (default, trn2 on), [P, 24] for the Vector Engine (trn3 on)."""
    api = "rand_set_state"
    unit = _state_engine(engine, api)
    seeds = on_chip(src_seeds, "src_seeds", api=api, sbuf_only=True)
    require_dtype(seeds, "src_seeds", (dtypes.uint32,), api=api)
    require_free(seeds, "src_seeds", WORDS * _GENERATORS[unit], api=api)
    context.current().issue(
        RAND_SET_STATE,
        unit,
        (),
        (seeds,),
        free=seeds.size // seeds.shape[0],
        partitions=seeds.shape[0],
        flags=common_flags(seeds),
        params={"engine": unit},
    )


@opcode(
    "rand_get_state", Engine.GPSIMD, Engine.VECTOR, cost="gpsimd", source="ISA rand_get_state", effect=Effect.REGISTERS
)
def RAND_GET_STATE(outs: Outs, ins: Outs, engine: Engine) -> None:
    """Store the generators' state words, one lane a partition."""
    dst = outs[0]
    dst.write(shaped(generator_state(engine)[: dst.shape[0]], dst.shape))


def rand_get_state(dst: Tensor, engine: Any = None, name: str | None = None) -> None:
    """Store generator states into uint32 [P, 6] (GpSimd, default) or [P, 24] (Vector Engine)."""
    api = "rand_get_state"
    unit = _state_engine(engine, api)
    dst = on_chip(dst, "dst", api=api, sbuf_only=unit is Engine.GPSIMD)
    require_dtype(dst, "dst", (dtypes.uint32,), api=api)
    require_free(dst, "dst", WORDS * _GENERATORS[unit], api=api)
    context.current().issue(
        RAND_GET_STATE,
        unit,
        (dst,),
        (),
        free=dst.size // dst.shape[0],
        partitions=dst.shape[0],
        flags=common_flags(dst),
        params={"engine": unit},
    )
