"""The kernel library: verified kernels of our own as data. Drafts that an agent starts from, examples that a reader learns from.

A kernel is a folder `kernels/<op>/` with `kernel.py`, `reference.py` and `task.toml`; folders without a `task.toml` are
not part of the library.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tools.generate.specify import tolerance_for
from tools.task import Frozen, Goal, Kernel, Reference, Target, Task, TensorSpec, Tolerance

KERNELS = Path(__file__).resolve().parent.parent / "kernels"


class LibraryError(ValueError):
    """There is no such kernel or shape, or its `task.toml` is malformed; the message is one sentence."""


class _Input(Frozen):
    name: str
    shape: tuple[int | str, ...]
    dtype: str = ""
    distribution: str = "normal"


class _Card(Frozen):
    """`task.toml` as it stands in the file."""

    description: str
    request: str
    inputs: tuple[_Input, ...]
    shapes: tuple[dict[str, int | str], ...] = Field(min_length=1)
    function: str = "kernel"
    reference: str = "reference"
    target: Target = "trn2"
    goal: str = "correct"
    precision: str = "storage"
    output_dtypes: tuple[str, ...] = ()
    tolerance: Tolerance | None = None


@dataclass(frozen=True, slots=True)
class LibraryEntry:
    """One kernel of the library.

    Attributes:
        shapes: labels of the sizes that it is verified with, the realistic ones first.
    """

    op: str
    description: str
    request: str
    shapes: tuple[str, ...]


def library() -> list[LibraryEntry]:
    """All kernels of the library by name.

    Raises:
        LibraryError: a `task.toml` is malformed.
    """
    found = []
    for path in sorted(KERNELS.glob("*/task.toml")):
        card = _card(path.parent.name)
        labels = tuple(str(s.get("label", i)) for i, s in enumerate(card.shapes))
        found.append(LibraryEntry(path.parent.name, card.description, card.request, labels))
    return found


def load(op: str, shape: str | None = None, target: Target | None = None) -> tuple[Kernel, Task]:
    """A kernel of the library and the task that it solves.

    Args:
        op: name of its folder.
        shape: label of the sizes; None: the first, realistic ones.
        target: None: the one that its card names.

    Raises:
        LibraryError: no such kernel or shape.
    """
    card = _card(op)
    sizes = _sizes(op, card, shape)
    kind = str(sizes.get("dtype", "float32"))
    inputs = tuple(
        TensorSpec(name=t.name, shape=_shape(op, t, sizes), dtype=t.dtype or kind, distribution=t.distribution)
        for t in card.inputs
    )
    folder = KERNELS / op
    words = ", ".join(f"{t.name} {'x'.join(map(str, t.shape))}" for t in inputs)
    kinds = card.output_dtypes or (inputs[0].dtype,)
    task = Task(
        name=op,
        request=f"{card.request}, {words}, {kind}",
        reference=Reference(
            source=(folder / "reference.py").read_text(encoding="utf-8"), function=card.reference, origin="library"
        ),
        inputs=inputs,
        output_dtypes=card.output_dtypes,
        target=target or card.target,
        goal=Goal.parse(card.goal),
        tolerance=card.tolerance or tolerance_for([*(t.dtype for t in inputs), *kinds]),
        precision="fp32" if card.precision == "fp32" else "storage",
    )
    return Kernel(source=(folder / "kernel.py").read_text(encoding="utf-8"), function=card.function), task


@cache
def _card(op: str) -> _Card:
    path = KERNELS / op / "task.toml"
    if not path.is_file() or path.parent.parent != KERNELS:
        names = ", ".join(sorted(p.parent.name for p in KERNELS.glob("*/task.toml")))
        raise LibraryError(f"the library has no kernel {op!r}; it has {names}")
    try:
        return _Card(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise LibraryError(f"kernels/{op}/task.toml is malformed: {error}") from error


def _sizes(op: str, card: _Card, shape: str | None) -> Mapping[str, int | str]:
    if shape is None:
        return card.shapes[0]
    for i, sizes in enumerate(card.shapes):
        if str(sizes.get("label", i)) == shape:
            return sizes
    labels = ", ".join(str(s.get("label", i)) for i, s in enumerate(card.shapes))
    raise LibraryError(f"{op} has no shape {shape!r}; it has {labels}")


def _shape(op: str, tensor: _Input, sizes: Mapping[str, Any]) -> tuple[int, ...]:
    try:
        return tuple(n if isinstance(n, int) else int(sizes[n]) for n in tensor.shape)
    except KeyError as error:
        raise LibraryError(f"kernels/{op}/task.toml gives no size {error} for input {tensor.name}") from None
