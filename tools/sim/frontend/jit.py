"""`@nki.jit`: marks an entry point. Called inside a kernel it is inlined; called by a user it runs on the simulator."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from tools.sim import context


class JitKernel:
    """A kernel function as the decorator leaves it: callable, and launchable with a grid.

    Attributes:
        function: the undecorated function.
        dialect: the namespace whose decorator made it.
        options: keyword arguments of the decorator, kept for `strict` checks.
        grid: the launch grid, when made by `kernel[grid]`.
    """

    def __init__(
        self, function: Callable[..., Any], dialect: str, options: dict[str, Any], grid: tuple[Any, ...] = ()
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.dialect = dialect
        self.options = options
        self.grid = grid

    def __getitem__(self, grid: Any) -> JitKernel:
        sizes = grid if isinstance(grid, tuple) else (grid,)
        return JitKernel(self.function, self.dialect, self.options, sizes)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if context.find() is not None:
            if self.grid and self.dialect == "neuronxcc.nki":
                context.fail(
                    "KW-NESTED-GRID",
                    "a kernel called inside a kernel can't have a grid",
                    fix="drop the [grid] of the inner call",
                )
            return self.function(*args, **kwargs)
        from tools.sim.execute import run_for_user

        return run_for_user(self, args, kwargs)


def make_jit(dialect: str) -> Callable[..., Any]:
    """The `jit` decorator of a dialect, usable bare and with arguments."""

    def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return lambda f: jit(f, **options)
        if isinstance(function, JitKernel):
            return JitKernel(function.function, dialect, {**function.options, **options})
        return JitKernel(function, dialect, options)

    return jit


def default_precision() -> str:
    """Precision of launches by the user: NKI_PRECISE_FP=0 keeps low-precision types as float32 (simulator guide)."""
    return "exact" if os.environ.get("NKI_PRECISE_FP") == "0" else "hardware"


def default_target() -> str:
    """Target for launches that name none: NEURON_PLATFORM_TARGET_OVERRIDE, NKI_NC_VERSION, else trn2."""
    return os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") or os.environ.get("NKI_NC_VERSION") or "trn2"
