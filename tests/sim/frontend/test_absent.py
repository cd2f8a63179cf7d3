"""Kernel files load although the modules of their host code aren't installed."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from tools.sim import KernelError, LoadedKernel, load_kernel, simulate
from tools.sim.frontend.loader import SAFE_IMPORTS

KERNEL = """
@nki.jit
def kernel(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.load(x)
    {body}
    nl.store(out, tile)
    return out
"""


def loaded(tmp_path: Path, head: str, body: str = "pass", **options: object) -> LoadedKernel:
    """A kernel whose file imports what `head` says and whose body runs `body`."""
    file = tmp_path / "published.py"
    language = "import neuronxcc.nki as nki\nimport neuronxcc.nki.language as nl\n"
    file.write_text(language + dedent(head) + KERNEL.format(body=body))
    return load_kernel(file, "kernel", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "head",
    [
        "import absent_torch",
        "import absent_torch.nn.functional as F\nfrom absent_torch.core import model as xm\nDEVICE = xm.device()",
        "from absent_torch import nn\nclass Layer(nn.Module):\n    def forward(self, x):\n        return kernel(x)",
        "from typing import Optional\nimport absent_torch as t\ndef host(x: Optional[t.Tensor], y: t.Tensor | None): ...",
        "import absent_torch as t\n@t.no_grad()\n@t.jit.script\ndef host(x):\n    return x",
        "import absent_torch as t\nTYPES = {t.float32: 4, t.bfloat16: 2}\nassert len(TYPES) == 2 and TYPES[t.float32] == 4",
        "import absent_torch as t\nif t.__version__ >= '2' and t.cuda.is_available():\n    raise RuntimeError",
        "import absent_torch as t\nassert len(t.ones(3)) == 0\nLOW = -t.finfo(t.float32).max / 2\nwith t.no_grad():\n    t.manual_seed(0)",
        "from absent_torch import *\nfrom .nowhere import helper",
    ],
)
def test_imports_of_host_code_do_not_keep_a_kernel_from_loading(tmp_path: Path, head: str) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(simulate(loaded(tmp_path, head), x).outputs[0], x)


def test_a_decorator_of_an_absent_module_leaves_the_function(tmp_path: Path) -> None:
    kernel = loaded(
        tmp_path, "import absent_torch as t\n@t.compile\ndef double(tile):\n    return tile * 2", "tile = double(tile)"
    )
    assert np.array_equal(simulate(kernel, np.ones((2, 2), np.float32)).outputs[0], np.full((2, 2), 2, np.float32))


@pytest.mark.parametrize(
    "guard", ["except ImportError", "except (ValueError, ModuleNotFoundError)", "except Exception", "except"]
)
def test_a_guarded_import_still_fails_as_the_file_expects(tmp_path: Path, guard: str) -> None:
    head = f"try:\n    import absent_torch\n    HAS = True\n{guard}:\n    HAS = False\nassert not HAS"
    assert loaded(tmp_path, head).function is not None


def test_a_suppressed_import_still_fails_as_the_file_expects(tmp_path: Path) -> None:
    head = "import contextlib\nHAS = False\nwith contextlib.suppress(ImportError):\n    import absent_torch\n    HAS = True\nassert not HAS"
    assert loaded(tmp_path, head).function is not None


def test_a_kernel_that_calls_an_absent_module_is_told_which_one_it_lacks(tmp_path: Path) -> None:
    kernel = loaded(tmp_path, "from absent_torch.ops import gelu", "tile = gelu(tile)")
    with pytest.raises(KernelError) as caught:
        simulate(kernel, np.ones((2, 2), np.float32))
    finding = caught.value.diagnostic
    assert finding.code == "KW-ABSENT-MODULE"
    assert finding.found == "absent_torch.ops.gelu"
    assert finding.where is not None
    assert finding.where.text == "tile = gelu(tile)"
    assert "search_paths" in finding.fix


def test_kernels_may_ask_whether_an_argument_is_of_an_absent_type(tmp_path: Path) -> None:
    kernel = loaded(tmp_path, "import absent_torch as t", "tile = nl.exp(tile) if isinstance(x, t.Tensor) else tile")
    assert np.array_equal(simulate(kernel, np.ones((2, 2), np.float32)).outputs[0], np.ones((2, 2), np.float32))


def test_untrusted_source_gets_no_stand_ins(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        loaded(tmp_path, "import absent_torch", allowed_imports=SAFE_IMPORTS)
    assert caught.value.diagnostic.code == "KW-IMPORT"


def test_a_missing_part_of_an_installed_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        loaded(tmp_path, "import numpy.no_such_part")
    assert caught.value.diagnostic.code == "KW-PYTHON"


@pytest.mark.parametrize(
    "call",
    [
        "kernel(t.ones((4, 4)))",
        "kernel[1](t.ones((4, 4)))",
        "nki.simulate_kernel(kernel, t.ones((4, 4)))",
        "nki.benchmark(kernel)(t.ones((4, 4)))",
    ],
)
def test_a_script_that_launches_its_kernel_on_absent_tensors_loads(tmp_path: Path, call: str) -> None:
    kernel = loaded(tmp_path, "import absent_torch as t")
    file = Path(kernel.path)
    file.write_text(file.read_text() + f"\nout = {call}\nassert t.allclose(out, t.ones(3))\nprint(out.cpu())\n")
    x = np.ones((2, 2), np.float32)
    assert np.array_equal(simulate(load_kernel(file, "kernel"), x).outputs[0], x)


def test_a_type_of_an_absent_module_is_refused_where_the_kernel_uses_it(tmp_path: Path) -> None:
    kernel = loaded(tmp_path, "import absent_torch as t", "tile = nl.copy(tile, dtype=t.float8)")
    with pytest.raises(KernelError) as caught:
        simulate(kernel, np.ones((2, 2), np.float32))
    assert caught.value.diagnostic.code == "KW-DTYPE"
