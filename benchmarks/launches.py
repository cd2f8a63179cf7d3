"""Published launches with measured latencies: where each kernel's source is, and how to run it beside the
project.

`benchmarks/data/latency_launches.json` holds the measurements with their sources and the launch arguments;
kernels stay in the repositories that published them. A repository is a checkout `owner+name` (or
`owner+name@commit` for an older state) in the folder given as `--repos`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DATA = Path(__file__).resolve().parent / "data"

OFFSET_US = {"benchmark-p50": 8.7, "p99": 8.7, "profiler-total": 15.8, "unknown": 8.7, "body": 0.0}
"""What the published number holds beyond the kernel's body, by its time base (eight trn2 profiles with
both)."""

OPTIONAL_IMPORTS = (
    "torch",
    "torch_xla",
    "torch_neuronx",
    "scipy",
    "jax",
    "nkigym",
    "nkipy",
    "pytest",
    "libneuronxla",
    "torchvision",
)


class MissingSource(Exception):
    """A kernel's source isn't in the checkouts."""


def launches() -> list[dict[str, Any]]:
    """Every published launch."""
    found: list[dict[str, Any]] = json.loads((DATA / "latency_launches.json").read_text(encoding="utf-8"))
    return found


def parts(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The launches that one published number covers (usually one)."""
    own = ("function", "inputs", "args", "kwargs", "grid")
    for part in case.get("parts") or [case]:
        yield {
            **{k: v for k, v in case.items() if k != "parts" and k not in own},
            **{k: part[k] for k in own if k in part},
        }


def offset_us(case: dict[str, Any]) -> float:
    """What to add to the simulated body time before comparing."""
    return OFFSET_US[case["base"]] * len(case.get("parts") or [1])


def launch_key(case: dict[str, Any]) -> str:
    """Equal for measurements of the same launch of the same source."""
    source = case.get("sha") or case.get("kernel")
    what = [case["device"], source, case.get("parts") or [case["function"], case["inputs"]]]
    return json.dumps([*what, *(case.get(k) for k in ("args", "kwargs", "grid", "prelude"))], sort_keys=True)


def source_path(case: dict[str, Any], repos: Path, scratch: Path) -> Path:
    """The kernel's source file, cut out of the published file into `scratch` where needed.

    Raises:
        MissingSource: the repository or the file isn't in `repos`.
    """
    if "kernel" in case:
        return DATA / "kernels" / case["kernel"]
    steps = case.get("extract") or []
    best: tuple[str, Path | None] | None = None
    for text, path in _texts(case, repos):
        cut = _cut(text, steps)
        if hashlib.sha256(cut.encode("utf-8", "replace")).hexdigest()[:16] == case["sha"]:
            best = (cut, None if steps else path)
            break
        best = best or (cut, None if steps else path)
    if best is None:
        raise MissingSource(f"{case['repo']}: {case['path']} isn't in {repos}; check the repository out there")
    if best[1] is not None:
        return best[1]
    target = scratch / f"{re.sub(r'[^0-9A-Za-z]', '_', Path(case['path']).stem)}_{case['sha'][:8]}.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(best[0], encoding="utf-8")
    return target


def _texts(case: dict[str, Any], repos: Path) -> Iterator[tuple[str, Path | None]]:
    """The published file in every checkout of its repository, the state that was measured first."""
    name, commit = case["repo"].replace("/", "+"), case.get("commit") or ""
    older = [p for p in sorted(repos.glob(f"{name}@*")) if commit and commit.startswith(p.name.partition("@")[2])]
    for folder in (*older, repos / name):
        path = folder / case["path"]
        if path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace"), path
    for git in (repos / name, repos / name / "repo"):
        if commit and ((git / ".git").exists() or (git / "objects").is_dir()):
            shown = subprocess.run(
                ["git", "-c", "safe.directory=*", "-C", str(git), "show", f"{commit}:{case['path']}"],
                capture_output=True, check=False,
            )  # fmt: skip
            if shown.returncode == 0:
                yield shown.stdout.decode("utf-8", "replace").replace("\r\n", "\n"), None


def _cut(text: str, steps: list[dict[str, Any]]) -> str:
    """Apply the steps that cut one kernel out of a published file."""
    for step in steps:
        ((kind, value),) = step.items()
        if kind == "chain":
            text = _candidates(text)[value]
        elif kind == "candidate":
            text = _candidates(text)[-1]
        elif kind == "rst":
            text = _code_blocks(text)[value]
        elif kind == "keep":
            text = _kept(text, value)
        elif kind == "replace":
            for old, new, times in value:
                if text.count(old) != times:
                    raise MissingSource(f"{old!r} occurs {text.count(old)} times, not {times}")
                text = text.replace(old, new)
        else:
            raise MissingSource(f"unknown cutting step {kind!r}")
    return text


def _candidates(text: str) -> list[str]:
    """Sources of a nested `CodeCandidate(code=..., parent=...)` literal, the root first; nothing is
    executed."""
    node: ast.expr | None = ast.parse(text[text.index("CodeCandidate(") :].rstrip(), mode="eval").body
    found = []
    while isinstance(node, ast.Call):
        keywords = {k.arg: k.value for k in node.keywords}
        found.append(ast.literal_eval(keywords["code"]))
        node = keywords.get("parent")
    return found[::-1]


def _code_blocks(text: str) -> list[str]:
    """Python code blocks of an RST file that hold a kernel."""
    lines, found, at = text.splitlines(), [], 0
    while at < len(lines):
        match = re.match(r"( *)\.\. code-block:: *python", lines[at])
        at += 1
        if not match:
            continue
        block: list[str] = []
        while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > len(match[1])):
            block.append(lines[at])
            at += 1
        while block and re.match(r"\s*:\w[\w-]*:", block[0]):
            block.pop(0)
        code = textwrap.dedent("\n".join(block)).strip("\n") + "\n"
        if "@nki.jit" in code:
            found.append(code)
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _kept(text: str, names: list[str]) -> str:
    """The imports of the kernel language and NumPy, and the functions called `names`."""
    lines, found = text.splitlines(keepends=True), []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            line = ast.unparse(node)
            if re.match(r"(import|from) (nki|neuronxcc|numpy|math|typing)\b", line):
                found.append(line + "\n")
        elif isinstance(node, ast.FunctionDef) and node.name in names:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found.append("\n\n" + "".join(lines[first - 1 : node.end_lineno]))
    return "".join(found)


def run(case: dict[str, Any], repos: Path, scratch: Path) -> list[Any]:
    """Simulate every part of a launch without data; returns the results.

    Raises:
        MissingSource: a source isn't there. Whatever the simulator raises passes through.
    """
    from tools.sim import load_kernel, simulate

    allow_missing_imports()
    path = source_path(case, repos, scratch)
    results = []
    for part in parts(case):
        folders = [str(repos / part["repo"].replace("/", "+") / p) for p in part.get("sys_path") or ()]
        kernel = load_kernel(
            path, part["function"], module=part.get("module"), search_paths=tuple(folders),
            prelude=tuple(part.get("prelude") or ()),
        )  # fmt: skip
        inputs = [np.broadcast_to(np.zeros((), _dtype(s["dtype"])), tuple(s["shape"])) for s in part["inputs"]]
        args = [_pick(a, inputs) for a in part["args"]] if part.get("args") else inputs
        keywords = {k: _pick(v, inputs) for k, v in (part.get("kwargs") or {}).items()}
        grid = tuple(part["grid"]) if part.get("grid") else None
        results.append(simulate(kernel, *args, grid=grid, target=part["device"], data=False, **keywords))
    return results


def _dtype(name: str) -> Any:
    return np.dtype(name) if hasattr(np, name) else np.dtype(getattr(ml_dtypes, name))


def _pick(value: Any, inputs: list[Any]) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\$\d+", value):
        return inputs[int(value[1:])]
    if isinstance(value, dict) and set(value) == {"tuple"}:
        return tuple(_pick(v, inputs) for v in value["tuple"])
    if isinstance(value, list):
        return [_pick(v, inputs) for v in value]
    return value


class _Anything:
    """Stands for whatever a published file imports for its test harness."""

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) and not keywords else _Anything()

    def __getitem__(self, key: Any) -> _Anything:
        return _Anything()

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (object,)


class _Module(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _Finder:
    """Import finder that gives an empty stand-in for frameworks that published files import but kernels
    don't use."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.split(".")[0] in self.names:
            return importlib.util.spec_from_loader(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> _Module:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return None


def allow_missing_imports() -> None:
    """Let published files import the frameworks of their test harness even where those aren't installed."""
    if not any(isinstance(f, _Finder) for f in sys.meta_path):
        missing = {n for n in OPTIONAL_IMPORTS if importlib.util.find_spec(n) is None}
        sys.meta_path.append(_Finder(missing))  # type: ignore[arg-type]
