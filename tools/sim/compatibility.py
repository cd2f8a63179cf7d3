"""Which API is complete, partial or refused, and what every argument does; `docs/compatibility.md` is made from it.

`python -m tools.sim.compatibility` prints the page. A test reads the source of each function: an argument that its body
never uses must be listed in `INERT` with the reason, so none is ignored in silence.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tools.sim.frontend import current, language
from tools.sim.frontend.modules import all_modules
from tools.sim.isa import collectives, ragged
from tools.sim.isa.ops import OpHandle
from tools.sim.tensor import Tensor

INERT: dict[str, str] = {
    "name": "a label for people; changes nothing",
    "priority": "DMA queue priority of trn3: a scheduling hint, changes no value",
    "is_stationary_onezero": "speed hint: enters the cost, not the value",
    "is_moving_onezero": "speed hint: enters the cost, not the value",
    "keepdims": "sizes are compared by element count, so both result shapes are accepted",
}
"""Arguments that no value depends on, and why."""

INERT_OF: dict[str, dict[str, str]] = {
    "var": {"keepdims": "documented as ignored: the result always keeps the dimensions"},
    "register_alloc": {"name": INERT["name"]},
}
"""The same for single functions."""

PARTIAL: dict[str, str] = {
    "nki.isa.dma_copy": "element-wise skipping for dynamic offsets, row-wise for index tiles",
    "nki.isa.tensor_copy_dynamic_src": "0.2 spelling; dynamic offsets come from the view",
    "nki.isa.tensor_copy_dynamic_dst": "0.2 spelling; dynamic offsets come from the view",
    "nki.isa.topk": "every partition of a group of 16 receives the group's result (the documents leave it open)",
    "nki.isa.rng": "XORWOW with seeds of our own: bits differ from the device's",
    "nki.isa.rand2": "XORWOW with seeds of our own: bits differ from the device's",
    "nki.isa.dropout": "XORWOW with seeds of our own: bits differ from the device's",
    "nki.isa.core_barrier": "orders both cores as a whole, not only the named engine",
    "nki.isa.sendrecv": "blocks the core until the other one arrives; pipes must be used in one order",
    "nki.isa.get_nc_sub_version": "always the first silicon revision",
    "nki.language.gather_flattened": "axis=0 only; the documents don't say what another one gathers along",
    "nki.language.no_reorder": "instructions always run in program order",
    "nki.collectives.all_to_all_v": "any group is taken (the hardware's rules name devices); a rank sends to itself, too",
    "NkiTensor.indirect": "trn3; offsets of the first group of partitions are used (a warning says when others differ); not "
    "for nc_matmul_mx, nor for a dst that nc_matmul accumulates onto",
    "NkiTensor.ap": "a dynamic offset is read when the view is made",
    "NkiTensor.select": "a dynamic index is read when the view is made",
}
"""APIs that work with a restriction."""

REFUSED: dict[str, str] = {
    "nki.language.all_reduce": "no documented single-core meaning",
    "nki.language.atomic_rmw": "removed with the old namespace",
    "nki.language.gemm_grid": "no public description",
    "nki.isa.builtin_custom_op": "custom GpSimd programs",
    **{f"nki.{n}": "removed from this namespace in 0.2; the error says what to use" for n in current.REMOVED},
}
"""APIs that stop with a message."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One API: its dotted name, status, a note, its parameters and the first line of its documentation."""

    name: str
    status: str
    note: str
    parameters: tuple[str, ...]
    doc: str


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function of the current dialect by dotted name."""
    for name, function in current.ISA.items():
        yield f"nki.isa.{name}", inspect.unwrap(function)
    for name in (*language.PUBLIC, *language.OPERATORS):
        value = language.OPERATORS.get(name) or getattr(language, name, None)
        if inspect.isfunction(value) or inspect.isgeneratorfunction(value):
            yield f"nki.language.{name}", value
    for name in TENSOR_METHODS:
        yield f"NkiTensor.{name}", getattr(Tensor, name)
    for name, value in (*collectives.MEMBERS.items(), *ragged.MEMBERS.items()):
        if inspect.isfunction(value):
            yield f"nki.collectives.{name}", value


TENSOR_METHODS = (
    "ap",
    "slice",
    "select",
    "vector_select",
    "permute",
    "broadcast",
    "broadcast_to",
    "expand_dim",
    "squeeze_dim",
    "reshape_dim",
    "flatten_dims",
    "reshape",
    "rearrange",
    "view",
    "reinterpret_cast",
    "is_contiguous",
    "is_indirect",
    "get_pattern",
    "indirect",
)


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a function's parameters without `self`."""
    return tuple(n for n in inspect.signature(function).parameters if n != "self")


def unused_parameters(function: Callable[..., Any]) -> list[str]:
    """Parameters that the function's body never mentions."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    used = {node.id for part in definition.body for node in ast.walk(part) if isinstance(node, ast.Name)}
    return [p for p in parameters(function) if p not in used]


def inert(name: str, parameter: str) -> str | None:
    """Why `parameter` of the API `name` changes no value, or None when it isn't listed."""
    return INERT_OF.get(name.rpartition(".")[2], {}).get(parameter) or INERT.get(parameter)


def entries() -> list[Entry]:
    """Every API of the current dialect, in order of name."""
    found = []
    for name, function in functions():
        note = PARTIAL.get(name, "")
        doc = (function.__doc__ or "").strip().split("\n")[0]
        found.append(Entry(name, "partial" if note else "complete", note, parameters(function), doc))
    for name, note in REFUSED.items():
        found.append(Entry(name, "refused", note, (), ""))
    return sorted(found, key=lambda e: e.name)


def _values(module: ModuleType) -> list[str]:
    """Names of a module that aren't functions: constants, types, operator handles."""
    return sorted(
        n
        for n, v in vars(module).items()
        if not n.startswith("_") and not inspect.isfunction(v) and not isinstance(v, ModuleType)
    )


def page() -> str:
    """The text of `docs/compatibility.md`."""
    rows = entries()
    counts = {s: sum(e.status == s for e in rows) for s in ("complete", "partial", "refused")}
    lines = [
        "# Compatibility",
        "",
        "Generated by `python -m tools.sim.compatibility`. Signatures follow NKI 0.6, with the older spellings that don't",
        "collide with it. *Complete*: every documented argument and dtype has its documented effect. *Partial*: the note says",
        "what is missing. *Refused*: the call stops with a message that says so; nothing is ignored in silence.",
        "",
        f"{counts['complete']} complete, {counts['partial']} partial, {counts['refused']} refused.",
        "",
        "## Current dialect, `import nki`",
        "",
        "| API | status | parameters | note |",
        "|---|---|---|---|",
    ]
    for e in rows:
        lines.append(f"| `{e.name}` | {e.status} | {', '.join(f'`{p}`' for p in e.parameters)} | {e.note or e.doc} |")
    lines += ["", "### Arguments that change no value", ""]
    lines += [f"- `{n}`: {why}." for n, why in INERT.items()]
    lines += [
        f"- `{n}` of `{f}`: {why}." for f, table in INERT_OF.items() for n, why in table.items() if n not in INERT
    ]
    lines += ["", "### Constants, types and operator handles", ""]
    modules = all_modules()
    for name in ("nki.language", "nki.isa"):
        lines.append(f"- `{name}`: " + ", ".join(f"`{v}`" for v in _values(modules[name])) + ".")
    lines += ["", *_NUMBERS]
    old = sorted(n for n in modules if n.startswith("neuronxcc"))
    if old:
        lines += ["", "## Beta 1, `neuronxcc.nki`", ""]
        for name in old:
            members = sorted(n for n, v in vars(modules[name]).items() if not n.startswith("_") and not _is_module(v))
            lines.append(f"- `{name}`: " + ", ".join(f"`{m}`" for m in members) + ".")
    return "\n".join(lines) + "\n"


def _is_module(value: Any) -> bool:
    return isinstance(value, ModuleType)


_NUMBERS = """## Numbers

- Vector, Scalar and GpSimd arithmetic is float32 inside; results round to nearest even into the destination's type.
- Float to integer rounds to nearest even and saturates; NaN becomes 0. Integer to another type goes through float32.
- int32 and uint32 are exact in `tensor_tensor` on GpSimd and in copies between equal types; elsewhere they pass float32.
- float8 overflow follows the format: float8_e4m3 and float8_e5m2 give infinity, float8_e4m3fn gives NaN. `quantize_mx`
  saturates. Kernels that need saturation elsewhere clamp first.
- Matmul operands of 8 and 16 bits multiply exactly; tfloat32 operands are rounded to 10 mantissa bits; sums are float32 in
  an order that isn't the hardware's. A bfloat16 PSUM tile (trn3) is rounded at every write.
- `accumulate=None`: the first matmul write to a location since its allocation overwrites, later ones add, element by element.
- Activation functions are computed in float32, not by the hardware's piecewise polynomials; arguments outside the valid range
  of a table are reported.
- `precision="exact"` keeps every float tensor in float32. Views that reinterpret bytes of another size aren't possible then.
- Never-written elements read as NaN and are reported with the element and the line of the allocation.""".split("\n")


__all__ = ["INERT", "INERT_OF", "PARTIAL", "REFUSED", "Entry", "OpHandle", "entries", "functions", "page"]

if __name__ == "__main__":
    print(page(), end="")
