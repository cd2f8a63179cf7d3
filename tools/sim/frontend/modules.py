"""The language modules by dotted name, built on first use and shared by all kernels of the process."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from tools.sim.tensor import Tensor

_BUILDERS: dict[str, Callable[[], dict[str, ModuleType]]] = {}
_MODULES: dict[str, ModuleType] = {}
_UNMODELLED: dict[str, ModuleType] = {}
"""Modules of the old compiler package that kernels import but that aren't modelled, as far as they were asked for."""


def is_language_module(name: str) -> bool:
    """Whether `name` belongs to a dialect's namespace."""
    top = name.split(".")[0]
    return top in ("nki", "neuronxcc")


def language_module(name: str) -> ModuleType | None:
    """The language module `name`, or None when the dialect has no such module."""
    found = all_modules().get(name) or _UNMODELLED.get(name)
    if found is None and name.startswith("neuronxcc."):
        from tools.sim.frontend.beta1 import unmodelled

        found = _UNMODELLED[name] = unmodelled(name)
    return found


_INSTEAD = {
    "arange": "index with slices and nl.ds(start, size)",
    "mgrid": "index with slices and nl.ds(start, size)",
    "par_dim": "dimension 0 is the partition dimension; a Python list of tiles takes the place of blocks",
    "loop_reduce": "accumulate with nc_matmul into one PSUM tile, or with tensor_tensor into an SBUF tile",
    "spmd_dim": "launch as kernel[2](...)",
}
"""What takes the place of Beta-1 names. Source: NKI migration guide, 0.1 to 0.2."""


def other_dialect(module: str, name: str) -> str:
    """What to do about a name that `module` lacks and its counterpart in the other dialect has; empty if neither has it."""
    counterpart = module.removeprefix("neuronxcc.") if module.startswith("neuronxcc.") else f"neuronxcc.{module}"
    if name not in vars(all_modules().get(counterpart, ModuleType(counterpart))):
        return ""
    instead = "" if counterpart.startswith("nki") else _INSTEAD.get(name, "")
    return f"only {counterpart} has {name}" + (f"; {instead}" if instead else "; keep to the names of one dialect")


def all_modules() -> dict[str, ModuleType]:
    """Every language module of both dialects, by dotted name."""
    if not _MODULES:
        from tools.sim.frontend import beta1, current

        _MODULES.update(current.build())
        _MODULES.update(beta1.build())
    return _MODULES


def tensor_class(dialect: str) -> type[Tensor]:
    """The class of tensors in kernels of `dialect`."""
    if dialect == "nki":
        return Tensor
    from tools.sim.frontend.beta1 import Tile

    return Tile


def make(name: str, doc: str, **members: object) -> ModuleType:
    """A module object with the given members."""
    module = ModuleType(name, doc)
    module.__dict__.update(members)
    module.__path__ = []
    return module
