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
        rename: give every whole overwrite of a tile its own space.
        place_loads: issue the DMAs that name no engine in the order in which their data is needed.
        forward: rows that the Tensor Engine spreads over partitions are read from PSUM without a copy.
        reuse: values that SBUF still holds are neither loaded nor computed again, while there is room.
        balance: copies and tensor_scalar are shared out between Vector and Scalar, or all on Scalar, by generation.
        queue_window: DMAs among which a queue that the compiler fills picks the first ready one, so that a store
            that waits for its result holds no load up.
        trip_barriers: loops whose trips don't go evenly over the DMA engines run trip by trip (see `barriers`).
        spill: tiles that don't fit SBUF are saved to HBM and loaded again (see `spilling`).
        whole_tensors: what a loop nest writes to HBM is read by another nest only once all of it is there.
    """

    name: str
    window: int = 1
    rename: bool = False
    place_loads: bool = False
    forward: bool = False
    reuse: bool = False
    balance: bool = False
    queue_window: int = 16
    trip_barriers: bool = False
    spill: bool = False
    whole_tensors: bool = False


IN_ORDER = CompilerModel("in-order")
"""Every engine runs its instructions in program order, in the tiles that the kernel named."""

BETA2 = CompilerModel("beta2", window=64, rename=True, place_loads=True)
"""nki kernels: the compiler schedules instructions and allocates tiles, but moves no data on its own."""

BETA1 = CompilerModel(
    "beta1", window=128, rename=True, place_loads=True, forward=True, reuse=True, balance=True, trip_barriers=True,
    spill=True, whole_tensors=True,
)  # fmt: skip
"""neuronxcc.nki kernels: the compiler also keeps values in SBUF, spills, drops copies, balances engines, rolls loops."""


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
        return BETA1 if dialect.startswith("neuronxcc") else BETA2
