"""The instruction set: one module an engine; an opcode's checks, meaning and cost law stand side by side."""

from tools.sim.isa import control, dma, enums, gpsimd, ops, scalar, tensor, vector

__all__ = ["control", "dma", "enums", "gpsimd", "ops", "scalar", "tensor", "vector"]
