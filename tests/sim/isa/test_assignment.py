"""`tensor[...] = value` in the current dialect."""

from __future__ import annotations

from textwrap import dedent

import ml_dtypes
import numpy as np
import pytest

from tools.sim import KernelError, SimResult, load_source, simulate

PRELUDE = """
import nki
import nki.isa as nisa
import nki.language as nl
"""


def run(body: str, *args: object, **options: object) -> SimResult:
    return simulate(load_source(PRELUDE + dedent(body), "kernel"), *args, **options)


def opcodes(result: SimResult) -> list[str]:
    return [result.trace.opcode_name(i) for i in range(len(result.trace))]


def test_each_side_may_lie_on_chip_or_in_hbm() -> None:
    x = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)
    result = run(
        """
        @nki.jit
        def kernel(x):
            held = nl.ndarray((16, 2, 24), dtype=x.dtype, buffer=nl.sbuf)
            held[:, 0, :] = x
            held[:, 1, 0:24] = nl.exp(held[:, 0, :])
            out = nl.ndarray((16, 48), dtype=x.dtype, buffer=nl.shared_hbm)
            out[:, 0:24] = held[:, 1, :]
            out[:, 24:48] = x
            return out
        """,
        x,
    )
    np.testing.assert_allclose(result.outputs[0], np.concatenate([np.exp(x), x], 1), rtol=1e-6)
    assert opcodes(result) == ["dma_copy", "activation", "tensor_copy", "dma_copy", "dma_copy"]


def test_a_copy_on_chip_casts() -> None:
    x = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)
    result = run(
        """
        @nki.jit
        def kernel(x):
            narrow = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.sbuf)
            narrow[...] = nl.load(x)
            out = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.shared_hbm)
            out[...] = narrow
            return out
        """,
        x,
    )
    np.testing.assert_array_equal(result.outputs[0], x.astype(ml_dtypes.bfloat16))


def test_a_number_fills_a_slice_on_chip_and_in_hbm() -> None:
    result = run(
        """
        @nki.jit
        def kernel():
            held = nl.ndarray((8, 6), dtype=nl.float32, buffer=nl.sbuf)
            held[...] = 1.0
            held[:, 2:4] = 2.5
            out = nl.ndarray((8, 8), dtype=nl.float32, buffer=nl.shared_hbm)
            out[:, 0:6] = held
            out[:, 6:8] = -1.0
            return out
        """
    )
    np.testing.assert_array_equal(result.outputs[0], np.tile(np.float32([1, 1, 2.5, 2.5, 1, 1, -1, -1]), (8, 1)))


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("tile[...] = nisa.tensor_copy(dst=tile, src=tile)", "KW-ASSIGN"),
        ("tile[...] = 'one'", "KW-ASSIGN"),
        ("tile[...] = [1.0]", "KW-ASSIGN"),
        ("tile[:, 0:4] = tile", "KW-SHAPE-MISMATCH"),
        ("x[:, 0:4] = tile", "KW-DMA-SHAPE"),
        ("tile[0:4, :] = tile[0:8, :]", "KW-PARTITION-MISMATCH"),
        ("tile[:, 0:9] = tile", "KW-OUT-OF-BOUNDS"),
    ],
)
def test_what_cannot_be_assigned_is_refused(statement: str, code: str) -> None:
    with pytest.raises(KernelError) as caught:
        run(f"@nki.jit\ndef kernel(x):\n    tile = nl.load(x)\n    {statement}\n", np.ones((8, 8), np.float32))
    assert caught.value.diagnostic.code == code
    assert caught.value.diagnostic.where is not None
    assert caught.value.diagnostic.where.text == statement
