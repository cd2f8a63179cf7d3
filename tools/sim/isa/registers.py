"""Accumulator registers: 128 float32 lanes of hidden state in the Scalar Engine, and as many in the Vector Engine.

Instructions that reduce fold into them as their `reduce_cmd` says; only one that names `reduce_res` spills them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim import context
from tools.sim.instruction import Engine
from tools.sim.isa import ops
from tools.sim.isa.enums import reduce_cmd

IDENTITY = {
    "add": 0.0,
    "subtract": 0.0,
    "multiply": 1.0,
    "maximum": -np.inf,
    "minimum": np.inf,
    "abs_max": 0.0,
    "abs_min": np.inf,
}
"""What `reset` puts into the registers, by reduction operator (ISA tensor_scalar_reduce, tensor_scalar_cumulative)."""


def lane_registers(engine: Engine) -> NDArray[np.float32]:
    """The engine's accumulator registers, float32 [128]."""
    core = context.current()
    found = core.registers.get(engine)
    if found is None:
        found = core.registers[engine] = np.zeros(core.machine.partitions, np.float32)
    return found


def command(value: Any, allowed: tuple[reduce_cmd, ...], *, api: str) -> reduce_cmd:
    """`value` as a register command, which must be one of `allowed`."""
    if value is None:
        return reduce_cmd.idle
    if isinstance(value, reduce_cmd) and value in allowed:
        return value
    names = ", ".join(f"nisa.reduce_cmd.{c.name}" for c in allowed)
    context.fail(
        "KW-REDUCE-CMD",
        f"{api}: reduce_cmd={value!r} isn't one of {names}",
        operand="reduce_cmd",
        found=str(value),
        limit=names,
        fix=f"pass one of {names}",
    )


def begin(engine: Engine, order: reduce_cmd, op: ops.AluOp, lanes: int, initial: Any = None) -> NDArray[np.float32]:
    """The registers [lanes] as they are before the instruction folds anything: reset, loaded or kept."""
    registers = lane_registers(engine)
    if order in (reduce_cmd.reset, reduce_cmd.reset_reduce):
        registers[:lanes] = IDENTITY.get(op.name, 0.0)
    elif order is reduce_cmd.load_reduce:
        registers[:lanes] = np.asarray(initial, np.float32).reshape(-1)
    elif order is reduce_cmd.idle and engine is Engine.VECTOR:
        registers[:lanes] = np.nan  # "even when idle, the accumulator state may still be modified" (ISA select_reduce)
    return registers[:lanes]


def accumulate(
    engine: Engine, order: reduce_cmd, op: ops.AluOp, values: NDArray[Any], initial: Any = None
) -> NDArray[np.float32]:
    """Fold `values` [P, ...] into the lanes' registers as `order` says; returns the registers [P]."""
    lanes = values.shape[0]
    registers = begin(engine, order, op, lanes, initial)
    if order not in (reduce_cmd.reset, reduce_cmd.idle):
        with np.errstate(all="ignore"):
            partial = ops.reduce_free(op, values.reshape(lanes, -1), (1,))
            registers[:] = op.function(registers, partial)
    return registers
