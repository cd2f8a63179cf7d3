"""The 14 problems of NKIBench (float32) as launches of the kernel library, at full size and at a quarter of it.

Shapes and meanings: benchmark problems of AccelOpt's NKIBench. The kernels are the library's own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KERNELS = Path(__file__).resolve().parents[1] / "kernels"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: which library kernel solves it, on which shapes.

    Attributes:
        name: NKIBench's name.
        kernel: folder under `kernels/`.
        full, quick: input shapes at full size and for a short run.
        positive: inputs that must not be negative.
        scale: factor on the normal draws of each input.
    """

    name: str
    kernel: str
    full: tuple[tuple[int, ...], ...]
    quick: tuple[tuple[int, ...], ...]
    positive: tuple[int, ...] = ()
    negative: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()

    def inputs(self, quick: bool) -> list[NDArray[np.float32]]:
        """Random inputs of the chosen size."""
        rng = np.random.default_rng(0)
        drawn = []
        for i, shape in enumerate(self.quick if quick else self.full):
            values = rng.standard_normal(shape, dtype=np.float32)
            if i in self.positive:
                values = np.abs(values)
            if i in self.negative:
                values = -np.abs(values)
            if self.scale:
                values *= np.float32(self.scale[i])
            drawn.append(values)
        return drawn

    @property
    def source(self) -> Path:
        """The kernel's file."""
        return KERNELS / self.kernel / "kernel.py"

    def reference(self) -> Callable[..., Any]:
        """The NumPy function that says what is right."""
        spec = importlib.util.spec_from_file_location(
            f"reference_{self.kernel}", KERNELS / self.kernel / "reference.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function: Callable[..., Any] = module.reference
        return function


PROBLEMS = (
    Problem("silu", "silu", ((4096, 7168),), ((1024, 7168),)),
    Problem("adamw", "adamw", ((10944, 2048),) * 4, ((2736, 2048),) * 4, positive=(3,)),
    Problem(
        "rope_single_freq_apply",
        "rope",
        ((128, 262144), (64, 262144), (64, 262144)),
        ((128, 65536), (64, 65536), (64, 65536)),
    ),
    Problem("matmul", "linear", ((4096, 5120), (5120, 12288)), ((1024, 2560), (2560, 3072))),
    Problem("transpose_matmul", "transpose_matmul", ((2048, 4096), (2048, 10944)), ((1024, 2048), (1024, 2736))),
    Problem("bmm", "bmm", ((16, 4096, 64), (16, 64, 4096)), ((4, 2048, 64), (4, 64, 4096))),
    Problem("bmm_softmax", "bmm_softmax", ((16, 4096, 64), (16, 64, 4096)), ((2, 2048, 64), (2, 64, 4096))),
    Problem(
        "gqa_full",
        "gqa",
        ((16, 4096, 128), (8, 4096, 128), (8, 4096, 128)),
        ((4, 2048, 128), (2, 2048, 128), (2, 2048, 128)),
    ),
    Problem("rmsnorm_matmul", "rmsnorm_matmul", ((4096, 1024), (1024, 2048)), ((1024, 1024), (1024, 2048))),
    Problem(
        "add_rmsnorm_matmul",
        "add_rmsnorm_matmul",
        ((4096, 1024), (4096, 1024), (1024, 1), (1024, 2048)),
        ((1024, 1024), (1024, 1024), (1024, 1), (1024, 2048)),
    ),
    Problem(
        "matmul_add_rmsnorm",
        "matmul_add_rmsnorm",
        ((4096, 2048), (2048, 2048), (4096, 2048), (1, 2048)),
        ((1024, 2048), (2048, 2048), (1024, 2048), (1, 2048)),
    ),
    Problem(
        "swiglu",
        "swiglu",
        ((4096, 1024), (1024, 3072), (1024, 3072), (3072, 1024)),
        ((1024, 1024), (1024, 3072), (1024, 3072), (3072, 1024)),
        scale=(1.0, 0.03, 0.03, 0.03),
    ),
    Problem(
        "lora",
        "lora",
        ((4096, 5120), (5120, 12288), (5120, 128), (128, 12288)),
        ((1024, 2560), (2560, 3072), (2560, 128), (128, 3072)),
    ),
    Problem(
        "mamba",
        "mamba",
        ((256, 7168), (256, 7168), (256, 16), (16, 7168), (16, 7168)),
        ((256, 2048), (256, 2048), (256, 16), (16, 2048), (16, 2048)),
        positive=(0,),
        negative=(2,),
        scale=(0.1, 1.0, 1.0, 1.0, 1.0),
    ),
)
