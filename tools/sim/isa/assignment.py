"""`tensor[...] = value` in the current dialect: which instruction carries it out.

Source: NKI API stub, `NkiTensor.__setitem__`; migration guide, "Block dimension" (`buf[0:128, i, :] = nl.load(x[i])`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.sim import context
from tools.sim.isa import dma, vector
from tools.sim.tensor import Tensor


def assign(target: Tensor, value: Any) -> None:
    """Write `value` into the view `target`.

    On chip a tensor is copied (and cast) by `tensor_copy` and a number written by `memset`; a DMA moves what lies in HBM on
    either side.

    Args:
        target: the view, any shape.
        value: a tensor of as many elements a partition, or a number.

    Raises:
        KernelError: KW-ASSIGN when `value` is neither; the instruction's own checks otherwise.
    """
    if isinstance(value, Tensor):
        if target.buffer.on_chip and value.buffer.on_chip:
            vector.tensor_copy(target, value)
        else:
            dma.dma_copy(target, value)
    elif isinstance(value, bool | int | float | np.generic):
        if target.buffer.on_chip:
            vector.memset(target, value)
        else:
            rows = target.shape if target.ndim > 1 else (*target.shape, 1)
            held = context.current().allocate(rows, target.dtype, "sbuf")
            vector.memset(held, value)
            dma.dma_copy(target, held)
    else:
        context.fail(
            "KW-ASSIGN",
            f"{type(value).__name__} {value!r} can't be assigned to {target!r}"[:300],
            operand="value",
            found=type(value).__name__,
            fix="assign a tensor or a number; nisa instructions return no tensor, they write the one passed as dst",
        )
