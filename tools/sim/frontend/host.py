"""Kernels that ordinary Python imports: `install()` puts the language modules where `import nki` finds them.

`load_kernel` needs none of this: it serves the language to kernel source privately. This is for programs and test suites
that import their kernels themselves and have no vendor wheel.
"""

from __future__ import annotations

import builtins
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import numpy as np

from tools.sim.frontend import host_dtypes
from tools.sim.frontend.modules import all_modules, make

_OURS = str(Path(__file__).resolve().parents[1])
_FOREIGN = tuple({p for k in ("stdlib", "platstdlib", "purelib", "platlib") if (p := sysconfig.get_path(k))})


class HostFiles(set[str]):
    """The files whose lines count as kernel source when Python imported the kernel: all but ours and the libraries'."""

    def __init__(self, first: str) -> None:
        super().__init__({first})
        self.others: set[str] = set()

    def __contains__(self, file: object) -> bool:
        if set.__contains__(self, file):
            return True
        if file in self.others or not isinstance(file, str):
            return False
        if file.startswith(("<", _OURS, *_FOREIGN)):
            self.others.add(file)
            return False
        self.add(file)
        return True


SIMULATOR_PACKAGE = "nki_cpu_simulator"
"""Name of the package under which one public test harness looks for a simulator; its `nki` is ours."""


def install() -> None:
    """Serve `nki`, `neuronxcc.nki` and `neuron_dtypes` to every later import of this process."""
    modules = all_modules()
    for name, module in modules.items():
        sys.modules[name] = module
    for name in ("neuronxcc", "neuronxcc.starfish", "neuronxcc.starfish.support"):
        sys.modules.setdefault(name, make(name, "Namespace."))
    types = make("neuron_dtypes", host_dtypes.__doc__ or "", **host_dtypes.members())
    sys.modules["neuron_dtypes"] = sys.modules["neuronxcc.starfish.support.dtype"] = types
    for name in sorted(sys.modules):
        parent, _, leaf = name.rpartition(".")
        if name in modules and parent in modules and leaf not in vars(modules[parent]):
            setattr(modules[parent], leaf, modules[name])
    for kind in host_dtypes.PACKED:  # NumPy learns the names, as it learns ml_dtypes' by its import
        np.sctypeDict[str(kind)] = host_dtypes.host_dtype(kind)  # type: ignore[assignment]
    builtin = make("builtin", "Names that kernels may use without an import.")
    builtins.builtin = builtin  # type: ignore[attr-defined]
    _alias_simulator(modules, builtin)


def _alias_simulator(modules: dict[str, ModuleType], builtin: ModuleType) -> None:
    """The same modules once more, below `SIMULATOR_PACKAGE`."""
    package = make(SIMULATOR_PACKAGE, "The simulator under the name that a public test harness imports.")
    package.__dict__["nki"] = modules["nki"]
    sys.modules[SIMULATOR_PACKAGE] = package
    for name, module in modules.items():
        if name.split(".")[0] == "nki":
            sys.modules[f"{SIMULATOR_PACKAGE}.{name}"] = module
    modules["nki"].__dict__["builtin"] = builtin
    modules["nki.language"].__dict__["dtypes"] = modules["nki.dtype"]
    sys.modules[f"{SIMULATOR_PACKAGE}.nki.builtin"] = builtin
    sys.modules[f"{SIMULATOR_PACKAGE}.nki.language.dtypes"] = modules["nki.dtype"]
