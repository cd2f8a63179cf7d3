"""From words, or a NumPy function, to a `Task`: what to compute, on which shapes, how exactly, where and how fast."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

from tools.generate.compose import Composition, compose, extend
from tools.generate.declarations import NamedTensor
from tools.generate.operators import INDICES
from tools.generate.request import Request, check_words, read
from tools.task import Goal, Reference, Target, Task, TensorSpec, Tolerance
from tools.task_errors import RequestError

DEFAULT_TARGET: Target = "trn2"
_TOLERANCES = {
    "float32": Tolerance(
        rtol=1e-4, atol=1e-4, rel_l2=2e-5,
        reason="float32 storage and arithmetic: only the order of additions and the engines' function tables may differ",
    ),
    "float16": Tolerance(
        rtol=4e-3, atol=6e-3, rel_l2=1.5e-3,
        reason="float16 storage keeps 11 bits (2^-11 a rounding); operands of matmuls, factors and results are each rounded once",
    ),
    "bfloat16": Tolerance(
        rtol=2e-2, atol=3e-2, rel_l2=8e-3,
        reason="bfloat16 storage keeps 8 bits (2^-9 a rounding); operands of matmuls, factors and results are each rounded once",
    ),
    "float8_e4m3": Tolerance(
        rtol=0.125, atol=0.2, rel_l2=6e-2,
        reason="float8_e4m3 storage keeps 4 bits (2^-4 a rounding); operands of matmuls, factors and results are each rounded once",
    ),
}  # fmt: skip
_COARSENESS = ("float32", "float16", "bfloat16", "float8_e4m3")


def tolerance_for(dtypes: Sequence[str]) -> Tolerance:
    """The tolerance that follows from the coarsest storage type among inputs and outputs."""
    known = [d for d in dtypes if d in _COARSENESS]
    coarsest = max(known, key=_COARSENESS.index, default="float32")
    return _TOLERANCES[coarsest]


ASKED = "the request asks for a tolerance of"


def _tolerance(request: Request, dtypes: Sequence[str]) -> Tolerance:
    """What the request allows, else what its types call for."""
    value = request.tolerance
    if value is None:
        return tolerance_for(dtypes)
    return Tolerance(rtol=value, atol=value, rel_l2=value, reason=f"{ASKED} {value:g}")


def parse_request(text: str) -> Task:
    """Read a request in words.

    Raises:
        RequestError: it names no operation, no shapes, contradictory shapes, or an unknown target; one sentence with the
            fix.
    """
    if not text.strip():
        raise RequestError(
            "the request is empty: say what to compute, for example 'softmax of x 4096x1024, bfloat16, trn2'."
        )
    request = read(text)
    return _task(text, request, compose(request))


def _task(text: str, request: Request, made: Composition) -> Task:
    given = [d for d in made.dtypes.values() if d]
    if request.dtype and len(given) == len(made.parameters) and set(given) != {request.dtype}:
        raise RequestError(
            f"the type {request.dtype} is left over: every tensor has one of its own; give one type, or one a tensor."
        )
    default = request.dtype or next((d for d in made.dtypes.values() if d), "float32")
    inputs = tuple(
        TensorSpec(
            name=name, shape=shape or (1,), dtype=made.dtypes.get(name) or default,
            distribution="positive" if name in made.positive else "normal",
        )
        for name, shape in made.parameters.items()
    )  # fmt: skip
    places = any(
        made.ops[-1:] == [f"{part}_{key}"] for part in ("row", "column", "axis0", "axis1", "axis2") for key in INDICES
    )
    outputs = (request.output_dtype,) if request.output_dtype else ("int32",) if places else ()
    name = "-".join(dict.fromkeys(op.replace("_", "-") for op in made.ops)) or "kernel"
    title = f"{', then '.join(op.replace('_', ' ') for op in dict.fromkeys(made.ops))}, in float32.".capitalize()
    return Task(
        name=name, request=text, reference=Reference(source=made.source(title), function="reference", origin="words"),
        inputs=inputs, output_dtypes=outputs, target=request.target or DEFAULT_TARGET,  # type: ignore[arg-type]
        goal=request.goal or Goal(), tolerance=_tolerance(request, [*(i.dtype for i in inputs), *outputs]),
        precision="fp32" if request.precision == "fp32" else "storage",
    )  # fmt: skip


def task_from_reference(
    path: str | Path,
    function: str,
    request: str = "",
    *,
    inputs: Sequence[TensorSpec] | None = None,
    target: Target | None = None,
    goal: Goal | None = None,
) -> Task:
    """A task whose specification is a NumPy function in a file.

    The file is read, never run. Shapes come from `inputs`, else from the request's words, else from the function's
    docstring, matched to its parameters by name, then by order.

    Raises:
        RequestError: the file or function is missing, or shapes aren't known for every parameter.
    """
    file = Path(path)
    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"the reference file {file} can't be read ({type(error).__name__}): give the path of a Python file."
        ) from error
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RequestError(
            f"the reference file {file} isn't valid Python ({error}): correct it and try again."
        ) from error
    found = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function), None)
    if found is None:
        names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
        raise RequestError(
            f"{file} defines no function {function!r}: name one of {', '.join(names) or 'its functions'}."
        )
    required = len(found.args.args) - len(found.args.defaults)
    parameters = [a.arg for a in found.args.posonlyargs + found.args.args]
    said = read(request) if request.strip() else Request("")
    check_words(said.tokens, {*parameters, function, *(t.name for t in said.tensors)})
    number = next((t.text for t in said.tokens if t.kind in ("number", "expression")), None)
    if number is not None:
        raise RequestError(f"{number!r} isn't understood beside a reference: put what is computed into the function.")
    documented = read(ast.get_docstring(found) or "") if inputs is None else Request("")
    specs = list(inputs) if inputs is not None else _match(parameters, required, said, documented, file, function)
    dtypes = [*(s.dtype for s in specs), *((said.output_dtype,) if said.output_dtype else ())]
    return Task(
        name=function.replace("_", "-"), request=request or f"{file.name}:{function}",
        reference=Reference(source=source, function=function, origin="file"), inputs=tuple(specs),
        output_dtypes=(said.output_dtype,) if said.output_dtype else (),
        target=target or said.target or DEFAULT_TARGET,  # type: ignore[arg-type]
        goal=goal or said.goal or Goal(), tolerance=tolerance_for(dtypes),
        precision="fp32" if said.precision == "fp32" else "storage",
    )  # fmt: skip


def _match(
    parameters: Sequence[str], required: int, said: Request, documented: Request, file: Path, function: str
) -> list[TensorSpec]:
    tensors = said.tensors or documented.tensors
    default = said.dtype or documented.dtype or "float32"
    by_name = {t.name.lower(): t for t in tensors if t.name.lower() in {p.lower() for p in parameters}}
    loose = [t for t in tensors if t not in by_name.values()]
    specs: list[TensorSpec] = []
    for position, parameter in enumerate(parameters):
        tensor = by_name.get(parameter.lower()) or (loose.pop(0) if loose else None)
        if tensor is None:
            if position >= required:
                break
            raise RequestError(
                f"no shape is known for {parameter!r} of {function} in {file.name}: say it in the request, for example "
                f"{parameter} 4096x1024, or in the function's docstring."
            )
        specs.append(TensorSpec(name=parameter, shape=tensor.shape, dtype=tensor.dtype or default))
    if loose:
        raise RequestError(
            f"the request gives {len(tensors)} shapes but {function} takes {len(parameters)} arrays: give one shape an argument."
        )
    if not specs:
        raise RequestError(f"{function} takes no arrays: a reference needs at least one input.")
    return specs


_QUESTION = re.compile(
    r"^\s*(?:why|what|how|which|where|who|when|explain|is|are|does|do|can you (?:explain|tell)|show|tell)\b|\?\s*$",
    re.IGNORECASE,
)


def revise(task: Task, text: str) -> Task | None:
    """Apply a follow-up such as `now for trn3` or `make it work for 300 rows` to a task.

    Returns:
        The changed task, or None when the text changes nothing (a question, for instance).

    Raises:
        RequestError: the change doesn't fit the task.
    """
    said = read(text, tuple(s.name for s in task.inputs))
    question = bool(_QUESTION.search(text))
    changes: dict[str, object] = {}
    if (
        said.target
        and said.target != task.target
        and not (question and not text.strip().lower().startswith(("can", "could", "what about", "how about")))
    ):
        changes["target"] = said.target
    if question and not changes and not text.strip().lower().startswith(("can", "could", "what about", "how about")):
        return None
    if said.goal is not None and said.goal != task.goal:
        changes["goal"] = said.goal
    if said.precision and said.precision != task.precision:
        changes["precision"] = said.precision
    grown = _with_operators(task, said, text)
    if grown is not None:
        return grown.model_copy(update=changes)
    inputs = _revised_inputs(task, said)
    outputs = (said.output_dtype,) if said.output_dtype else task.output_dtypes
    if inputs != task.inputs or outputs != task.output_dtypes:
        changes["inputs"] = inputs
        changes["output_dtypes"] = outputs
        changes["tolerance"] = tolerance_for([*(i.dtype for i in inputs), *outputs])
    if said.tolerance is not None:
        changes["tolerance"] = _tolerance(said, [])
    elif task.tolerance.reason.startswith(ASKED):
        changes.pop("tolerance", None)
    if not changes:
        return None
    _check_change(task, said)
    return task.model_copy(update={**changes, "request": f"{task.request}; {text.strip()}"})


def _check_change(task: Task, said: Request) -> None:
    """A change of facts must leave no other wish behind: `now for trn3, but without the bias`."""
    check_words(said.tokens, {s.name for s in task.inputs} | {t.name for t in said.tensors})
    wish = next(
        (t for t in said.tokens if t.kind == "expression" or (t.entry is not None and t.entry.kind in _WISHES)), None
    )
    if wish is not None or said.without:
        word = wish.text if wish is not None else f"without {min(said.without)}"
        raise RequestError(
            f"{word!r} isn't understood as a change: say 'then {word}' if it follows the result, or ask for a new kernel with all its shapes."
        )


_WISHES = ("op", "infix", "postfix", "transposed", "ambiguous", "foreign", "quality", "affine", "param")


def _with_operators(task: Task, said: Request, text: str) -> Task | None:
    """The task with further operators behind it, when a follow-up such as `then add a gelu` names some."""
    if (
        task.reference.origin != "words"
        or not said.operates
        or not re.search(r"^and\b|\b(?:then|add|also|followed|append|plus|with|fuse)\b", text, re.IGNORECASE)
    ):
        return None
    made = extend(_composition(task), said)
    again = _task(f"{task.request}; {text.strip()}", said, made)
    kept: dict[str, object] = {
        "target": said.target or task.target, "goal": said.goal or task.goal, "precision": "fp32" if said.precision else task.precision,
    }  # fmt: skip
    if not again.output_dtypes and task.output_dtypes != ("int32",):
        kept["output_dtypes"] = task.output_dtypes
        kept["tolerance"] = tolerance_for([*(i.dtype for i in again.inputs), *task.output_dtypes])
    if said.tolerance is not None:
        kept["tolerance"] = again.tolerance
    elif task.tolerance.reason.startswith(ASKED):
        kept["tolerance"] = task.tolerance
    return again.model_copy(update=kept)


def _composition(task: Task) -> Composition:
    """The reference of a task in words, taken apart again so that it can grow."""
    from tools.generate.tracing import trace_reference

    specs = [{"name": s.name, "shape": s.shape, "dtype": s.dtype} for s in task.inputs]
    graph = trace_reference(task.reference.source, task.reference.function, specs)
    (function,) = (n for n in ast.parse(task.reference.source).body if isinstance(n, ast.FunctionDef))
    steps = [ast.unparse(n) for n in function.body[1:-1]]
    end = function.body[-1]
    assert isinstance(end, ast.Return), "as Composition.source writes it"
    assert end.value is not None, "as Composition.source writes it"
    if len(graph["outputs"]) > 1:
        raise RequestError("the kernel has several results, so nothing can follow it: ask for a new kernel instead.")
    return Composition(
        parameters={s.name: s.shape for s in task.inputs},
        dtypes={s.name: s.dtype for s in task.inputs},
        lines=[step for step in steps if ".astype(" not in step],
        value=ast.unparse(end.value),
        shape=tuple(graph["nodes"][graph["outputs"][0]]["shape"]),
        ops=task.name.split("-"),
        notes=(ast.get_docstring(function) or "").split("\n\n")[1:],
        positive={s.name for s in task.inputs if s.distribution == "positive"},
    )


def _revised_inputs(task: Task, said: Request) -> tuple[TensorSpec, ...]:
    inputs = list(task.inputs)
    if said.dtype:
        inputs = [i.model_copy(update={"dtype": said.dtype}) for i in inputs]
    for tensor in said.tensors:
        position = _position(inputs, tensor)
        if position is None:
            continue
        inputs[position] = inputs[position].model_copy(
            update={"shape": tensor.shape, "dtype": tensor.dtype or inputs[position].dtype}
        )
    if said.rows:
        old = inputs[0].shape[0]
        lead = inputs[0].shape
        for k, spec in enumerate(inputs):
            follows = k == 0 or (len(spec.shape) == len(lead) and spec.shape[0] == old and spec.shape[:-1] == lead[:-1])
            if follows and (k == 0 or not _is_weight(task, spec)):
                inputs[k] = spec.model_copy(update={"shape": (said.rows, *spec.shape[1:])})
    if said.columns and len(inputs) == 1:
        inputs[0] = inputs[0].model_copy(update={"shape": (*inputs[0].shape[:-1], said.columns)})
    if tuple(inputs) != task.inputs:
        _check_shapes(task, inputs)
    return tuple(inputs)


def _is_weight(task: Task, spec: TensorSpec) -> bool:
    """Whether an input is the right side of a matmul, whose first size isn't the number of rows."""
    return re.search(rf"@ (?:np\.swapaxes\()?{re.escape(spec.name)}\b", task.reference.source) is not None


def _position(inputs: Sequence[TensorSpec], tensor: NamedTensor) -> int | None:
    for k, spec in enumerate(inputs):
        if spec.name.lower() == tensor.name.lower():
            return k
    if not tensor.name:
        return next((k for k, s in enumerate(inputs) if len(s.shape) == len(tensor.shape)), None)
    raise RequestError(f"there is no input called {tensor.name!r}: the inputs are {', '.join(s.name for s in inputs)}.")


def _check_shapes(task: Task, inputs: Sequence[TensorSpec]) -> None:
    """Refuse shapes on which a reference of our own words can't run."""
    if task.reference.origin != "words":
        return
    from tools.generate.errors import BeyondOffline
    from tools.generate.tracing import trace_reference

    specs = [{"name": s.name, "shape": s.shape, "dtype": s.dtype} for s in inputs]
    try:
        trace_reference(task.reference.source, task.reference.function, specs)
    except BeyondOffline:
        return
    except ValueError as error:
        reason = str(error).split(": ", 2)[-1].rstrip(".")
        raise RequestError(
            f"the new shapes contradict each other: {reason}; change the other inputs as well."
        ) from error
