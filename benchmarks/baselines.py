"""NKIBench's own baseline kernels and NumPy references, run from a checkout of zhang677/AccelOpt beside the project.

Nothing of that repository is kept here. Its inputs, references and shape changes are functions of its reference modules:
`get_inputs`, `forward`, and where needed `transform_to_nki_inputs` and `transform_nki_outputs`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tools.sim import load_kernel, simulate

CHECKOUT = "zhang677+AccelOpt"
TARGET = "trn1"
"""What the published latencies of these kernels were measured on."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One baseline: a kernel file and the module of its reference.

    Attributes:
        name: NKIBench's name without the sizes.
    """

    name: str
    kernel: Path
    module: Path

    def case(self) -> BaselineCase:
        """The baseline with inputs drawn, ready to run."""
        return BaselineCase(self)


class BaselineCase:
    """A baseline and one draw of its inputs at full size."""

    def __init__(self, baseline: Baseline) -> None:
        module = _module(baseline.module)
        np.random.seed(0)  # the reference modules draw from the global generator
        self._values: list[Any] = list(module.get_inputs())
        self._forward: Callable[..., Any] = module.forward
        to_kernel = getattr(module, "transform_to_nki_inputs", list)
        self._arguments = [np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a for a in to_kernel(self._values)]
        self._back: Callable[[Any, Any], Any] | None = getattr(module, "transform_nki_outputs", None)
        self._kernel = load_kernel(baseline.kernel, "kernel")

    def reference(self) -> tuple[Any, ...]:
        """What NumPy gives."""
        found = self._forward(*self._values)
        return found if isinstance(found, tuple) else (found,)

    def simulate(self, data: bool = True) -> Any:
        """The simulator's result, its time computed."""
        result = simulate(self._kernel, *self._arguments, target=TARGET, data=data)
        result.latency_us  # noqa: B018 - computing it is part of the work
        return result

    def outputs(self, result: Any, wanted: tuple[Any, ...]) -> Sequence[Any]:
        """The kernel's outputs in the reference's shapes."""
        got = tuple(result.outputs)
        return list(self._back(got, wanted)) if self._back else got


def find(repos: Path) -> tuple[Baseline, ...]:
    """The baselines of a checkout.

    Args:
        repos: folder that holds checkouts named `owner+name`.

    Raises:
        SystemExit: the checkout isn't there, or a kernel has no reference.
    """
    folder = repos / CHECKOUT / "NKIBench"
    kernels = sorted((folder / "kernels").glob("*_0.py"))
    if not kernels:
        raise SystemExit(
            f"no baseline kernels in {folder / 'kernels'}; check out zhang677/AccelOpt as {repos / CHECKOUT}"
        )
    found = []
    for kernel in kernels:
        stem = kernel.stem.removesuffix("_0")
        modules = sorted((folder / "reference").glob(f"{stem}_numpy_*.py"))
        if not modules:
            raise SystemExit(f"{kernel.name} has no reference {stem}_numpy_*.py in {folder / 'reference'}")
        found.append(Baseline(re.split(r"_[A-Z]+\d", stem)[0], kernel, modules[-1]))
    return tuple(found)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"baseline_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
