"""The current dialect, `import nki` (0.2 to 0.6): `nki.language`, `nki.isa` and their neighbours.

ISA calls write their `dst`; the `nl.*` functions are a thin layer that allocates a result and calls the ISA.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from tools.sim import context, dtypes
from tools.sim.errors import KernelError
from tools.sim.frontend import language
from tools.sim.frontend.jit import make_jit
from tools.sim.frontend.modules import make
from tools.sim.isa import (
    collectives,
    control,
    dma,
    enums,
    gather,
    gpsimd,
    microscaling,
    multicore,
    ragged,
    randomness,
    scalar,
    search,
    select,
    tensor,
    vector,
)
from tools.sim.isa.ops import OpHandle
from tools.sim.tensor import Tensor

REMOVED = ("benchmark", "profile", "baremetal", "simulate_kernel", "trace")
"""Beta-1 tools that the current namespace refuses by name (release notes 2.28)."""


class Instruction:
    """What an instruction call gives back: a handle that takes scheduling edges.

    Instructions run in program order here and every data dependence is kept, so an edge changes nothing.
    """

    def depends_on(self, *producers: Any) -> Instruction:
        """Run after `producers`, which must be handles of earlier instructions."""
        for producer in producers:
            if not isinstance(producer, Instruction):
                context.fail(
                    "KW-OPERAND-TYPE",
                    f"depends_on: {type(producer).__name__} is no instruction",
                    fix="pass what an nisa call returned",
                )
        return self


_HANDLE = Instruction()


def _issued(function: Callable[..., None]) -> Callable[..., Instruction]:
    """`function` returning a handle (0.6)."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Instruction:
        try:
            function(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            if not _result_type_given(args, kwargs):
                _wrong_arguments(function, error)
            call(*args, **{k: v for k, v in kwargs.items() if k != "dtype"})
        return _HANDLE

    return call


def _result_type_given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call names the result's type, as early 0.2 kernels do; the type that dst has is what counts."""
    dst = kwargs.get("dst", args[0] if args else None)
    if "dtype" not in kwargs or not isinstance(dst, Tensor):
        return False
    named = kwargs["dtype"]
    if dst.dtype != named:
        message = f"dtype={named} is gone since 0.3; the result has dst's type, {dst.dtype}"
        fix = f"drop dtype=, or allocate dst as {named}"
        context.strict_fail("KW-RESULT-TYPE", message, operand="dtype", found=str(named), limit=str(dst.dtype), fix=fix)
        context.warn("KW-RESULT-TYPE", message, operand="dtype", found=str(named), limit=str(dst.dtype), fix=fix)
    return True


def _wrong_arguments(function: Callable[..., None], error: TypeError) -> NoReturn:
    """Refuse a call that doesn't fit the instruction's parameters."""
    names = ", ".join(n for n in inspect.signature(function).parameters if n != "name")
    context.fail("KW-ARGUMENT", f"nisa.{error}", found=str(error), limit=names, fix=f"its arguments are {names}")


INSTRUCTIONS: tuple[Callable[..., None], ...] = (
    tensor.nc_matmul,
    tensor.nc_transpose,
    microscaling.nc_matmul_mx,
    microscaling.quantize_mx,
    vector.tensor_copy,
    vector.tensor_copy_dynamic_src,
    vector.tensor_copy_dynamic_dst,
    vector.memset,
    vector.tensor_tensor,
    vector.tensor_scalar,
    vector.scalar_tensor_tensor,
    vector.tensor_reduce,
    vector.tensor_scalar_reduce,
    vector.reciprocal,
    vector.bn_stats,
    vector.bn_aggr,
    vector.tensor_copy_predicated,
    vector.tensor_tensor_scan,
    select.range_select,
    select.select_reduce,
    select.tensor_scalar_cumulative,
    select.exponential,
    search.max8,
    search.nc_find_index8,
    search.nc_match_replace8,
    search.topk,
    gather.nc_stream_shuffle,
    gather.local_gather,
    gather.nc_n_gather,
    gather.sequence_bounds,
    gather.nonzero_with_count,
    randomness.dropout,
    randomness.rng,
    randomness.rand2,
    randomness.rand_set_state,
    randomness.rand_get_state,
    randomness.set_rng_seed,
    scalar.activation,
    scalar.activation_reduce,
    scalar.activate2,
    gpsimd.iota,
    gpsimd.affine_select,
    gpsimd.tensor_partition_reduce,
    dma.dma_copy,
    dma.dma_transpose,
    dma.dma_compute,
    multicore.sendrecv,
    multicore.core_barrier,
)
QUERIES: tuple[Callable[..., Any], ...] = (
    control.register_alloc,
    control.register_load,
    control.register_move,
    control.register_store,
    control.get_nc_version,
    control.get_nc_sub_version,
)
ISA: dict[str, Any] = {f.__name__: _issued(f) for f in INSTRUCTIONS} | {f.__name__: f for f in QUERIES}
"""Every instruction of `nki.isa`, by name."""

ENUMS: dict[str, Any] = {
    name: getattr(enums, name)
    for name in ("engine", "reduce_cmd", "oob_mode", "dge_mode", "dma_engine", "matmul_perf_mode", "nc_version")
}
FLAT_ENGINES = {f"{e.name}_engine": e for e in enums.engine}


def _language() -> dict[str, Any]:
    members: dict[str, Any] = {str(d): d for d in dtypes.ALL if d not in ("bool", "int64", "float64")}
    members["bool_"] = members["bool"] = dtypes.bool_
    members.update({name: getattr(language, name) for name in language.PUBLIC})
    members["range"] = language.affine_range
    members["NkiTensor"] = members["tensor"] = Tensor
    members["dtype"] = dtypes.DType
    for name in language.OPERATORS:
        members[name] = OpHandle(name, language.OPERATORS[name])
    return members


class _Annotating(ModuleType):
    """A module that kernels also use as an annotation, alone and in `Optional[...]` or `... | None`."""

    __path__: list[str] = []  # noqa: RUF012 - what makes it a package; never changed

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{self.__name__} is a module")

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__


def build() -> dict[str, ModuleType]:
    """The modules of this dialect by dotted name."""
    nl = make("nki.language", "Tensors, allocation and math functions.", **_language())
    constants = make("nki.isa.constants", "Enumerations.", **ENUMS)
    nisa = make("nki.isa", "Instructions.", **ISA, **ENUMS, **FLAT_ENGINES, constants=constants)
    nisa.NkiInstruction, nisa.NkiValidationError = Instruction, KernelError  # type: ignore[attr-defined]
    nisa.VirtualRegister = control.Register  # type: ignore[attr-defined]
    typing = make("nki.typing", "Annotations.", tensor=language.Annotation(), mutable_tensor=language.Annotation())
    dtype = _Annotating("nki.dtype", "Data types.")
    dtype.__dict__.update({str(d): d for d in dtypes.ALL})
    tensor_module = _Annotating("nki.tensor", "The tensor class.")
    tensor_module.__dict__.update(Tensor=Tensor, NkiTensor=Tensor)
    collective = make("nki.collectives", "Exchanges between ranks.", **collectives.MEMBERS, **ragged.MEMBERS)
    compiler = make("nki.compiler", "Compiler hints.", **language.COMPILER_HINTS)
    nki = make(
        "nki",
        "Neuron Kernel Interface.",
        jit=make_jit("nki"),
        language=nl,
        isa=nisa,
        typing=typing,
        dtype=dtype,
        tensor=tensor_module,
        compiler=compiler,
        collectives=collective,
        simulate=language.simulate,
        cpu_simulate=language.simulate,
        __version__="0.6.0",
    )
    for name in REMOVED:
        nki.__dict__[name] = language.removed(name)
    modules = (nki, nl, nisa, constants, typing, dtype, tensor_module, compiler, collective)
    return {m.__name__: m for m in modules}
