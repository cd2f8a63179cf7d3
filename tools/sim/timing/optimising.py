"""What the neuronxcc.nki compiler does to a program before the engines see it, pass by pass.

The passes keep every instruction's index: one that the compiler drops stays in the trace without operands and costs
nothing. They are reasoned from the program alone and switched by `CompilerModel`. Each works in place on what it is given,
which `optimised` copies once: a long trace's tables hold hundreds of megabytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.sim.instruction import BY_NAME, Engine, Flag, Inst, Operand, Trace
from tools.sim.machine import Machine

from . import compiled_reuse
from .allocation import owners
from .costs import costs, issue_on
from .line_loops import line_loops
from .options import CompilerModel
from .renaming import renamed
from .tiles import tiles_of

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

WORTH_MOVING = 1.6
"""Slow-down up to which an instruction may move to a less busy engine."""
LEVELS = 4096
"""Steps of the trace in which SBUF use is tracked while values are kept."""


def working_copy(trace: Trace) -> Trace:
    """`trace` with tables of its own, stored column by column, as the passes read them."""
    return replace(
        trace,
        instructions=np.array(trace.instructions, order="F"),
        operands=np.array(trace.operands, order="F"),
    )


def optimised(trace: Trace, machine: Machine, model: CompilerModel) -> tuple[Trace, Bools]:
    """The program that the engines run under `model`, and which of its instructions were dropped."""
    trace = working_copy(trace)
    dropped = np.zeros(len(trace), np.bool_)
    if not len(trace):
        return trace, dropped
    if model.rename:
        trace = renamed(trace)
    if model.forward:
        trace, gone = forwarded(trace, machine)
        dropped |= gone
    if model.reuse:
        trace, gone = reused(trace, machine)
        dropped |= gone
    if dropped.any():
        trace = _without(trace, dropped)
    if model.balance:
        trace = balanced(trace, machine)
    return trace, dropped


def _without(trace: Trace, dropped: Bools) -> Trace:
    """`trace` without the operands of dropped instructions."""
    keep = np.flatnonzero(~dropped[owners(trace)])
    operands = np.empty((len(keep), len(Operand)), np.int64, order="F")
    for column in range(len(Operand)):
        operands[:, column] = trace.operands[keep, column]
    counts = trace.instructions[:, Inst.OPERANDS]
    counts[dropped] = 0
    trace.instructions[:, Inst.FIRST_OPERAND] = np.cumsum(counts) - counts
    return replace(trace, operands=operands)


def forwarded(trace: Trace, machine: Machine) -> tuple[Trace, Bools]:
    """Rows that the Tensor Engine spreads over the partitions are read from PSUM, without a copy to SBUF.

    A copy is dropped when its source is a PSUM tile of one bank that one matmul of a single row (K = 1) fills, its
    destination is filled by it alone, and only Vector and Scalar instructions read that.
    """
    n, operands = len(trace), trace.operands
    dropped = np.zeros(n, np.bool_)
    copies = np.flatnonzero(trace.column(Inst.OPCODE) == BY_NAME["tensor_copy"].code)
    copies = copies[trace.instructions[copies, Inst.OPERANDS] == 2]
    if not len(copies):
        return trace, dropped
    owner, buffer, flags = owners(trace), operands[:, Operand.BUFFER], operands[:, Operand.FLAGS]
    count = len(trace.buffers)
    columns = tiles_of(trace.buffers)
    size = columns.size
    psum, sbuf = columns.psum & (size <= machine.psum_bank_bytes), columns.sbuf & ~columns.placed
    writes, reads = (flags & 1) != 0, (flags & 2) != 0
    writers = np.bincount(buffer[writes], minlength=count)
    single = (trace.column(Inst.OPCODE) == BY_NAME["nc_matmul"].code) & (trace.column(Inst.PARTITIONS) == 1)
    by_single = np.zeros(count, np.bool_)
    by_single[buffer[writes & single[owner]]] = True
    engine = trace.column(Inst.ENGINE)
    able = np.isin(engine, (int(Engine.VECTOR), int(Engine.SCALAR)))
    readable = np.ones(count, np.bool_)
    readable[buffer[reads & ~able[owner]]] = False
    first = trace.instructions[copies, Inst.FIRST_OPERAND]
    out, source = operands[first], operands[first + 1]
    out_buffer, source_buffer = out[:, Operand.BUFFER], source[:, Operand.BUFFER]
    whole = (out[:, Operand.BYTE0] == 0) & (out[:, Operand.BYTE1] == size[out_buffer])
    whole &= (source[:, Operand.BYTE0] == 0) & (source[:, Operand.BYTE1] == size[source_buffer])
    fits = whole & (size[out_buffer] == size[source_buffer]) & (out[:, Operand.FLAGS] == 1)
    fits &= psum[source_buffer] & by_single[source_buffer] & (writers[source_buffer] == 1)
    fits &= sbuf[out_buffer] & (writers[out_buffer] == 1) & readable[out_buffer]
    if not fits.any():
        return trace, dropped
    dropped[copies[fits]] = True
    name = np.arange(count)
    name[out_buffer[fits]] = source_buffer[fits]
    moved = np.zeros(count, np.bool_)
    moved[out_buffer[fits]] = True
    trace.instructions[owner[moved[buffer] & reads], Inst.FLAGS] |= Flag.PSUM_SRC
    operands[:, Operand.BUFFER] = name[buffer]
    return trace, dropped


def reused(trace: Trace, machine: Machine) -> tuple[Trace, Bools]:
    """Values that a tile of SBUF still holds are not loaded or computed again.

    Two tiles hold the same value when the same instructions of the same source line (for DMAs: the same transfers)
    fill them from the same values, once and before anyone reads them. What a rolled loop computes is kept only from one
    trip to the next: an invariant moves out of the loop it stands in, not out of those around it. The older tile then
    lives on, as long as SBUF has room for it all the way; otherwise the value is made again.
    """
    n, operands = len(trace), trace.operands
    owner, buffer, flags = owners(trace), operands[:, Operand.BUFFER], operands[:, Operand.FLAGS]
    count = len(trace.buffers)
    columns = tiles_of(trace.buffers)
    in_sbuf, in_hbm, placed = columns.sbuf, columns.hbm, columns.placed
    writes, reads = (flags & 1) != 0, (flags & 2) != 0
    written = np.zeros(count, np.bool_)
    written[buffer[writes]] = True
    last_write, first_write = np.full(count, -1), np.full(count, n)
    np.maximum.at(last_write, buffer[writes], owner[writes])
    np.minimum.at(first_write, buffer[writes], owner[writes])
    first_read, last_use = np.full(count, n), np.full(count, -1)
    np.minimum.at(first_read, buffer[reads], owner[reads])
    np.maximum.at(last_use, buffer, owner)
    constant = in_hbm & ~written
    pure = in_sbuf & ~placed & written & (last_write < first_read)
    pure[buffer[flags == 3]] = False
    outputs = np.bincount(owner[writes], minlength=n)
    level = _sbuf_level(trace, first_write, last_use, in_sbuf)
    step = -(-n // LEVELS)
    # Writers of each pure tile, tiles in the order of their first write.
    rows = np.flatnonzero(writes & pure[buffer])
    rows = rows[np.lexsort((owner[rows], buffer[rows]))]
    borders = np.flatnonzero(np.diff(buffer[rows], prepend=-1))
    ends = np.append(borders[1:], len(rows))
    order = np.argsort(first_write[buffer[rows[borders]]], kind="stable")
    codes = [BY_NAME[k].code for k in ("dma_copy", "dma_transpose") if k in BY_NAME]
    is_dma = np.isin(trace.column(Inst.OPCODE), codes)
    rolled = np.array([loops.rolled for loops in line_loops(trace)], np.bool_)
    find = compiled_reuse.same_values if compiled_reuse.wanted(n) else _same_values
    name, dropped = find(
        trace.instructions, operands, owner, rows, borders, ends, order, outputs == 1, is_dma, constant, pure, rolled,
        last_use, first_write, columns.size, level, step, machine.sbuf_partition_bytes,
    )  # fmt: skip
    if not dropped.any():
        return trace, dropped
    operands[:, Operand.BUFFER] = name[buffer]
    return trace, dropped


def _same_values(
    instructions: Ints, operands: Ints, owner: Ints, rows: Ints, begin: Ints, end: Ints, order: Ints, single: Bools,
    dma: Bools, constant: Bools, pure: Bools, rolled: Bools, last_use: Ints, first_write: Ints, size: Ints, level: Ints,
    step: int, capacity: int,
) -> tuple[Ints, Bools]:  # fmt: skip
    """Names of the buffers when tiles that hold one value become one, and the instructions that fall away.

    `rows[begin[k]:end[k]]` are the writing operands of the k-th tile that is filled once, before anyone reads it; `order`
    sorts those tiles by their first write.
    """
    dropped = np.zeros(len(instructions), np.bool_)
    name = list(range(len(last_use)))
    table, rectangles = instructions.tolist(), operands.tolist()
    one_output, is_dma, in_rolled = single.tolist(), dma.tolist(), rolled.tolist()
    stable, clean = constant.tolist(), pure.tolist()
    uses, begins, sizes = last_use.tolist(), first_write.tolist(), size.tolist()
    owner_list, row_list = owner.tolist(), rows.tolist()
    values: dict[Any, int] = {}
    last_made: dict[int, int] = {}
    for k in order.tolist():
        key: list[Any] = []
        mine = row_list[begin[k] : end[k]]
        tile = rectangles[mine[0]][Operand.BUFFER]
        for row in mine:
            i = owner_list[row]
            if not one_output[i]:
                break
            entry = table[i]
            inputs = []
            for r in rectangles[entry[Inst.FIRST_OPERAND] : entry[Inst.FIRST_OPERAND] + entry[Inst.OPERANDS]]:
                if r[Operand.FLAGS] == 2:
                    if not (stable[r[Operand.BUFFER]] or clean[r[Operand.BUFFER]]):
                        break
                    area = (r[Operand.ROW1] - r[Operand.ROW0]) * (r[Operand.BYTE1] - r[Operand.BYTE0])
                    if is_dma[i] and area != entry[Inst.BYTES]:
                        break  # a strided view: its rectangle doesn't say which of the bytes it means
                    inputs.append((name[r[Operand.BUFFER]], *r[Operand.ROW0 :]))
            else:
                line = -1 if is_dma[i] else entry[Inst.LINE]
                what = (entry[Inst.OPCODE], line, entry[Inst.FREE], entry[Inst.AUX], entry[Inst.FLAGS])
                key.append((what, *rectangles[row][Operand.ROW0 :], *inputs))
                continue
            break
        else:
            found = tuple(key)
            older = values.get(found)
            source = -1 if is_dma[owner_list[mine[0]]] else table[owner_list[mine[0]]][Inst.LINE]
            made_last = last_made.get(source) if source >= 0 and in_rolled[source] else older
            last_made[source] = tile
            if older is None or made_last != older:
                values[found] = tile
                continue
            if not _keep(level, step, uses[older], begins[tile], sizes[older], capacity):
                values[found] = tile
                continue
            last_made[source] = older
            name[tile] = older
            uses[older] = max(uses[older], uses[tile])
            for row in mine:
                dropped[owner_list[row]] = True
    return np.array(name), dropped


def _sbuf_level(trace: Trace, first: Ints, last: Ints, in_sbuf: Bools) -> Ints:
    """SBUF bytes per partition in use at each of `LEVELS` steps of the trace (the fullest of each step's tiles)."""
    step = -(-len(trace) // LEVELS)
    change = np.zeros(LEVELS + 2, np.int64)
    sizes = tiles_of(trace.buffers).size
    used = np.flatnonzero(in_sbuf & (last >= 0))
    np.add.at(change, np.minimum(first[used], last[used]) // step, sizes[used])
    np.add.at(change, last[used] // step + 1, -sizes[used])
    return np.cumsum(change)


def _keep(level: Ints, step: int, last: int, again: int, size: int, capacity: int) -> bool:
    """Keep `size` bytes from instruction `last` to `again` if there is room for them throughout."""
    low, high = last // step + 1, again // step
    if low >= high:
        return True
    span = level[low:high]
    if int(span.max()) + size > capacity:
        return False
    span += size
    return True


def balanced(trace: Trace, machine: Machine) -> Trace:
    """Copies and tensor_scalar go to whichever of Vector and Scalar has had less to do so far; on NC-v2 all to Scalar."""
    rows = np.flatnonzero(
        np.isin(trace.column(Inst.OPCODE), [BY_NAME[name].code for name in ("tensor_copy", "tensor_scalar")])
        & (trace.column(Inst.ENGINE) == Engine.VECTOR)
        & ((trace.column(Inst.FLAGS) & (Flag.INTEGER | Flag.PINNED)) == 0)
    )
    if not len(rows):
        return trace
    if machine.scalar_takes_copies:
        return _on_scalar(trace, rows)
    cost = costs(trace, machine)
    on_vector, on_scalar = cost.issue_ns, np.zeros(len(trace))
    on_scalar[rows] = issue_on(trace, machine, rows, Engine.SCALAR)
    movable = np.zeros(len(trace), np.bool_)
    # What a fast mode of the Vector Engine does in a fraction of the time stays there.
    movable[rows] = on_scalar[rows] <= WORTH_MOVING * on_vector[rows]
    engine = cost.engine
    active = np.flatnonzero(movable | np.isin(engine, (int(Engine.VECTOR), int(Engine.SCALAR))) & ~cost.is_dma)
    share = compiled_reuse.shared_out if compiled_reuse.wanted(len(trace)) else _shared_out
    moved = active[share(engine[active], movable[active], on_vector[active], on_scalar[active])]
    return _on_scalar(trace, moved) if len(moved) else trace


def _on_scalar(trace: Trace, rows: Ints) -> Trace:
    trace.instructions[rows, Inst.ENGINE] = Engine.SCALAR
    return trace


def _shared_out(engine: Ints, movable: Bools, on_vector: Floats, on_scalar: Floats) -> Bools:
    """Whether each instruction goes to the Scalar Engine because Vector has had more to do so far."""
    moved = np.zeros(len(engine), np.bool_)
    busy = {int(Engine.VECTOR): 0.0, int(Engine.SCALAR): 0.0}
    for k, (unit, move, vector, scalar) in enumerate(
        zip(engine.tolist(), movable.tolist(), on_vector.tolist(), on_scalar.tolist())
    ):
        if move and busy[2] + scalar < busy[1] + vector:
            moved[k] = True
            busy[2] += scalar
        else:
            busy[unit] += vector
    return moved
