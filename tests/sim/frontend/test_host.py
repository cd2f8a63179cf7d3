"""Kernels that Python itself imports, in a process of their own because install() changes sys.modules."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tools.sim import load_kernel, load_source, simulate
from tools.sim.frontend.host_dtypes import host_dtype, is_float_type, sizeinbytes, static_cast

ROOT = Path(__file__).resolve().parents[3]


def run_python(tmp_path: Path, text: str) -> str:
    (tmp_path / "helper.py").write_text(
        "import nki.isa as nisa\nimport nki.language as nl\n\n"
        "def double(t):\n    nisa.tensor_scalar(t, t, nl.multiply, 2.0)\n    return t[:, 0:5]\n"
    )
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


KERNEL = """
    from tools.sim import install
    install()
    import numpy as np
    import nki, nki.language as nl, nki.isa as nisa
    from nki.isa.constants import oob_mode
    import nki.collectives as ncc
    import neuron_dtypes as dt
    from typing import Optional
    import helper

    @nki.jit
    def kernel(x, kind: nki.dtype = nl.float32, other: Optional[nki.dtype] = None):
        t = nl.ndarray(x.shape, dtype=kind, buffer=nl.sbuf)
        nisa.dma_copy(t, x)
        helper.double(t)
        out = nl.ndarray(x.shape, dtype=kind, buffer=nl.shared_hbm)
        nisa.dma_copy(out, t)
        return out
"""


def test_imported_kernels_run(tmp_path):
    text = (
        KERNEL
        + "    x = np.ones((4, 8), np.float32)\n    print(kernel(x).sum(), nki.cpu_simulate(kernel)[1](x=x).sum())\n"
    )
    assert run_python(tmp_path, text).split() == ["64.0", "64.0"]


def test_lines_of_imported_helpers_are_named(tmp_path):
    text = (
        KERNEL
        + """
    from tools.sim import KernelError
    try:
        kernel(np.ones((4, 4), np.float32))
    except KernelError as error:
        print(error.diagnostic.code, error.diagnostic.where.file.rsplit("/")[-1], error.diagnostic.where.line)
"""
    )
    assert run_python(tmp_path, text).split() == ["KW-OUT-OF-BOUNDS", "helper.py", "6"]


def test_numpy_knows_the_packed_types(tmp_path):
    text = """
    from tools.sim import install
    install()
    import numpy as np
    import nki, nki.language as nl, nki.isa as nisa
    import neuron_dtypes as dt

    @nki.jit
    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(out, x)
        return out

    for name in ("float8_e4m3fn_x4", "float8_e5m2_x4", "float4_e2m1fn_x4"):
        made = np.zeros((4, 4), dtype=getattr(nl, name))
        print(made.dtype == np.dtype(name) == getattr(dt, name), kernel(made).dtype.itemsize)
"""
    assert run_python(tmp_path, text).split() == ["True", "4", "True", "4", "True", "2"]


def test_target_comes_from_the_environment(tmp_path):
    text = (
        KERNEL
        + """
    import os
    @nki.jit
    def version(x):
        print(nisa.get_nc_version().name)
        return x
    for name, value in (("NKI_NC_VERSION", "gen4"), ("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")):
        os.environ[name] = value
        version(np.ones((4, 4), np.float32))
"""
    )
    assert run_python(tmp_path, text).split() == ["gen4", "gen2"]


@pytest.mark.parametrize("name", ["float8_e4m3fn_x4", "float8_e5m2_x4", "float4_e2m1fn_x4"])
def test_static_cast_packs_four_neighbours(name):
    x = np.array([[0.5, -1, 2, 1, 4, -0.5, 0, 6]], np.float32)
    packed = static_cast(x, name)
    assert packed.shape == (1, 2)
    assert packed.dtype == host_dtype(name)
    assert "x4" in str(packed.dtype)
    assert packed.dtype.itemsize == sizeinbytes(name)
    assert np.array_equal(static_cast(packed, np.float32), x)
    assert is_float_type(name)
    assert static_cast(packed, name) is packed


def test_static_cast_of_ordinary_types():
    x = np.array([1.5, 300.0], np.float32)
    assert static_cast(x, "bfloat16").dtype == ml_dtypes.bfloat16
    assert static_cast(x, np.int32).tolist() == [1, 300]
    assert not is_float_type(np.int8)


def test_kernels_that_turn_logging_off_load_and_leave_the_hosts_logging_alone():
    source = (
        "import logging\nimport neuronxcc.nki as nki\nimport neuronxcc.nki.language as nl\n"
        "logging.disable(logging.OFF)\n@nki.jit\ndef kernel(a):\n"
        "    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)\n    nl.store(out, nl.load(a))\n    return out\n"
    )
    a = np.ones((4, 4), np.float32)
    assert np.array_equal(simulate(load_source(source), a).outputs[0], a)
    assert logging.getLogger("anything").isEnabledFor(logging.CRITICAL)
    assert not hasattr(logging, "OFF")


def test_a_package_may_import_its_own_parts_while_it_loads(tmp_path):
    package = tmp_path / "pack" / "inner"
    package.mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text("from .inner.part import double\nplaces = list(__path__)\n")
    (package / "__init__.py").write_text("from .part import double as twice\n")
    (package / "part.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "main.py").write_text(
        "import nki\nimport nki.language as nl\nfrom pack import double, places\nfrom pack.inner import twice\n"
        "assert double is twice and places\n@nki.jit\ndef kernel(a):\n"
        "    out = nl.ndarray((double(2), 4), a.dtype, buffer=nl.shared_hbm)\n    nl.store(out, nl.load(a))\n    return out\n"
    )
    a = np.ones((4, 4), np.float32)
    assert np.array_equal(simulate(load_kernel(tmp_path / "main.py", "kernel"), a).outputs[0], a)


def test_precision_comes_from_the_environment(tmp_path):
    text = (
        KERNEL
        + """
    import os
    @nki.jit
    def third(x):
        t = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.dma_copy(t, x)
        out = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(out, t)
        return out
    x = np.full((4, 4), 1 / 3, np.float32)
    for value in ("1", "0"):
        os.environ["NKI_PRECISE_FP"] = value
        print(bool((third(x) == x).all()))
"""
    )
    assert run_python(tmp_path, text).split() == ["False", "True"]


def test_a_test_suite_gets_the_modules_by_the_pytest_plugin(tmp_path):
    (tmp_path / "conftest.py").write_text("import nki.language as nl\nimport neuron_dtypes\nassert nl.float32\n")
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            from nki_cpu_simulator import nki
            import nki_cpu_simulator.nki.isa.constants
            import neuronxcc.nki as old
            import neuronxcc.nki.language as onl
            import nki.language as nl, nki.isa as nisa

            def copied(x):
                out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
                nisa.dma_copy(out, x)
                return out

            @old.jit
            def doubled(x):
                out = onl.ndarray(x.shape, dtype=x.dtype, buffer=onl.shared_hbm)
                onl.store(out, onl.load(x) * 2)
                return out

            def test_both_dialects():
                x = np.ones((4, 4), np.float32)
                assert (nki.cpu_simulate(copied)[1](x=x) == x).all()
                assert (old.simulate_kernel(doubled, x) == 2 * x).all()
            """
        )
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tools.sim.pytest_plugin",
            "-q",
            "-p",
            "no:cacheprovider",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
