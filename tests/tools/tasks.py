"""Small tasks and kernels that several tests judge."""

from __future__ import annotations

from typing import Any

from tools.task import Kernel, Reference, Task, TensorSpec, Tolerance

HEAD = "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n"
FP32 = Tolerance(rtol=1e-4, atol=1e-4, rel_l2=2e-5, reason="float32 arithmetic in another order")
BF16 = Tolerance(rtol=2e-2, atol=3e-2, rel_l2=8e-3, reason="bfloat16 keeps 8 bits")

Input = tuple[str, tuple[int, ...], str]


def task(reference: str, *inputs: Input, tolerance: Tolerance = FP32, **more: Any) -> Task:
    return Task(
        name=more.pop("name", "test"),
        request="a test",
        reference=Reference(source=f"import numpy as np\n{reference}\n", origin="file"),
        inputs=tuple(TensorSpec(name=n, shape=s, dtype=d, **more.pop(n, {})) for n, s, d in inputs),
        tolerance=tolerance,
        **more,
    )


def kernel(body: str, head: str = HEAD) -> Kernel:
    return Kernel(source=head + body)


def rowwise(work: str, names: str = "x", out: str = "x.dtype", shape: str = "x.shape", setup: str = "") -> Kernel:
    """A kernel over tiles of 128 rows: `work` turns `tile` (rows start .. start+n) into `tile`."""
    return kernel(f"""
@nki.jit
def kernel({names}):
    out = nl.ndarray({shape}, dtype={out}, buffer=nl.shared_hbm)
    {setup or "pass"}
    for start in range(0, x.shape[0], 128):
        n = min(128, x.shape[0] - start)
        tile = nl.ndarray((n, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + n, :])
{chr(10).join("        " + line for line in work.strip().splitlines())}
        nisa.dma_copy(dst=out[start : start + n, :], src=tile)
    return out
""")


ADD = task("def reference(x, y):\n    return x + y", ("x", (192, 96), "float32"), ("y", (192, 96), "float32"))
ADD_KERNEL = rowwise(
    """
other = nl.ndarray((n, y.shape[1]), dtype=y.dtype, buffer=nl.sbuf)
nisa.dma_copy(dst=other, src=y[start : start + n, :])
nisa.tensor_tensor(dst=tile, data1=tile, data2=other, op=nl.add)
""",
    "x, y",
)
