"""Registers and queries: values that live in an engine's sequencer, not in a tile."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from tools.sim import context
from tools.sim.errors import SourceRange
from tools.sim.instruction import Effect, Engine, opcode
from tools.sim.isa.enums import nc_version
from tools.sim.isa.operands import tensor
from tools.sim.tensor import Tensor


def _asking() -> SourceRange | None:
    """The kernel line that is executing, if a kernel is."""
    core = context.find()
    return core.where() if core is not None else None


class Register:
    """A 32-bit sequencer register: its value is known only while the program runs; arithmetic gives new registers."""

    __slots__ = ("frozen", "known", "value")

    def __init__(self, value: int | float = 0, frozen: bool = False) -> None:
        self.value = value
        self.frozen = frozen

    def __index_value__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        where = _asking()
        if where is not None and not where.text.startswith("while"):
            message = "a register is used as a condition; its value isn't known while the kernel is built"
            fix = "use nl.while_loop or nl.fori_loop, or a predicate instruction"
            context.strict_fail("KW-REGISTER-VALUE", message, found=repr(self), fix=fix)
            context.warn("KW-REGISTER-VALUE", f"{message} (taken as it is here)", found=repr(self), fix=fix)
        return bool(self.value)

    def __index__(self) -> int:
        context.fail(
            "KW-REGISTER-VALUE",
            "a register is used as a Python integer; its value isn't known while the kernel is built",
            found=repr(self),
            fix="use nl.dynamic_range or nl.fori_loop for loops, and .ap(scalar_offset=register) for offsets",
        )

    def _with(self, other: Any, operate: Any) -> Register:
        return Register(operate(self.value, other.value if isinstance(other, Register) else other))

    def __add__(self, other: Any) -> Register:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> Register:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> Register:
        return self._with(other, operator.mul)

    def __floordiv__(self, other: Any) -> Register:
        return self._with(other, operator.floordiv)

    def __mod__(self, other: Any) -> Register:
        return self._with(other, operator.mod)

    __radd__, __rmul__ = __add__, __mul__

    def __repr__(self) -> str:
        return f"register({self.value})"

    def set(self, value: int | float) -> None:
        """Overwrite the value; a loop's own variable refuses."""
        if self.frozen:
            context.fail(
                "KW-REGISTER-FROZEN", "a loop variable can't be written", fix="copy it to a register of your own first"
            )
        self.value = value


@opcode("register_load", kind="control", cost="control", source="ISA register_load", effect=Effect.BEYOND)
def REGISTER_LOAD(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], register: Register) -> None:
    """register = the one element of a tensor."""
    value = ins[0].read().reshape(-1)[0]
    register.set(float(value) if ins[0].dtype.is_float else int(value))


def register_alloc(x: Any = None, name: str | None = None) -> Register:
    """A new register, optionally with a value (an int, or a 1-element tensor to load)."""
    register = Register()
    if isinstance(x, Tensor):
        register_load(register, x)
    elif x is not None:
        register.value = x.value if isinstance(x, Register) else x
    return register


def _register(value: Any, name: str, api: str) -> Register:
    if not isinstance(value, Register):
        context.fail(
            "KW-OPERAND-TYPE",
            f"{api}: {name} is {type(value).__name__}, not a register",
            operand=name,
            fix="make one with nisa.register_alloc",
        )
    return value


def register_load(dst: Any, src: Any, name: str | None = None) -> None:
    """dst (register) = the one element of src (HBM or SBUF)."""
    register = _register(dst, "dst", "register_load")
    source = tensor(src, "src", api="register_load")
    if source.size != 1:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"register_load: src has {source.size} elements, not 1",
            operand="src",
            limit=1,
            fix="slice src to one element",
        )
    context.current().issue(
        REGISTER_LOAD, Engine.SYNC, (), (source,), free=1, partitions=1, params={"register": register}
    )


def register_move(dst: Any, src: Any = None, imm: Any = None, name: str | None = None) -> None:
    """dst (register) = src (register or int; `imm=` is the 0.2 spelling)."""
    register = _register(dst, "dst", "register_move")
    value = imm if src is None else src
    register.set(value.value if isinstance(value, Register) else int(value))


@opcode("register_store", kind="control", cost="control", source="ISA register_store", effect=Effect.BEYOND)
def REGISTER_STORE(outs: tuple[Tensor, ...], ins: tuple[Tensor, ...], register: Register) -> None:
    """The one element of a tensor = register."""
    outs[0].write(np.asarray(register.value).reshape((1,) * outs[0].ndim))


def register_store(dst: Any, src: Any, name: str | None = None) -> None:
    """The one element of dst = src (register)."""
    register = _register(src, "src", "register_store")
    target = tensor(dst, "dst", api="register_store")
    if target.size != 1:
        context.fail(
            "KW-SHAPE-MISMATCH",
            f"register_store: dst has {target.size} elements, not 1",
            operand="dst",
            limit=1,
            fix="slice dst to one element",
        )
    context.current().issue(
        REGISTER_STORE, Engine.SYNC, (target,), (), free=1, partitions=1, params={"register": register}
    )


def get_nc_version() -> nc_version:
    """The NeuronCore generation of the target."""
    return nc_version(context.current().machine.generation)


def get_nc_sub_version() -> int:
    """Silicon revision of the target's NeuronCore: 0, the first one."""
    context.current()
    return 0
