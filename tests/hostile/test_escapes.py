"""Kernels that try to get out: to the host's files, processes and network, or into the simulator's own objects."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from tests.tools.tasks import HEAD
from tools import confinement
from tools.sandbox import JobFailed, Worker

SPECS = [{"name": "x", "shape": (128, 64), "dtype": "float32"}]

BY_RULES = [
    "import os",
    "import sys",
    "import subprocess",
    "import ctypes",
    "import inspect",
    "import gc",
    "import importlib",
    "import tools.sim",
    "from tools.sim import context",
    "from . import secrets",
    "import numpy.f2py",
    "from numpy import ctypeslib",
    "from enum import sys",
    "from random import _os",
    "from math import *",
    "kernel.__globals__",
    "().__class__",
    "''.__class__.__mro__",
    "nl.add.call.__globals__",
    "nl.add.__init__.__globals__",
    "(i for i in ()).gi_frame.f_back",
    "__import__('os')",
    "__builtins__['open']",
    "eval('1')",
    "exec('1')",
    "compile('1', '', 'eval')",
    "open('/etc/passwd')",
    "input()",
    "breakpoint()",
    "globals()",
    "vars()",
    "getattr(nl, '__dict__')",
    "getattr(nl, '__di' + 'ct__')",
    "setattr(nl, '__class__', int)",
    "nl.__dict__",
    "x.buffer.host",
    "x.read()",
    "x.write(0)",
    "x.map_view(0)",
    "nki.simulate(kernel)",
    "type('T', (), {'__array_interface__': {}})",
    "{'__array_interface__': {}}",
    "exit()",
]


@pytest.mark.parametrize("line", BY_RULES)
def test_reaching_out_is_refused_by_the_rules(worker: Worker, line: str) -> None:
    body = (
        f"{line}\ndef kernel(x):\n    return x\n"
        if "import " in line
        else f"def kernel(x):\n    {line}\n    return x\n"
    )
    with pytest.raises(JobFailed) as caught:
        worker.record(HEAD + body, "kernel", SPECS, "trn2")
    assert caught.value.kind == "kernel"
    assert caught.value.finding is not None
    assert caught.value.finding.code in ("KW-IMPORT", "KW-FORBIDDEN")
    assert caught.value.finding.fix


@pytest.mark.parametrize(
    "body",
    [
        "match kernel:\n        case object(__globals__=g):\n            pass",
        "class T:\n        __array_interface__ = {}",
        "class T:\n        def __getattr__(self, name): return 1",
        "def __class_getitem__(a): pass",
    ],
)
def test_reaching_out_by_syntax_is_refused_too(worker: Worker, body: str) -> None:
    with pytest.raises(JobFailed) as caught:
        worker.record(f"{HEAD}def kernel(x):\n    {body}\n    return x\n", "kernel", SPECS, "trn2")
    assert caught.value.finding is not None
    assert caught.value.finding.code == "KW-FORBIDDEN"


def test_ordinary_python_is_not_refused(worker: Worker) -> None:
    source = (
        HEAD
        + """
from __future__ import annotations
""".strip()
        + """
import math
import functools
import itertools
import numpy as np
from dataclasses import dataclass
from enum import Enum


class Order(Enum):
    ROWS = 1
    COLUMNS = 2


@dataclass(frozen=True)
class Block:
    height: int
    order: Order = Order.ROWS

    def __post_init__(self):
        assert self.height > 0


class Holder:
    def __init__(self, block):
        self._block = block

    def height(self):
        return self._block.height


@functools.lru_cache
def ceiling(a, b):
    return math.ceil(a / b)


@nki.jit
def kernel(input):
    holder = Holder(Block(height=128))
    out = nl.ndarray(input.shape, dtype=input.dtype, buffer=nl.shared_hbm)
    for i, _ in itertools.product(range(ceiling(input.shape[0], holder.height())), range(1)):
        tile = nl.ndarray((128, input.shape[1]), dtype=input.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=input[i * 128 : (i + 1) * 128, :])
        if hasattr(nl, "exp") and getattr(nl, "exp") is not None and int(np.prod(tile.shape)) > 0 and type(i) is int:
            nisa.activation(dst=tile, op=nl.exp, data=tile)
        nisa.dma_copy(dst=out[i * 128 : (i + 1) * 128, :], src=tile)
    return out
"""
    )
    lines = source.splitlines()
    lines.sort(key=lambda line: line != "from __future__ import annotations")
    assert len(worker.record("\n".join(lines), "kernel", SPECS, "trn2").program.trace) == 3


# -- behind the rules: what a process can do that found a way past them --------------------------------------------------


def confined(action: str) -> str:
    """Run one line of Python in a confined child process with all of Python at hand; returns what came of it."""
    import numpy as np

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = "nothing was refused"
        try:
            os.close(read)
            walls = confinement.confine(confinement.Limits(seconds=5, memory_bytes=256 << 20))
            try:
                exec(action, {"os": os, "socket": socket, "threading": threading, "np": np, "walls": walls})
            except BaseException as error:  # noqa: BLE001 - whatever it is, is the result
                status = f"{type(error).__name__}: {error}"
            os.write(write, status.encode()[:4000])
        finally:
            os._exit(0)
    os.close(write)
    found = os.read(read, 4096).decode()
    os.close(read)
    os.waitpid(pid, 0)
    return found


@pytest.mark.parametrize(
    "action",
    [
        "open('/etc/passwd')",
        "open('/tmp/kernelwright-test', 'w')",
        "os.open('/etc/passwd', os.O_RDONLY)",
        "os.listdir('/')",
        "os.system('true')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess; subprocess.run(['true'])",
        "os.kill(os.getppid(), 9)",
        "os.kill(1, 0)",
        "os.unlink('/tmp/kernelwright-test')",
        "os.rename('/tmp/a', '/tmp/b')",
        "os.mkdir('/tmp/kernelwright-test')",
        "socket.socket()",
        "socket.create_connection(('127.0.0.1', 80))",
        "import ctypes; ctypes.CDLL(None)",
        "np.load('/etc/passwd')",
        "np.ones(1 << 30)",
    ],
)
def test_a_confined_process_is_refused_everything(action: str) -> None:
    found = confined(action)
    assert found.split(":")[0] in ("Refused", "PermissionError", "_ArrayMemoryError", "MemoryError"), found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux")
@pytest.mark.parametrize(
    "call",
    [
        "libc.open(b'/etc/passwd', 0)",
        "libc.fork()",
        "libc.socket(2, 1, 0)",
        "libc.kill(os.getppid(), 0)",
        "libc.system(b'true') - 32512 * 0",
    ],
)
def test_system_calls_are_refused_below_python(call: str) -> None:
    """The filter holds even for code that calls the C library itself, past Python's audit hook."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            stands = confinement.filter_system_calls()
            value = eval(call, {"libc": libc, "os": os})
            os.write(write, f"{stands} {value}".encode())
        finally:
            os._exit(0)
    os.close(write)
    stands, value = os.read(read, 100).decode().split()
    os.close(read)
    os.waitpid(pid, 0)
    if stands != "True":
        pytest.skip("no system-call filter here")
    assert int(value) != 0
    assert int(value) < 0 or "system" in call
