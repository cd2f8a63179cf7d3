"""Passes of the Beta-1 compiler model compiled with numba, for long traces; the same results as in `optimising`.

Values are told apart by two 64-bit hashes of what the plain pass keeps as a tuple.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tools.sim.instruction import Inst, Operand

from .compiled import available, compile_function

WORTHWHILE = 150_000
"""Instructions above which compiling the passes pays."""

_OPCODE, _LINE, _FREE, _AUX = int(Inst.OPCODE), int(Inst.LINE), int(Inst.FREE), int(Inst.AUX)
_BYTES, _FLAGS = int(Inst.BYTES), int(Inst.FLAGS)
_FIRST, _COUNT = int(Inst.FIRST_OPERAND), int(Inst.OPERANDS)
_BUFFER, _ACCESS, _ROW0, _ROW1 = int(Operand.BUFFER), int(Operand.FLAGS), int(Operand.ROW0), int(Operand.ROW1)
_BYTE0, _BYTE1, _END = int(Operand.BYTE0), int(Operand.BYTE1), len(Operand)


def wanted(count: int) -> bool:
    """Whether a trace of `count` instructions should use these passes."""
    return count >= WORTHWHILE and available()


def same_values(*columns: Any) -> tuple[Any, Any]:
    """(name of each buffer, dropped instructions): see `_same_values`; needs numba."""
    found = _compiled_values()(*columns)
    return found[0], found[1]


@cache
def _compiled_values() -> Any:
    return compile_function(_same_values)


def _same_values(
    instructions: Any, operands: Any, owner: Any, rows: Any, begins: Any, ends: Any, order: Any, single: Any,
    is_dma: Any, stable: Any, clean: Any, rolled: Any, uses: Any, first: Any, sizes: Any, level: Any, step: int,
    capacity: int,
) -> Any:  # fmt: skip
    """Names of the buffers when tiles that hold one value become one, and the instructions that fall away.

    `rows[begins[k]:ends[k]]` are the writing operands of the k-th tile that is filled once, before anyone reads it;
    `order` sorts those tiles by their first write.
    """
    name = np.arange(len(uses))
    dropped = np.zeros(len(instructions), np.bool_)
    last_made = np.full(len(rolled), -1)
    room = 16
    while room < 2 * len(order) + 2:
        room *= 2
    keys, checks, held = np.zeros(room, np.int64), np.zeros(room, np.int64), np.full(room, -1)
    for k in order:
        tile = operands[rows[begins[k]], _BUFFER]
        one, two, known = np.int64(1469598103934665603), np.int64(88172645463325252), True
        for at in range(begins[k], ends[k]):
            i = owner[rows[at]]
            known = single[i]
            if not known:
                break
            # Every number goes into both hashes: a marker, what is done, where the result goes, what it is made from.
            for column in range(-1, 11):
                if column == -1:
                    value = 7919
                elif column == 0:
                    value = instructions[i, _OPCODE]
                elif column == 1:
                    value = -1 if is_dma[i] else instructions[i, _LINE]
                elif column == 2:
                    value = instructions[i, _FREE]
                elif column == 3:
                    value = instructions[i, _AUX]
                elif column == 4:
                    value = instructions[i, _FLAGS]
                else:
                    value = operands[rows[at], _ROW0 + column - 5]
                one = (one ^ value) * 1099511628211
                two = (two + value) * 6364136223846793005 + 1442695040888963407
                one ^= one >> 29
                two ^= two >> 31
            for r in range(instructions[i, _FIRST], instructions[i, _FIRST] + instructions[i, _COUNT]):
                if operands[r, _ACCESS] != 2:
                    continue
                source = operands[r, _BUFFER]
                area = (operands[r, _ROW1] - operands[r, _ROW0]) * (operands[r, _BYTE1] - operands[r, _BYTE0])
                if not (stable[source] or clean[source]) or (is_dma[i] and area != instructions[i, _BYTES]):
                    known = False
                    break
                for column in range(_ROW0 - 1, _END):
                    value = name[source] if column == _ROW0 - 1 else operands[r, column]
                    one = (one ^ value) * 1099511628211
                    two = (two + value) * 6364136223846793005 + 1442695040888963407
                    one ^= one >> 29
                    two ^= two >> 31
            if not known:
                break
        if not known:
            continue
        slot = one & (room - 1)
        while held[slot] >= 0 and (keys[slot] != one or checks[slot] != two):
            slot = (slot + 1) & (room - 1)
        older = held[slot]
        begun = owner[rows[begins[k]]]
        line = -1 if is_dma[begun] else instructions[begun, _LINE]
        again = older >= 0 and (line < 0 or not rolled[line] or last_made[line] == older)
        if line >= 0:
            last_made[line] = tile
        if again:
            low, high = uses[older] // step + 1, first[tile] // step
            if low < high:
                again = level[low:high].max() + sizes[older] <= capacity
                if again:
                    level[low:high] += sizes[older]
        if not again:
            keys[slot], checks[slot], held[slot] = one, two, tile
            continue
        if line >= 0:
            last_made[line] = older
        name[tile] = older
        uses[older] = max(uses[older], uses[tile])
        for at in range(begins[k], ends[k]):
            dropped[owner[rows[at]]] = True
    return name, dropped


def shared_out(engine: Any, movable: Any, on_vector: Any, on_scalar: Any) -> Any:
    """Whether each instruction goes to the Scalar Engine because Vector has had more to do so far; needs numba."""
    return _compiled_share()(engine, movable, on_vector, on_scalar)


@cache
def _compiled_share() -> Any:
    return compile_function(_shared_out)


def _shared_out(engine: Any, movable: Any, on_vector: Any, on_scalar: Any) -> Any:
    moved = np.zeros(len(engine), np.bool_)
    busy = np.zeros(8)
    for k in range(len(engine)):
        if movable[k] and busy[2] + on_scalar[k] < busy[1] + on_vector[k]:
            moved[k] = True
            busy[2] += on_scalar[k]
        else:
            busy[engine[k]] += on_vector[k]
    return moved
