"""Runs one instruction (or a few) on tiles: loads arrays into SBUF, executes the statements, stores the results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tools.sim import Diagnostic, KernelError, SimResult, load_source, simulate

Shape = tuple[int, ...]


def source(statements: str, inputs: dict[str, Any], outs: dict[str, tuple[Shape, str]], psum: tuple[str, ...]) -> str:
    """A kernel around `statements`: every input and output is a tile of its name."""
    lines = ["import nki", "import nki.language as nl", "import nki.isa as nisa", "import numpy as np", "", "@nki.jit"]
    lines.append(f"def kernel({', '.join(f'h_{n}' for n in inputs)}):")
    for name in inputs:
        lines.append(f"    {name} = nl.ndarray(h_{name}.shape, dtype=h_{name}.dtype, buffer=nl.sbuf)")
        lines.append(f"    nisa.dma_copy({name}, h_{name})")
    for name, (shape, dtype) in outs.items():
        if name not in inputs:
            where = "nl.psum" if name in psum else "nl.sbuf"
            lines.append(f"    {name} = nl.ndarray({shape}, dtype=nl.{dtype}, buffer={where}, name='{name}')")
    lines += [f"    {s}" for s in statements.strip().splitlines()]
    for name, (shape, dtype) in outs.items():
        staged = name
        if name in psum:
            staged = f"s_{name}"
            lines.append(f"    {staged} = nl.ndarray({shape}, dtype=nl.{dtype}, buffer=nl.sbuf)")
            lines.append(f"    nisa.tensor_copy({staged}, {name})")
        lines.append(f"    o_{name} = nl.ndarray({shape}, dtype=nl.{dtype}, buffer=nl.shared_hbm)")
        lines.append(f"    nisa.dma_copy(o_{name}, {staged})")
    lines.append(f"    return {', '.join(f'o_{n}' for n in outs) or 'None'}")
    return "\n".join(lines) + "\n"


def execute(
    statements: str,
    inputs: dict[str, Any],
    outs: dict[str, tuple[Shape, str]],
    psum: tuple[str, ...] = (),
    **options: Any,
) -> SimResult:
    """Run `statements`; options go to `simulate`."""
    return simulate(load_source(source(statements, inputs, outs, psum)), *inputs.values(), **options)


def outputs(
    statements: str,
    inputs: dict[str, Any],
    outs: dict[str, tuple[Shape, str]],
    psum: tuple[str, ...] = (),
    **options: Any,
) -> list[np.ndarray]:
    """The output arrays of `statements`."""
    return list(execute(statements, inputs, outs, psum, **options).outputs)


def one(
    statements: str,
    inputs: dict[str, Any],
    shape: Shape,
    dtype: str = "float32",
    psum: tuple[str, ...] = (),
    **options: Any,
) -> np.ndarray:
    """The one output, called `dst`."""
    return outputs(statements, inputs, {"dst": (shape, dtype)}, psum, **options)[0]


def refused(
    statements: str,
    inputs: dict[str, Any],
    outs: dict[str, tuple[Shape, str]],
    code: str,
    psum: tuple[str, ...] = (),
    **options: Any,
) -> Diagnostic:
    """The diagnostic that stops `statements`, which must carry `code`, a source line and a message."""
    with pytest.raises(KernelError) as caught:
        execute(statements, inputs, outs, psum, **options)
    found = caught.value.diagnostic
    assert found.code == code, str(found)
    assert found.where is not None
    assert found.where.text
    assert found.message
    return found
