"""The instruction set: one module a subject; an opcode's checks, meaning and cost law stand side by side."""

from tools.sim.isa import (
    control,
    dma,
    enums,
    gather,
    gpsimd,
    microscaling,
    multicore,
    ops,
    randomness,
    registers,
    scalar,
    search,
    select,
    tensor,
    vector,
)

__all__ = [
    "control",
    "dma",
    "enums",
    "gather",
    "gpsimd",
    "microscaling",
    "multicore",
    "ops",
    "randomness",
    "registers",
    "scalar",
    "search",
    "select",
    "tensor",
    "vector",
]
