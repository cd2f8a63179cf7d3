"""`nki.language` of Beta 1: everything that `nl.` offers, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from tools.sim import context, dtypes
from tools.sim.frontend import language
from tools.sim.frontend.beta1 import allocation, elementwise, instructions, loops, movement
from tools.sim.frontend.beta1.index import arange, mgrid
from tools.sim.frontend.beta1.movement import new_tile, tile_of, unknown
from tools.sim.frontend.beta1.promotion import dtype_of
from tools.sim.frontend.beta1.tile import Tile, begin
from tools.sim.isa import randomness, vector
from tools.sim.isa.ops import OpHandle
from tools.sim.tensor import Tensor

_BINARY = (
    "add subtract multiply divide maximum minimum power mod fmod equal not_equal greater greater_equal less less_equal "
    "logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor left_shift right_shift"
).split()
_UNARY = (
    "exp log sqrt rsqrt reciprocal square abs sign relu sigmoid tanh silu silu_dx gelu gelu_dx gelu_apprx_tanh "
    "gelu_apprx_sigmoid softplus mish erf erf_dx sin cos tan arctan ceil floor trunc negative logical_not invert"
).split()
_REDUCING = ("sum", "mean", "max", "min", "prod", "all")


def _binary(name: str) -> OpHandle:
    def call(x: Any, y: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        unknown(f"nl.{name}", kwargs)
        return elementwise.binary(name, x, y, dtype, mask)

    return OpHandle(name, call)


def _unary(name: str) -> OpHandle:
    def call(x: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        unknown(f"nl.{name}", kwargs)
        return elementwise.unary(name, x, dtype, mask)

    return OpHandle(name, call)


def _reducing(name: str) -> OpHandle:
    def call(x: Any, axis: Any, *, dtype: Any = None, mask: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
        unknown(f"nl.{name}", kwargs)
        return elementwise.reduce(name, x, axis, dtype=dtype, mask=mask, keepdims=keepdims)

    return OpHandle(name, call)


def _copy(src: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    unknown("nl.copy", kwargs)
    return elementwise.copy(src, mask=mask, dtype=dtype)


def all_reduce(x: Any, op: Any, program_axes: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """Reduction over program instances; only a single instance can do it, as they run one after another."""
    if loops.num_programs(program_axes) != 1:
        context.unsupported("nl.all_reduce over several program instances")
    return elementwise.copy(x, mask=mask, dtype=dtype)


def random_seed(seed: Any, *, mask: Any = None, **kwargs: Any) -> None:
    """Seed the random numbers of nl.rand and nl.dropout with a number or a 1-element tile."""
    unknown("nl.random_seed", kwargs)
    core = begin()
    if isinstance(seed, Tensor):
        tile = tile_of(seed, "seed", "nl.random_seed")
        held = new_tile(core, (1, 1), dtypes.int32)
        vector.tensor_copy(held, tile)
    else:
        held = new_tile(core, (1, 1), dtypes.int32)
        vector.memset(held, context.index_value(seed))
    randomness.set_rng_seed(held)


def dropout(x: Any, rate: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """x with elements zeroed at probability `rate` (a number or a 1-element tile)."""
    unknown("nl.dropout", kwargs)
    return instructions.dropout(x, rate, mask=mask, dtype=dtype)


class FloatInfo:
    """`nl.finfo(dtype)`: limits of a float type."""

    def __init__(self, dtype: Any) -> None:
        info: Any = ml_dtypes.finfo(dtype_of(dtype).storage)  # type: ignore[no-untyped-call]
        self.min = float(info.min)
        self.max = float(info.max)
        self.eps = float(info.eps)
        self.tiny = float(info.tiny)
        self.dtype = dtype_of(dtype)


class Float32Limits:
    """`nl.fp32`: the float32 constants."""

    min = float(np.finfo(np.float32).min)
    max = float(np.finfo(np.float32).max)


def size_in_bytes(dtype: Any) -> int:
    """Bytes of one element of a type."""
    return dtype_of(dtype).itemsize


def _members() -> dict[str, Any]:
    members: dict[str, Any] = {str(d): d for d in dtypes.ALL if d not in ("bool", "int64", "float64")}
    members["bool_"] = dtypes.bool_
    members.update({name: _binary(name) for name in _BINARY})
    members.update({name: _unary(name) for name in _UNARY})
    members.update({name: _reducing(name) for name in _REDUCING})
    plain: tuple[Callable[..., Any], ...] = (
        allocation.par_dim,
        allocation.ndarray,
        allocation.full,
        allocation.zeros,
        allocation.ones,
        allocation.zeros_like,
        allocation.empty_like,
        allocation.rand,
        allocation.shared_constant,
        allocation.shared_identity_matrix,
        elementwise.var,
        elementwise.softmax,
        elementwise.rms_norm,
        elementwise.where,
        elementwise.broadcast_to,
        elementwise.expand_dims,
        elementwise.static_cast,
        elementwise.floor_divide,
        movement.load,
        movement.load_transpose2d,
        movement.store,
        movement.atomic_rmw,
        movement.device_print,
        instructions.matmul,
        instructions.transpose,
        instructions.gather_flattened,
        loops.affine_range,
        loops.sequential_range,
        loops.static_range,
        loops.nc,
        loops.spmd_dim,
        loops.program_id,
        loops.num_programs,
        loops.program_ndim,
        loops.loop_reduce,
        language.ds,
        arange,
        all_reduce,
        random_seed,
        dropout,
    )
    members.update({function.__name__: function for function in plain})
    members["copy"] = OpHandle("copy", _copy)
    members.update(
        sbuf=allocation.sbuf_allocator,
        psum=allocation.psum_allocator,
        hbm=language.Memory("hbm"),
        shared_hbm=language.shared_hbm,
        private_hbm=language.private_hbm,
        mgrid=mgrid,
        tile_size=language.tile_size,
        finfo=FloatInfo,
        fp32=Float32Limits(),
        tensor=Tile,
        Tensor=Tile,
    )
    return members


MEMBERS = _members()
"""Every name of `nki.language`."""


def call(name: str, *operands: Any) -> Any:
    """Call a function of the language by name."""
    return MEMBERS[name](*operands)
