"""A tiny assembler of traces for the timing tests."""

from __future__ import annotations

import tools.sim.isa
from tools.sim.instruction import BY_NAME, BufferInfo, Engine, Flag, Trace, TraceBuilder

assert tools.sim.isa  # registers the opcodes

SIZES = {"float32": 4, "bfloat16": 2, "float8_e4m3": 1}


class Program:
    """Records instructions by hand: sizes in elements, whole tiles or column ranges as operands."""

    def __init__(self, target: str = "trn2", dialect: str = "nki") -> None:
        self.builder = TraceBuilder(target)
        self.dialect = dialect
        self.line = 1

    def tile(self, columns: int, dtype: str = "float32", space: str = "sbuf", rows: int = 128, **kw: object) -> int:
        """A new tile [rows, columns]; returns its buffer id."""
        buffers = self.builder.buffers
        size = SIZES[dtype]
        on_chip = space in ("sbuf", "psum")
        buffers.append(
            BufferInfo(
                len(buffers), f"t{len(buffers)}", space, (rows, columns), dtype, rows if on_chip else 1,
                columns * size if on_chip else rows * columns * size, self.line, **kw,  # type: ignore[arg-type]
            )
        )  # fmt: skip
        return len(buffers) - 1

    def add(
        self, name: str, engine: Engine, *, out: object = (), ins: object = (), partitions: int = 128,
        free: int = 0, aux: int = 0, nbytes: int = 0, flags: int = 0, update: bool = False, core: int = 0,
    ) -> int:  # fmt: skip
        """Append an instruction; operands are ids or (id, first column, last column)."""
        operands = [(o, 3 if update else 1) for o in _several(out)] + [(o, 2) for o in _several(ins)]
        first = self.builder.operand_count
        for operand, access in operands:
            buffer, low, high = operand if isinstance(operand, tuple) else (operand, 0, None)
            info = self.builder.buffers[buffer]
            size = SIZES[info.dtype]
            width = info.shape[1] * size
            end = width if high is None else high * size
            self.builder.operand_rows.extend((buffer, access, 0, info.shape[0], low * size, end, width, 0))
        self.builder.operand_count += len(operands)
        entry = BY_NAME[name]
        line = self.builder.line_id("kernel.py", self.line)
        index = len(self.builder.rows) // 11
        self.builder.rows.extend(
            (entry.code, int(engine), line, core, partitions, free, aux, nbytes, flags, first, len(operands))
        )
        return index

    def load(self, dst: object, src: object, engine: Engine = Engine.UNKNOWN, flags: int = 0) -> int:
        """A DMA between two tiles of the same shape."""
        buffer, low, high = dst if isinstance(dst, tuple) else (dst, 0, None)
        info = self.builder.buffers[buffer]
        row = ((info.shape[1] if high is None else high) - low) * SIZES[info.dtype]
        return self.add(
            "dma_copy", engine, out=[dst], ins=[src], partitions=info.shape[0], free=row, aux=row,
            nbytes=row * info.shape[0], flags=flags,
        )  # fmt: skip

    def matmul(self, out: object, left: object, right: object, m: int = 128, n: int = 512, **kw: object) -> int:
        """A matmul; pass flags=Flag.FP32 and update=True as needed."""
        return self.add("nc_matmul", Engine.TENSOR, out=[out], ins=[left, right], free=n, aux=m, **kw)  # type: ignore[arg-type]

    def copy(self, out: object, src: object, n: int = 512, engine: Engine = Engine.VECTOR, flags: int = 0) -> int:
        """A tensor_copy."""
        return self.add("tensor_copy", engine, out=[out], ins=[src], free=n, flags=flags)

    def finish(self) -> Trace:
        """The trace."""
        return self.builder.finish({"kernel.py": "\n" * self.line}, self.dialect)


def _several(operands: object) -> list[object]:
    return list(operands) if isinstance(operands, list | tuple) else [operands]


__all__ = ["Engine", "Flag", "Program"]
