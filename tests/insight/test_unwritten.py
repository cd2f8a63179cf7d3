"""Reads of memory that nothing wrote: found without values, and never where something was written."""

from __future__ import annotations

import numpy as np
import pytest

from tests.insight.conftest import BLOCKED, record
from tests.insight.rule_kernels import PAIRS, source
from tests.insight.test_rules import observed
from tools.insight import unwritten_outputs, unwritten_reads
from tools.library import load
from tools.sandbox import Worker
from tools.sim.instruction import Trace

SPLIT = """
out = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.shared_hbm)
t = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.sbuf)
nisa.dma_copy(dst=t[:, 0:32], src=x[:, 0:32])
{late}
nisa.tensor_scalar(t[:, 32:64], t[:, 32:64], nl.add, 1.0)
{after}
nisa.dma_copy(dst=out, src=t)
return out
"""


def trace(body: str) -> Trace:
    return record(source(body), np.zeros((128, 2048), np.float32), np.zeros((128, 2048), np.float32)).trace


def test_a_part_that_nothing_wrote_is_named_with_its_line_and_tile() -> None:
    (found,) = unwritten_reads(trace(SPLIT.format(late="", after="")))
    assert found.code == "KW-UNINITIALISED"
    assert found.where is not None
    assert found.where.text.startswith("nisa.tensor_scalar(t[:, 32:64]")
    assert "128x64 float32" in found.message


def test_a_write_that_comes_later_doesnt_help_and_an_earlier_one_does() -> None:
    write = "nisa.dma_copy(dst=t[:, 32:64], src=x[:, 32:64])"
    assert unwritten_reads(trace(SPLIT.format(late=write, after=""))) == ()
    assert len(unwritten_reads(trace(SPLIT.format(late="", after=write)))) == 1


def test_scratch_tensors_in_hbm_count_too() -> None:
    body = (
        "out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "mid = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.hbm)\nnisa.dma_copy(dst=out, src=mid)\nreturn out"
    )
    assert len(unwritten_reads(trace(body))) == 1


@pytest.mark.parametrize("name", PAIRS)
def test_the_clean_rule_kernels_read_nothing_unwritten(name: str) -> None:
    assert unwritten_reads(observed(PAIRS[name].clean, PAIRS[name]).trace) == ()


def test_accumulation_into_a_new_bank_isnt_a_read() -> None:
    assert (
        unwritten_reads(record(BLOCKED, np.zeros((256, 256), np.float32), np.zeros((256, 512), np.float32)).trace) == ()
    )


RAGGED = """
out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
for i in range(x.shape[1] // {width}):
    t = nl.ndarray((128, {width}), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=t, src=x[:, i*{width}:(i+1)*{width}])
    nisa.dma_copy(dst=out[:, i*{width}:(i+1)*{width}], src=t)
return out
"""


def test_an_output_that_the_stores_cant_fill_is_named() -> None:
    (found,) = unwritten_outputs(trace(RAGGED.format(width=600)))
    assert found.code == "KW-OUTPUT-UNWRITTEN"
    assert "at most 87.9% are written" in found.message
    assert found.where is not None
    assert found.where.text.startswith("out = nl.ndarray")
    assert unwritten_outputs(trace(RAGGED.format(width=512))) == ()


def test_an_output_of_which_almost_nothing_is_left_isnt_called_full() -> None:
    (found,) = unwritten_outputs(trace(RAGGED.format(width=2047)))
    assert "at most 99.95% are written" in found.message


@pytest.mark.parametrize("name", ["transpose", "matmul", "layernorm", "rope", "adamw"])
def test_kernels_of_the_library_fill_their_outputs(name: str) -> None:
    kernel, task = load(name, None, None)
    with Worker() as worker:
        recorded = worker.record(
            kernel.source, kernel.function, [{"shape": s.shape, "dtype": s.dtype} for s in task.inputs], task.target
        )
    assert unwritten_outputs(recorded.program.trace) == ()


@pytest.mark.parametrize("name", ["softmax", "attention", "mamba", "matmul_blocked"])
def test_kernels_of_the_library_read_nothing_unwritten(name: str) -> None:
    kernel, task = load(name, None, None)
    with Worker() as worker:
        recorded = worker.record(
            kernel.source, kernel.function, [{"shape": s.shape, "dtype": s.dtype} for s in task.inputs], task.target
        )
    assert unwritten_reads(recorded.program.trace) == ()
