"""The Beta-1 dialect, `neuronxcc.nki`: an adapter over the same instruction set.

APIs return tiles, tensors are subscripted with index expressions, and instructions take masks. Loops run with real
integers. A result's instruction is issued when its destination is known (see `tile`), so the recorded stream is what
the hardware would execute.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tools.sim import context
from tools.sim.frontend import language as common
from tools.sim.frontend.beta1 import allocation, instructions, language, launch
from tools.sim.frontend.beta1.tile import Tile
from tools.sim.frontend.modules import make
from tools.sim.isa import enums

__all__ = ["Tile", "build"]

_ENUMS: dict[str, Any] = {
    name: getattr(enums, name)
    for name in ("engine", "reduce_cmd", "oob_mode", "dge_mode", "nc_version", "matmul_perf_mode")
}
_ENGINES = {f"{e.name}_engine": e for e in enums.engine}


def _hint(function: Any = None, **_: Any) -> Any:
    """A compiler directive as a decorator: it changes no value here."""
    return function if callable(function) else (lambda f: f)


def _compiler() -> ModuleType:
    return make(
        "neuronxcc.nki.compiler",
        "Placement of tensors and compiler directives.",
        sbuf=allocation.sbuf_allocator,
        psum=allocation.psum_allocator,
        skip_middle_end_transformations=_hint,
        enable_stack_allocator=_hint,
        force_auto_alloc=_hint,
        multi_buffer=lambda factor=2: factor,
        no_reorder=common.no_reorder,
        allocation_scope=common.no_reorder,
    )


class UnmodelledModule(ModuleType):
    """A module of the Beta-1 package that isn't modelled: it can be imported, but not used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"

        def call(*args: Any, **kwargs: Any) -> Any:
            context.unsupported(full)

        call.__name__ = name
        return call


def unmodelled(name: str) -> ModuleType:
    """A stand-in for the module `name`."""
    module = UnmodelledModule(name, "Not modelled.")
    module.__path__ = []
    return module


def _close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, **_: Any) -> bool:
    """`neuronxcc.starfish.support.util.allclose`, which test scripts next to kernels import."""
    import numpy as np

    return bool(np.allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=atol))


def build() -> dict[str, ModuleType]:
    """The modules of this dialect by dotted name."""
    top = "neuronxcc.nki"
    nl = make(f"{top}.language", "Tensors, indices, loops and math functions.", **language.MEMBERS)
    nl_constants = make(
        f"{top}.language.constants", "Sizes.", sizeinbytes=language.size_in_bytes, tile_size=common.tile_size
    )
    nl.constants = nl_constants  # type: ignore[attr-defined]
    constants = make(f"{top}.isa.constants", "Enumerations.", **_ENUMS, **_ENGINES)
    nisa = make(f"{top}.isa", "Instructions.", **instructions.INSTRUCTIONS, **_ENUMS, **_ENGINES, constants=constants)
    neuron_isa = make(f"{top}.isa.neuron_isa", "Instructions.", **instructions.INSTRUCTIONS)
    annotation = common.Annotation()
    typing = make(
        f"{top}.typing",
        "Annotations.",
        tensor=annotation,
        mutable_tensor=annotation,
        mutable=annotation,
        scalar=annotation,
    )
    compiler = _compiler()
    nki = make(
        top,
        "Neuron Kernel Interface, Beta 1.",
        jit=launch.jit,
        trace=launch.trace,
        baremetal=launch.baremetal,
        benchmark=launch.benchmark,
        profile=launch.profile,
        simulate_kernel=launch.simulate_kernel,
        language=nl,
        isa=nisa,
        typing=typing,
        compiler=compiler,
        tensor=Tile,
        __version__="2.21",
    )
    neuronxcc = make("neuronxcc", "The Beta-1 compiler package.", nki=nki)
    util = make("neuronxcc.starfish.support.util", "Comparison.", allclose=_close)
    dtype = make("neuronxcc.starfish.support.dtype", "Casts.", static_cast=language.MEMBERS["static_cast"])
    support = make("neuronxcc.starfish.support", "Helpers.", util=util, dtype=dtype)
    starfish = make("neuronxcc.starfish", "Helpers.", support=support)
    neuronxcc.starfish = starfish  # type: ignore[attr-defined]
    modules = (
        neuronxcc, nki, nl, nl_constants, nisa, constants, neuron_isa, typing, compiler, starfish, support, util, dtype,
    )  # fmt: skip
    for name in ("nccl", "kernels"):
        setattr(nki, name, unmodelled(f"{top}.{name}"))
    found = {m.__name__: m for m in modules}
    # a published kernel library spells the constants' module with the short name
    found["nki.language.constants"] = nl_constants
    return found
