"""What can be switched in the timing model, and what the compiler is assumed to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CompilerModel:
    """What stands between the recorded program and the instruction streams that the engines run.

    Attributes:
        name: shown in reports.
        window: instructions of one engine among which the scheduler may pick the first that is ready; 1 keeps
            program order.
    """

    name: str
    window: int = 1


IN_ORDER = CompilerModel("in-order")
"""Every engine runs its instructions in program order."""

BETA1 = CompilerModel("beta1", window=64)
"""neuronxcc.nki kernels: the compiler reorders instructions and overlaps iterations."""


@dataclass(frozen=True, slots=True)
class TimingOptions:
    """Switches of the timing model.

    Attributes:
        compiler_model: `auto` takes `beta1` for the neuronxcc.nki dialect and `in-order` otherwise; a
            `CompilerModel`
            is taken as it is.
        throttle: model the Tensor Engine's clock cap after idle periods (trn2 and later).
        space: make new tiles wait for the SBUF and PSUM space of older ones.
    """

    compiler_model: CompilerModel | Literal["auto"] = "auto"
    throttle: bool = True
    space: bool = True

    def compiler(self, dialect: str) -> CompilerModel:
        """The compiler model for a trace of `dialect`."""
        if isinstance(self.compiler_model, CompilerModel):
            return self.compiler_model
        return BETA1 if dialect.startswith("neuronxcc") else IN_ORDER
