"""A task made concrete for the judge: hidden draws, wanted outputs, output shapes, roofline. Refuses tasks without a verdict.

A task can be judged only if a kernel that does nothing, returns a constant, copies an input or ignores one fails.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from tools import draws
from tools.compare import passes, root_mean_square
from tools.confinement import Limits
from tools.generate.graph import Graph
from tools.roofline import Roofline, output_types, roofline
from tools.sandbox import JobFailed, Worker, rounded
from tools.task import Task, TensorSpec
from tools.task_errors import RequestError
from tools.wire import WireError, storage_type

Arrays = Sequence[NDArray[np.generic]]
LARGEST_TASK_BYTES = 4 << 30
MOST_TENSORS = 32
KEPT_TASKS = 4
KEPT_BYTES = 1 << 30
"""Draws and references of a few tasks are kept, up to this much, because a run judges many kernels of one task."""
CHEAP_FLOPS = 4e9
"""Tasks below this are computed in float64; a larger reference in float32 is exact enough for their tolerances."""
LARGE_ELEMENTS = 1 << 22
"""Likewise for tasks whose largest tensor has more elements."""

FRESH = "draw 1"
"""Label of the draw that is made anew for each kernel."""

REFERENCE_LIMITS = Limits(seconds=120.0, memory_bytes=12 << 30, result_bytes=6 << 30)


@dataclass(slots=True)
class Known:
    """One draw with what the reference makes of it."""

    draw: draws.Draw
    wanted: Arrays

    @property
    def nbytes(self) -> int:
        """Memory it holds."""
        return sum(a.nbytes for a in (*self.draw.arrays, *self.wanted))


@dataclass(slots=True)
class Specification:
    """What the judge knows about a task beside the task itself.

    Attributes:
        shapes: of the outputs.
        dtypes: storage types of the outputs.
        roofline: lower bounds of the time.
        staged: the task is large, so a kernel meets one fresh draw first, and the standing ones only once it passed that.
        standing: draws that are used for every kernel of this task; `standing_draws` makes them when they are needed.
        remarks: what the user should know about the tests; complete once the standing draws are made.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    roofline: Roofline
    precision: str
    staged: bool = False
    standing: list[Known] = field(default_factory=list)
    remarks: tuple[str, ...] = ()
    _unmet: Known | None = None
    """A draw that the task was looked at with and that no kernel has met."""
    _complete: bool = False
    _making: threading.Lock = field(default_factory=threading.Lock)

    def take_unmet(self) -> Known | None:
        """The draw that no kernel has met, the first time."""
        with self._making:
            found, self._unmet = self._unmet, None
        return found

    def standing_draws(self, task: Task, worker: Worker) -> list[Known]:
        """The standing draws, made at the first call.

        Raises:
            JobFailed: the reference was stopped.
        """
        with self._making:
            if not self._complete:
                _add_standing(task, self, worker, draws.rng())
                self._complete = True
        return self.standing


_known: OrderedDict[str, Specification] = OrderedDict()
_lock = threading.Lock()


def specification(task: Task, worker: Worker) -> Specification:
    """The specification of `task`, from memory when this process has made it before.

    Raises:
        RequestError: the task can't be judged; the message says why and what to change.
    """
    with _lock:
        found = _known.get(task.digest)
        if found is not None:
            _known.move_to_end(task.digest)
            return found
    found = _make(task, worker)
    with _lock:
        _known[task.digest] = found
        while len(_known) > KEPT_TASKS:
            _known.popitem(last=False)
    return found


def fresh(task: Task, spec: Specification, worker: Worker) -> Known:
    """A draw that no kernel has met, with its wanted outputs."""
    unmet = spec.take_unmet()
    if unmet is not None:
        return unmet
    draw = draws.Draw(FRESH, draws.plain(task.inputs, draws.rng()))
    return Known(draw, _reference(task, worker, [draw.arrays], spec.precision)[0])


def _make(task: Task, worker: Worker) -> Specification:
    _check_declared(task)
    generator = draws.rng()
    base, other = (draws.plain(task.inputs, generator) for _ in range(2))
    for i, tensor in enumerate(task.inputs):
        while np.array_equal(base[i], other[i]):  # small integers may come out alike
            other[i] = draws.plain([tensor], generator)[0]
    mixed = [
        [*base[:i], other[i], *base[i + 1 :]] for i in range(len(base)) if len(base) > 1
    ]  # one input changed at a time
    graph = _graph(task, worker)
    outcomes = _reference(task, worker, [base, other], "float32")
    first, second = outcomes
    shapes = tuple(a.shape for a in first)
    kinds = output_types(task, len(first))
    _check_outputs(task, first, kinds)
    limits = roofline(task, shapes, graph)
    precision = "float64" if limits.traced and limits.flops < CHEAP_FLOPS else "float32"
    large = prod(max((*(t.shape for t in task.inputs), *shapes), key=prod)) > LARGE_ELEMENTS
    if large:
        precision = "float32"
    _check_verdict(task, base, first, second)
    if limits.flops < CHEAP_FLOPS:
        _check_inputs_matter(task, first, _reference(task, worker, mixed, "float32") if mixed else [])
    if precision == "float64":
        _check_reachable(task, kinds, first, _reference(task, worker, [base], "float64")[0])
    spec = Specification(shapes, kinds, limits, precision, staged=large)
    if large:
        # References of large tasks take seconds: nothing is prepared that the first draft may not need.
        known = Known(draws.Draw(FRESH, base), first)
        spec._unmet = known if known.nbytes <= KEPT_BYTES else None
    else:
        spec.standing_draws(task, worker)
    return spec


def _add_standing(task: Task, spec: Specification, worker: Worker, generator: np.random.Generator) -> None:
    spec.standing = []  # an interruption may have left a part
    remarks = []
    hard: list[tuple[str, Callable[[], draws.Arrays]]] = [
        ("uneven values", partial(draws.uneven, task.inputs, generator))
    ]
    hard += [("large values", partial(draws.plain, task.inputs, generator, f)) for f in draws.LARGE_FACTORS]
    for label, draw in hard:
        if any(k.draw.label == label for k in spec.standing):
            continue
        arrays = draw()
        wanted = _finite_or_none(task, spec, worker, arrays)
        if wanted is not None:
            spec.standing.append(Known(draws.Draw(label, arrays), wanted))
    taken = {k.draw.label for k in spec.standing}
    for label in ("uneven values", "large values"):
        if label not in taken:
            remarks.append(f"not tested on {label}: the reference itself overflows or leaves its domain there")
    if sum(k.nbytes for k in spec.standing) > KEPT_BYTES:
        spec.standing = spec.standing[:1]
        remarks.append("not tested on large values: the tensors are too large for another draw")
    spec.remarks = tuple(remarks)


def _finite_or_none(task: Task, spec: Specification, worker: Worker, arrays: Arrays) -> Arrays | None:
    """Wanted outputs for a hard draw, or None where the reference gives nothing to compare with in float32."""
    try:
        plain = _reference(task, worker, [arrays], "float32")[0]
    except RequestError:
        return None
    kept = zip(plain, spec.dtypes)
    if tuple(a.shape for a in plain) != spec.shapes or not all(_fits(a, kind) for a, kind in kept):
        return None
    wanted = plain if spec.precision == "float32" else _reference(task, worker, [arrays], spec.precision)[0]
    if not all(_fits(a, kind) for a, kind in zip(wanted, spec.dtypes)):
        return None
    # In float32 the reference must agree with itself, or a correct kernel couldn't be told from a wrong one.
    agreed = all(passes(p, w, task.tolerance) for p, w in zip(plain, wanted))
    return wanted if agreed else None


def _fits(array: NDArray[np.generic], kind: str) -> bool:
    return bool(np.isfinite(rounded(np.asarray(array), kind).astype(np.float32, copy=False)).all())


def _reference(task: Task, worker: Worker, inputs: Sequence[Arrays], precision: str) -> list[list[NDArray[np.generic]]]:
    try:
        return worker.reference(task.reference.source, task.reference.function, inputs, precision, REFERENCE_LIMITS)
    except JobFailed as failure:
        if failure.kind == "stopped":
            raise
        raise RequestError(failure.message) from failure


def _graph(task: Task, worker: Worker) -> Graph | None:
    inputs = [t.model_dump(include={"name", "shape", "dtype"}) for t in task.inputs]
    try:
        return Graph.from_json(worker.trace(task.reference.source, task.reference.function, inputs))
    except JobFailed as failure:
        if failure.kind in ("beyond", "request"):  # what is wrong with it is said when it runs on numbers
            return None
        if failure.kind == "stopped":
            raise
        raise RequestError(failure.message) from failure


# -- what makes a task unfit ---------------------------------------------------------------------------------------------


def _check_declared(task: Task) -> None:
    if not 1 <= len(task.inputs) <= MOST_TENSORS:
        raise RequestError(f"a task needs 1 to {MOST_TENSORS} inputs; this one has {len(task.inputs)}")
    for kind in task.output_dtypes:
        _bytes_of(kind)
    check_size(task.inputs)


def check_size(inputs: Sequence[TensorSpec]) -> None:
    """Refuse inputs whose values this machine shouldn't be asked to hold.

    Raises:
        RequestError: together they need more than `LARGEST_TASK_BYTES`, or a type isn't known.
    """
    total = sum(prod(spec.shape) * _bytes_of(spec.dtype) for spec in inputs)
    if total > LARGEST_TASK_BYTES:
        raise RequestError(
            f"the inputs need {total / 2**30:.1f} GiB, the limit is {LARGEST_TASK_BYTES >> 30} GiB; use smaller shapes"
        )


def _bytes_of(kind: str) -> int:
    try:
        return storage_type(kind).itemsize
    except WireError as error:
        raise RequestError(
            f"unknown type {kind!r}; use float32, bfloat16, float16, float8_e4m3, int32 or the like"
        ) from error


def _check_outputs(task: Task, outputs: Arrays, kinds: tuple[str, ...]) -> None:
    if len(kinds) != len(outputs):
        raise RequestError(
            f"the reference returns {len(outputs)} outputs but the task names {len(kinds)} output types; make them agree"
        )
    for i, (value, kind) in enumerate(zip(outputs, kinds)):
        values = np.asarray(value)
        if np.isnan(values).any():
            raise RequestError(
                f"output {i} of the reference holds NaN on ordinary inputs; guard its domain (log, sqrt, division) or "
                "declare the inputs as positive"
            )
        if not np.isfinite(values).all():
            raise RequestError(f"output {i} of the reference holds infinity on ordinary inputs; bound it")
        if not _fits(value, kind):
            raise RequestError(f"output {i} of the reference exceeds the range of {kind}; use a wider output type")


def _check_verdict(task: Task, inputs: Arrays, first: Arrays, second: Arrays) -> None:
    """A kernel that computes nothing must fail on at least one output."""
    if tuple(a.shape for a in first) != tuple(a.shape for a in second):
        raise RequestError("the shapes of the reference's outputs depend on the inputs' values; a kernel's can't")
    for i, (one, two) in enumerate(zip(first, second)):
        values = np.asarray(one)
        scale = root_mean_square(values)
        # A constant is what a kernel could know of other draws: with few elements, each draw has its own.
        other = np.asarray(two).reshape(-1)
        sample = other[:: max(1, other.size // 100_000)].astype(np.float64)
        for constant in {0.0, float(np.median(sample)), float(sample.mean())}:
            if passes(np.broadcast_to(np.float32(constant), values.shape), values, task.tolerance, scale):
                raise RequestError(
                    f"output {i} of the reference is (nearly) the constant {constant:.4g}, so a kernel that computes nothing "
                    "would pass; change the inputs' distribution or return what varies"
                )
        if passes(np.asarray(two), values, task.tolerance, scale):
            raise RequestError(
                f"output {i} of the reference doesn't depend on its inputs' values, so a kernel that ignores them would pass"
            )
        for spec, value in zip(task.inputs, inputs):
            if value.size == values.size and passes(value.reshape(values.shape), values, task.tolerance, scale):
                raise RequestError(
                    f"output {i} of the reference is (nearly) equal to input {spec.name}, so a kernel that copies it would "
                    "pass; return the change itself, or add the operation that is missing"
                )


def _check_inputs_matter(task: Task, base: Arrays, changed: list[list[NDArray[np.generic]]]) -> None:
    for spec, outputs in zip(task.inputs, changed):
        if all(passes(now, before, task.tolerance) for now, before in zip(outputs, base)):
            raise RequestError(
                f"other values of input {spec.name} change no output beyond the tolerance, so a kernel that ignores it would "
                "pass; drop it, or tighten the tolerance"
            )


def _check_reachable(task: Task, kinds: tuple[str, ...], single: Arrays, double: Arrays) -> None:
    for i, (kind, plain, exact) in enumerate(zip(kinds, single, double)):
        if not passes(rounded(np.asarray(exact), kind), exact, task.tolerance):
            raise RequestError(
                f"the tolerance (rtol {task.tolerance.rtol:g}) is tighter than {kind} can store output {i}; loosen it or use a "
                "wider output type"
            )
        if not passes(plain, exact, task.tolerance):
            raise RequestError(
                f"output {i} of the reference in float32 misses its own float64 value by more than the tolerance: the formula "
                "loses precision; rewrite it or loosen the tolerance"
            )
