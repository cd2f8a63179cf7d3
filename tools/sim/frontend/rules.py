"""The compiler's rules that a simulator doesn't need: the Python subset, and spellings by version.

Applied to source text under `simulate(..., strict=True)` and by the lint tool; nothing is run. Sources: NKI migration
guide (breaking changes 0.2 to 0.6), language guide (supported Python), Beta-1 error reference.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.sim.errors import Diagnostic, Severity
from tools.sim.frontend.mutability import parameter_faults
from tools.sim.frontend.source_names import BETA1_ONLY
from tools.sim.frontend.source_text import SourceText

_LANGUAGE = {"nl": "nki.language", "nisa": "nki.isa"}
_REMOVED_TOOLS = ("benchmark", "baremetal", "profile", "simulate_kernel", "trace")
_REMOVED_ISA = {"tensor_copy_dynamic_src": "0.4", "tensor_copy_dynamic_dst": "0.4"}
_ALIASES = {"affine_range": "range", "sequential_range": "range", "static_range": "range"}
_DEPRECATED = {
    "dynamic_range": ("0.6", "nl.fori_loop"),
    "psum_fmax": ("0.4", "nl.tile_size.psum_bank_fmax"),
    "total_available_sbuf_size": ("0.4", "nl.tile_size.sbuf_fmax_bytes"),
}
_MOVED_ARGUMENTS = {
    ("register_move", "imm"): ("0.3", "src="),
    ("dma_copy", "dst_rmw_op"): ("0.3", "nisa.dma_compute"),
    ("dma_copy", "unique_indices"): ("0.3", "nisa.dma_compute"),
    ("sendrecv", "use_gpsimd_dma"): ("0.3", "dma_engine="),
}
_JIT_ARGUMENTS = ("mode", "platform_target", "debug_kernel", "show_compiler_tb", "experimental_flags")
_RANGE_ARGUMENTS = ("precise_schedule", "multi_buffer")
_DOES_NOT_COMPILE = ("divide", "mod", "fmod")
_STATEMENTS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Try: ("try", "check the condition with an if"),
    ast.Raise: ("raise", "use assert with a message"),
    ast.Yield: ("yield", "build a list"),
    ast.YieldFrom: ("yield from", "build a list"),
    ast.Await: ("await", "call the function directly"),
    ast.AsyncFunctionDef: ("async def", "use def"),
    ast.Global: ("global", "pass the value as an argument"),
    ast.Nonlocal: ("nonlocal", "return the value"),
    ast.Delete: ("del", "let the name go out of scope"),
    ast.Match: ("match", "use if and elif"),
}


def compiler_rules(source: str, filename: str, dialect: str) -> list[Diagnostic]:
    """What the compiler of `dialect` would refuse or warn about, in order of lines.

    Args:
        source: text of a kernel's module; source that doesn't parse gives no findings here.
        filename: names the file in findings.
        dialect: `nki` or `neuronxcc.nki`.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    reader = _Reader(filename, source)
    found = reader.beta1(tree) if dialect == "neuronxcc.nki" else reader.current(tree)
    return sorted(found, key=lambda d: (d.where.line, d.where.column) if d.where else (0, 0))


class _Reader(SourceText):
    """Walks one module."""

    # -- current dialect ---------------------------------------------------------------------------------------------

    def current(self, tree: ast.Module) -> Iterator[Diagnostic]:
        jitted = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and _jit_decorator(f) is not None]
        for node in ast.walk(tree):
            yield from self._imports(node)
        for function in jitted:
            yield from self._decorator(function)
        inside = _reachable(tree, jitted)
        for function in inside:
            yield from self._signature(function)
            yield from self._body(function, nested={f.name for f in jitted} - {function.name})
        for cls in (n for n in tree.body if isinstance(n, ast.ClassDef)):
            if inside and not cls.bases and any(_names(f, cls.name) for f in inside):
                yield self.finding(
                    cls,
                    "KW-STRICT-CLASS",
                    f"class {cls.name} doesn't inherit nl.NKIObject",
                    f"write class {cls.name}(nl.NKIObject)",
                )

    def _imports(self, node: ast.AST) -> Iterator[Diagnostic]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        if any(n == "neuronxcc" or n.startswith("neuronxcc.nki") for n in names):
            yield self.finding(
                node,
                "KW-STRICT-NAMESPACE",
                "neuronxcc.nki inside a kernel of the current dialect is a compile error since 0.4",
                "import nki, nki.language and nki.isa",
            )

    def _decorator(self, function: ast.FunctionDef) -> Iterator[Diagnostic]:
        decorator = _jit_decorator(function)
        if not isinstance(decorator, ast.Call):
            return
        for keyword in decorator.keywords:
            if keyword.arg in _JIT_ARGUMENTS:
                yield self.finding(
                    keyword,
                    "KW-STRICT-JIT",
                    f"nki.jit has no argument {keyword.arg!r} since 0.3",
                    "remove it; choose the target through NEURON_PLATFORM_TARGET_OVERRIDE",
                )

    def _signature(self, function: ast.FunctionDef) -> Iterator[Diagnostic]:
        if function.args.kwonlyargs:
            yield self.finding(
                function,
                "KW-STRICT-PYTHON",
                f"{function.name}: keyword-only parameters (after *) aren't supported",
                "make them ordinary parameters",
            )

    def _body(self, function: ast.FunctionDef, nested: set[str]) -> Iterator[Diagnostic]:
        for node in (n for statement in function.body for n in ast.walk(statement)):
            for kind, (word, fix) in _STATEMENTS.items():
                if isinstance(node, kind):
                    yield self.finding(node, "KW-STRICT-PYTHON", f"`{word}` isn't supported inside a kernel", fix)
            if isinstance(node, ast.Compare):
                for operator in node.ops:
                    if isinstance(operator, ast.Is | ast.IsNot):
                        sign = "==" if isinstance(operator, ast.Is) else "!="
                        yield self.finding(
                            node, "KW-STRICT-PYTHON", "`is` isn't supported inside a kernel", f"compare with {sign}"
                        )
            elif isinstance(node, ast.Dict) and any(
                isinstance(k, ast.Constant) and not isinstance(k.value, str) for k in node.keys
            ):
                yield self.finding(
                    node, "KW-STRICT-PYTHON", "dictionary keys must be strings inside a kernel", "use string keys"
                )
            elif isinstance(node, ast.Call):
                yield from self._call(node, nested)
            elif isinstance(node, ast.Attribute):
                yield from self._attribute(node)

    def _call(self, node: ast.Call, nested: set[str]) -> Iterator[Diagnostic]:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if isinstance(node.func, ast.Name) and name in nested:
            yield self.finding(
                node,
                "KW-STRICT-NESTED",
                f"{name} is decorated with nki.jit and called inside a kernel",
                "remove the decorator of the inner function",
            )
        for keyword in node.keywords:
            moved = _MOVED_ARGUMENTS.get((name, keyword.arg or ""))
            if moved is not None:
                yield self.finding(
                    keyword, "KW-STRICT-REMOVED", f"{name}({keyword.arg}=) is gone since {moved[0]}", f"use {moved[1]}"
                )
            elif keyword.arg == "mask" and isinstance(node.func, ast.Attribute):
                yield self.finding(
                    keyword, "KW-STRICT-REMOVED", f"{name} takes no mask since 0.2", "clamp the slice with min()"
                )
            elif keyword.arg in _RANGE_ARGUMENTS and name.endswith("range"):
                yield self.finding(
                    keyword, "KW-STRICT-REMOVED", f"{name} takes no {keyword.arg} since 0.2", "remove it"
                )
            elif keyword.arg == "buffer" and isinstance(keyword.value, ast.Constant):
                yield self.finding(
                    keyword,
                    "KW-STRICT-REMOVED",
                    "buffer names as strings are rejected since 0.3",
                    "use nl.sbuf and the like",
                )
        if name == "dynamic_range":
            step = (
                node.args[2] if len(node.args) > 2 else next((k.value for k in node.keywords if k.arg == "step"), None)
            )
            if step is not None and not isinstance(step, ast.Constant):
                yield self.finding(
                    node,
                    "KW-STRICT-PYTHON",
                    "dynamic_range needs a step that is known at compile time",
                    "write a number",
                )

    def _attribute(self, node: ast.Attribute) -> Iterator[Diagnostic]:
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        name = node.attr
        if owner == "nl" and name in BETA1_ONLY:
            yield self.finding(node, "KW-STRICT-REMOVED", f"nl.{name} is gone since 0.2", f"use {BETA1_ONLY[name]}")
        elif owner == "nki" and name in _REMOVED_TOOLS:
            yield self.finding(
                node, "KW-STRICT-REMOVED", f"nki.{name} is gone since 0.2", "use nki.simulate or a profiler"
            )
        elif owner == "nisa" and name in _REMOVED_ISA:
            yield self.finding(
                node,
                "KW-STRICT-REMOVED",
                f"nisa.{name} is gone since {_REMOVED_ISA[name]}",
                "use .ap(scalar_offset=...)",
            )
        elif owner == "nl" and name in _DOES_NOT_COMPILE:
            yield self.finding(
                node,
                "KW-STRICT-NO-COMPILE",
                f"nl.{name} simulates but doesn't compile",
                "multiply by nisa.reciprocal" if name == "divide" else "compute the remainder from a rounded quotient",
                Severity.WARNING,
            )
        elif owner == "nl" and name in _ALIASES:
            yield self.finding(
                node,
                "KW-STRICT-DEPRECATED",
                f"nl.{name} is a deprecated alias",
                f"use {_ALIASES[name]}",
                Severity.WARNING,
            )
        elif name in _DEPRECATED:
            since, instead = _DEPRECATED[name]
            yield self.finding(
                node, "KW-STRICT-DEPRECATED", f"{name} is deprecated since {since}", f"use {instead}", Severity.WARNING
            )

    # -- Beta 1 ------------------------------------------------------------------------------------------------------

    def beta1(self, tree: ast.Module) -> Iterator[Diagnostic]:
        for function in (f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)):
            if _jit_decorator(function) is not None:
                yield from self._scopes(function)
                yield from self._loops(function)
        yield from self._kernel_level(tree)
        yield from self._parameters(tree)

    def _kernel_level(self, tree: ast.Module) -> Iterator[Diagnostic]:
        """Tensors in shared HBM are made by the kernel itself, outside its loops (published kernels make them in branches)."""
        jitted = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and _jit_decorator(f) is not None]
        for function in _reachable(tree, jitted):
            kernel = _jit_decorator(function)
            if isinstance(kernel, ast.Call) and any(k.arg == "experimental_flags" for k in kernel.keywords):
                continue
            blocks = [n for n in ast.walk(function) if isinstance(n, ast.For | ast.While)]
            for node in blocks if kernel is not None else [function]:
                for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
                    values = [*call.args, *(k.value for k in call.keywords)]
                    if any(isinstance(v, ast.Attribute) and v.attr == "shared_hbm" for v in values):
                        where = "a loop of the kernel" if kernel is not None else f"the function {function.name}"
                        yield self.finding(
                            call,
                            "KW-STRICT-SHARED-HBM",
                            f"err_shared_hbm_must_in_kernel_level: a shared_hbm tensor is made inside {where}",
                            "make it at the kernel's top level and pass it in, or use nl.private_hbm",
                        )

    def _parameters(self, tree: ast.Module) -> Iterator[Diagnostic]:
        for fault in parameter_faults(tree):
            name = fault.parameter
            if fault.returned:
                yield self.finding(
                    fault.node,
                    "KW-STRICT-NOT-RETURNED",
                    f"err_mutable_parameter_not_returned: {name} is annotated mutable_tensor but isn't a result",
                    f"return {name} as well, or drop the annotation",
                    operand=name,
                )
            else:
                yield self.finding(
                    fault.node,
                    "KW-STRICT-IMMUTABLE",
                    f"err_cannot_update_immutable_parameter: this writes the parameter {name}, which is read-only",
                    f"annotate {name}: nt.mutable_tensor and return it, or write a tensor made with "
                    "nl.ndarray(..., buffer=nl.shared_hbm)",
                    operand=name,
                )

    def _scopes(self, function: ast.FunctionDef) -> Iterator[Diagnostic]:
        """A tile that a loop body creates is dead after the loop: err_local_variable_used_out_of_scope.

        Branches are left alone: published kernels create a tile in both branches of an `if` and use it behind.
        """
        outside = {a.arg for a in (*function.args.args, *function.args.kwonlyargs)}
        yield from self._block(function.body, outside, {})

    def _block(self, body: list[ast.stmt], visible: set[str], dead: dict[str, int]) -> Iterator[Diagnostic]:
        """Uses of dead names in a block; `dead` holds the line of the loop that made each."""
        known = set(visible)
        for statement in body:
            inner = isinstance(statement, ast.For | ast.While | ast.If)
            for node in _own_nodes(statement) if inner else ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in dead:
                    yield self.finding(
                        node,
                        "KW-STRICT-SCOPE",
                        f"err_local_variable_used_out_of_scope: {node.id} was made inside the block at line {dead[node.id]}",
                        f"create {node.id} before that block and assign into it",
                    )
            if isinstance(statement, ast.For | ast.While):
                yield from self._block(statement.body, known | _stored(statement) & _targets(statement), dict(dead))
                fresh = _tiles(statement.body) - known
                dead.update({name: statement.lineno for name in fresh})
            elif isinstance(statement, ast.If):
                for branch in (statement.body, statement.orelse):
                    yield from self._block(branch, known, dict(dead))
            if not isinstance(statement, ast.For | ast.While):
                names = _stored(statement)
                known |= names
                for name in names:
                    dead.pop(name, None)

    def _loops(self, function: ast.FunctionDef) -> Iterator[Diagnostic]:
        for node in ast.walk(function):
            if isinstance(node, ast.While) and not (isinstance(node.test, ast.Constant) and node.test.value):
                yield self.finding(
                    node,
                    "KW-STRICT-WHILE",
                    "err_while_loop_requires_unconditional_entry: a while loop must run at least once",
                    "write while True with a break at its end, or use a range",
                )
            elif isinstance(node, ast.BoolOp | ast.UnaryOp) and _is_mask(node):
                yield self.finding(
                    node,
                    "KW-STRICT-MASK",
                    "err_ambiguous_tensor_truth_value: masks are joined with & | ~, not with and, or, not",
                    "use & between the comparisons",
                )


def _jit_decorator(function: ast.FunctionDef) -> ast.expr | None:
    for decorator in function.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        if name in ("jit", "baremetal", "benchmark", "trace"):
            return decorator
    return None


def _reachable(tree: ast.Module, jitted: list[ast.FunctionDef]) -> list[ast.FunctionDef]:
    """The jitted functions and the module's functions that they call, directly or through others."""
    functions = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}
    found: dict[str, ast.FunctionDef] = {}
    waiting = list(jitted)
    while waiting:
        function = waiting.pop()
        if function.name in found:
            continue
        found[function.name] = function
        called = {n.func.id for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        waiting.extend(functions[name] for name in called if name in functions)
    return list(found.values())


def _names(function: ast.FunctionDef, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(function))


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a compound statement's header."""
    for name in ("iter", "test"):
        part = getattr(statement, name, None)
        if part is not None:
            yield from ast.walk(part)


def _stored(statement: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _targets(statement: ast.stmt) -> set[str]:
    if not isinstance(statement, ast.For):
        return set()
    return {n.id for n in ast.walk(statement.target) if isinstance(n, ast.Name)}


def _tiles(body: list[ast.stmt]) -> set[str]:
    """Names that a block binds to the result of a language call (`x = nl.load(...)`, `x = nisa.activation(...)`)."""
    names: set[str] = set()
    for statement in body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                continue
            call = node.value.func
            if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id in _LANGUAGE:
                names.update(t.id for t in node.targets if isinstance(t, ast.Name))
    return names


def _is_mask(node: ast.BoolOp | ast.UnaryOp) -> bool:
    """Whether the expression joins comparisons of index expressions (names that begin with `i_`) by and, or, not."""
    if isinstance(node, ast.UnaryOp):
        if not isinstance(node.op, ast.Not):
            return False
        parts = [node.operand]
    else:
        parts = node.values
    return any(
        isinstance(part, ast.Compare)
        and any(isinstance(n, ast.Name) and n.id.startswith(("i_", "ip", "if_")) for n in ast.walk(part))
        for part in parts
    )
