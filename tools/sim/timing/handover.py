"""Tensors in HBM that pass from one loop nest to the next.

The neuronxcc.nki compiler follows such a tensor as a whole: the nest that reads it starts reading when the nest that
writes it has written everything. Published attention kernels that keep their scores in HBM take the time of their phases
one after the other, not overlapped by row block.
"""

from __future__ import annotations

import numpy as np

from tools.sim.instruction import Inst, Operand, Trace

from .allocation import owners
from .dependence import Edge, Edges
from .line_loops import line_loops
from .tiles import tiles_of


def handed_over(trace: Trace) -> Edges:
    """Waits of each read of an HBM tensor for the last write before it that stands in another loop nest."""
    nest = np.array([loops.outer for loops in line_loops(trace)] or [0])[trace.column(Inst.LINE)]
    operands = trace.operands
    rows = np.flatnonzero(tiles_of(trace.buffers).hbm[operands[:, Operand.BUFFER]])
    owner, buffer, flags = owners(trace)[rows], operands[rows, Operand.BUFFER], operands[rows, Operand.FLAGS]
    writes, reads = (flags & 1) != 0, (flags & 2) != 0
    before, after = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for tensor in np.intersect1d(buffer[writes], buffer[reads]).tolist():
        writers, readers = np.unique(owner[writes & (buffer == tensor)]), np.unique(owner[reads & (buffer == tensor)])
        for place in np.unique(nest[readers]).tolist():
            others, mine = writers[nest[writers] != place], readers[nest[readers] == place]
            found = np.searchsorted(others, mine)
            mine, found = mine[found > 0], found[found > 0]
            before.append(others[found - 1])
            after.append(mine)
    waits = np.concatenate(before)
    return Edges(waits, np.concatenate(after), np.full(len(waits), int(Edge.RESULT)))
