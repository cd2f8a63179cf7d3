"""The intermediate values of a NumPy reference, and whether a kernel's tile holds one of them.

A reference is rewritten so that it keeps what its expressions give. A tile agrees with such a step when it is a block of
it: every tile element lies at one place of the step, and the places follow the tile's axes with one step width each. So
slices, transposes, repeated rows and flattened blocks are recognised, whatever the tiling.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_ARRAYS = 4096
"""Values that are kept; in a loop one expression gives many."""
MOST_ELEMENTS = 1 << 22
"""Elements of a step that is kept, and a fourth of what all of them may hold."""
CLOSE = 3e-5
"""Relative distance within which values are the same: the reference's come as float32, activations are computed so."""
PLACES = 12
"""Elements of a step that one tile element is compared with; a value that occurs more often says too little."""
BASES = 5
"""Tile elements from which a block is looked for, where one occurs too often."""
SAMPLES = 48
MOST_TEXT = 60

_WRAPPED = (ast.Call, ast.BinOp, ast.UnaryOp, ast.Subscript, ast.Attribute)
_KEEP, _STEPS = "_kernelwright_keep", "_kernelwright_steps"

_FRAME = f"""
_kernelwright_kept = []
_kernelwright_size = [0]


def {_KEEP}(value, index):
    if getattr(value, "ndim", 0) > 0 and value.dtype.kind == "f" and 1 < value.size <= {MOST_ELEMENTS}:
        _kernelwright_size[0] += value.size
        if len(_kernelwright_kept) < {MOST_ARRAYS} and _kernelwright_size[0] <= {4 * MOST_ELEMENTS}:
            _kernelwright_kept.append((index, value.copy()))
        else:
            _kernelwright_size[0] = {4 * MOST_ELEMENTS}
    return value


def {_STEPS}(*inputs):
    import numpy

    _kernelwright_kept.clear()
    _kernelwright_size[0] = 0
    FUNCTION(*inputs)
    numbers = [index for index, _ in _kernelwright_kept]
    full = len(numbers) == {MOST_ARRAYS} or _kernelwright_size[0] >= {4 * MOST_ELEMENTS}
    return (numpy.array([*numbers, -2 if full else -1], "int64"), *[value for _, value in _kernelwright_kept])
"""


@dataclass(frozen=True, slots=True)
class Instrumented:
    """A reference that returns its steps.

    Attributes:
        source, function: the rewritten module and what to call in it; its first output numbers the others.
        texts: expression and line by number.
    """

    source: str
    function: str
    texts: tuple[tuple[str, int], ...]

    def steps(self, outputs: Sequence[NDArray[Any]]) -> list[Step]:
        """The steps in what `function` returned; none when there were too many to keep them all.

        What an expression gives in a loop, run after run, becomes one step with the runs along the first axis.
        """
        numbers = np.asarray(outputs[0]).astype(np.int64).tolist()
        if numbers[-1] < -1:
            return []
        runs: dict[int, list[Array]] = {}
        for k, value in zip(numbers, outputs[1:]):
            runs.setdefault(k, []).append(np.asarray(value, np.float64))
        found = []
        for k, values in runs.items():
            alike = len(values) > 1 and all(v.shape == values[0].shape for v in values)
            found += [Step(*self.texts[k], v) for v in ([np.stack(values)] if alike else values)]
        return found


@dataclass
class Step:
    """One intermediate value of the reference.

    Attributes:
        text: its expression, shortened; an input's name.
        line: line of the reference; 0 for inputs.
        values: the array.
    """

    text: str
    line: int
    values: Array
    _order: Ints | None = field(default=None, repr=False)

    @property
    def order(self) -> Ints:
        """Places of the flat values in ascending order of value."""
        if self._order is None:
            self._order = np.argsort(self.values.reshape(-1), kind="stable")
        return self._order

    def places(self, value: float) -> Ints:
        """Flat places that hold `value`, at most `PLACES` + 1 of them."""
        flat, order = self.values.reshape(-1), self.order
        slack = CLOSE * abs(value)
        low = int(np.searchsorted(flat, value - slack, "left", sorter=order))
        high = int(np.searchsorted(flat, value + slack, "right", sorter=order))
        return order[low : min(high, low + PLACES + 1)]

    def holds(self, tile: Array) -> bool:
        """Whether `tile` (any shape, at least two different values) is a block of this step."""
        if tile.size > self.values.size * 128 or not np.isfinite(tile).all():
            return False
        flat = self.values.reshape(-1)
        axes = [axis for axis, size in enumerate(tile.shape) if size > 1]
        for base in _bases(tile):
            starts = self.places(float(tile[base]))
            if not len(starts):
                return False
            if len(starts) > PLACES:
                continue
            for start in starts.tolist():
                widths = [self._widths(tile, base, axis, start) for axis in axes]
                for chosen in product(*widths):
                    if _fits(tile, flat, base, start, axes, chosen):
                        return True
        return False

    def _widths(self, tile: Array, base: Sequence[Any], axis: int, start: int) -> list[int]:
        """How far the neighbour of `base` along an axis may lie from it in this step."""
        way = 1 if int(base[axis]) + 1 < tile.shape[axis] else -1
        there = [int(k) for k in base]
        there[axis] += way
        found = {way * (place - start) for place in self.places(float(tile[tuple(there)])).tolist()}
        return sorted(found, key=abs)[:PLACES]


def _bases(tile: Array) -> list[tuple[Any, ...]]:
    """Elements to look for: the largest, and some others, because the largest may be as often there as there are rows."""
    flat = np.abs(tile.reshape(-1))
    picks = [int(flat.argmax()), *np.random.default_rng(1).integers(0, flat.size, BASES - 1).tolist()]
    return [np.unravel_index(k, tile.shape) for k in dict.fromkeys(picks) if flat[k] > 0]


def _fits(tile: Array, flat: Array, base: Sequence[Any], start: int, axes: list[int], widths: Sequence[int]) -> bool:
    """Whether a sample of the tile, and its corners, lie in `flat` where `widths` say."""
    rng = np.random.default_rng(0)
    index = np.stack([rng.integers(0, tile.shape[axis], SAMPLES) for axis in range(tile.ndim)])
    ends = np.array(list(product(*[(0, size - 1) for size in tile.shape]))).T
    index = np.concatenate([index, ends], axis=1)
    place = np.full(index.shape[1], start, np.int64)
    for axis, width in zip(axes, widths):
        place += (index[axis] - int(base[axis])) * width
    if place.min() < 0 or place.max() >= len(flat):
        return False
    here, there = tile[tuple(index)], flat[place]
    scale = float(np.abs(there).max())
    return bool((np.abs(here - there) <= 4 * CLOSE * np.abs(there) + 1e-6 * scale).all())


def instrumented(source: str, function: str) -> Instrumented:
    """Rewrite a reference so that it returns the values of its expressions.

    Args:
        source: its module.
        function: the function in it that is the reference.

    Raises:
        SyntaxError: the module can't be read.
    """
    tree = ast.parse(source)
    writer = _Writer()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = [writer.visit(statement) for statement in node.body]
    text = ast.unparse(ast.fix_missing_locations(tree)) + "\n" + _FRAME.replace("FUNCTION", function)
    return Instrumented(text, _STEPS, tuple(writer.texts))


class _Writer(ast.NodeTransformer):
    """Wraps each expression that may give an array."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, int]] = []

    def generic_visit(self, node: ast.AST) -> ast.AST:
        text = ast.unparse(node) if isinstance(node, _WRAPPED) else ""
        for name, value in ast.iter_fields(node):
            if name in ("targets", "target", "slice", "annotation", "decorator_list", "args_defaults"):
                continue
            if name == "func" and isinstance(value, ast.Attribute):
                value.value = self.visit(value.value)
            elif isinstance(value, ast.AST) and name != "func":
                setattr(node, name, self.visit(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])
        if not isinstance(node, _WRAPPED) or not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            return node
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr != "T":
            return node  # np.pi, x.shape
        self.texts.append((text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 3] + "...", node.lineno))
        return ast.Call(ast.Name(_KEEP, ast.Load()), [node, ast.Constant(len(self.texts) - 1)], [])


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a tile holds: a step of the reference, maybe up to sign, reciprocal or a factor (`how`)."""

    step: Step
    how: str

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.how}`{self.step.text}`"


def agreement(tile: Array, steps: Iterable[Step], factors: Sequence[float] = ()) -> Agreement | None:
    """The step that `tile` agrees with: exactly, else up to its sign, as its reciprocal, or up to one of `factors`."""
    steps = list(steps)
    with np.errstate(all="ignore"):
        forms = [("", tile), ("-", -tile), ("1 / ", 1.0 / tile)]
        forms += [(f"{factor:g} times ", tile / factor) for factor in factors]
    for how, values in forms:
        for step in steps:
            if step.holds(values):
                return Agreement(step, how)
    return None
