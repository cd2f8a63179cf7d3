"""One call of a Beta-1 instruction: what all of them do with keyword arguments, masks, operands and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tools.sim import context
from tools.sim.dtypes import DType
from tools.sim.frontend.beta1.mask import Box, resolve
from tools.sim.frontend.beta1.movement import source, tile_of, unknown
from tools.sim.frontend.beta1.promotion import dtype_of
from tools.sim.frontend.beta1.tile import ON_CHIP, Chooser, Tile, apart, begin, defer, is_empty
from tools.sim.tensor import Tensor


class Call:
    """A call while its arguments are read.

    Attributes:
        api: the instruction's name, for messages.
        core: the running core, which has issued what waited.
        chooser: what the mask leaves; None until `over` has read it.
    """

    __slots__ = ("api", "chooser", "core", "dtype", "mask")

    def __init__(self, api: str, extra: dict[str, Any], mask: Any = None, dtype: Any = None) -> None:
        """Begin a call; `extra` holds the keyword arguments that the instruction has no name for.

        Raises:
            KernelError: the instruction has no such argument.
        """
        unknown(api, extra)
        self.api = api
        self.core = begin()
        self.mask = mask
        self.dtype = dtype
        self.chooser: Chooser = None

    # -- what the mask leaves ----------------------------------------------------------------------------------------

    def over(self, shape: tuple[int, ...], rectangle: bool = False) -> None:
        """Read the mask over tiles of `shape`; `rectangle` says that single elements can't be left out."""
        self.chooser = resolve(self.mask, shape)
        if rectangle and isinstance(self.chooser, np.ndarray):
            context.unsupported(f"{self.api} with a mask that is no rectangle")

    @property
    def empty(self) -> bool:
        """Whether the mask leaves nothing."""
        return is_empty(self.chooser)

    @property
    def box(self) -> Box:
        """The rectangle that the mask leaves; () when it leaves everything or nothing."""
        return self.chooser if isinstance(self.chooser, tuple) else ()

    # -- operands ----------------------------------------------------------------------------------------------------

    def tile(self, value: Any, name: str) -> Tile:
        """An operand that must be a tile, whole."""
        return tile_of(value, name, self.api)

    def data(self, value: Any, name: str = "data", rectangle: bool = False) -> tuple[Tile, Tile]:
        """The operand that the mask is about, whole and as the mask leaves it."""
        tile = self.tile(value, name)
        self.over(tile.shape, rectangle)
        return tile, source(tile, self.chooser)

    def read(self, value: Any, name: str) -> Tile:
        """A further operand of the same shape, as the mask leaves it."""
        return source(self.tile(value, name), self.chooser)

    def lane(self, value: Any, name: str) -> Any:
        """A scalar operand, or a [P, 1] tile narrowed as the data is."""
        if not isinstance(value, Tensor):
            return value
        tile = self.tile(value, name)
        return tile.narrow(self.box) if self.box else tile

    def rows(self, tile: Tile) -> Tile:
        """The partitions of an operand that the mask of another one leaves, whole."""
        if isinstance(self.chooser, np.ndarray):
            context.unsupported(f"{self.api} with a mask that is no rectangle")
        return tile.narrow((self.box[0], *((0, n) for n in tile.shape[1:]))) if self.box else tile

    # -- results -----------------------------------------------------------------------------------------------------

    def into(self, dst: Any) -> tuple[Tile, Tile]:
        """A destination that the kernel gives, whole and as the mask leaves it.

        Raises:
            KernelError: `dtype` was given and isn't the destination's.
        """
        target = self.tile(dst, "dst")
        if self.dtype is not None and dtype_of(self.dtype) is not target.dtype:
            context.fail(
                "KW-DTYPE",
                f"{self.api}: dst is {target.dtype}, dtype says {self.dtype}",
                operand="dtype",
                fix="give dtype and the destination the same type, or leave dtype out",
            )
        self.over(target.shape)
        return target, target if self.empty else apart(target, self.chooser)

    def result(self, shape: tuple[int, ...], default: DType, emit: Callable[[Any], None], **options: Any) -> Any:
        """The result tile, of the type that the kernel asked for or else `default`; `emit(dst)` issues the instruction.

        `options` are those of `defer`; the mask is the call's unless one says otherwise.
        """
        kind = default if self.dtype is None else dtype_of(self.dtype)
        options.setdefault("chooser", self.chooser)
        options.setdefault("spaces", ON_CHIP)
        return defer(self.core, shape, kind, emit, explicit=self.dtype is not None, **options)
