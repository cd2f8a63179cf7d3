"""For every bottleneck rule a minimal kernel that shows its symptom, and a twin that does the same work without it.

Each kernel takes x [rows, columns] and w [rows, columns] and is recorded shapes-only.
"""

from __future__ import annotations

from dataclasses import dataclass

HEADER = "import nki\nimport nki.language as nl\nimport nki.isa as nisa\n\n@nki.jit\ndef kernel(x, w):\n"


@dataclass(frozen=True)
class Pair:
    """Bodies of the two kernels, and what they run on."""

    sick: str
    clean: str
    x: tuple[int, int] = (128, 2048)
    w: tuple[int, int] = (128, 2048)
    dtype: str = "float32"
    target: str = "trn2"


def source(body: str) -> str:
    """A module with `kernel(x, w)` around `body`."""
    lines = body.strip("\n").splitlines()
    return HEADER + "".join(f"    {line}\n" for line in lines)


OUT = "out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
LOAD_X = "t = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\nnisa.dma_copy(dst=t, src=x)\n"
STORE = "nisa.dma_copy(dst=out, src=t)\nreturn out\n"


def matmuls(k: int, m: int, n: int, count: int, *, dtype: str = "nl.bfloat16", evict: bool = True) -> str:
    """`count` independent products of a resident [k, m] and [k, n] pair."""
    return f"""
out = nl.ndarray(({m}, {n}), dtype=nl.float32, buffer=nl.shared_hbm)
a = nl.ndarray(({k}, {m}), dtype={dtype}, buffer=nl.sbuf)
b = nl.ndarray(({k}, {n}), dtype={dtype}, buffer=nl.sbuf)
nisa.memset(a, 0.0)
nisa.memset(b, 0.0)
acc = nl.ndarray(({m}, {n}), dtype=nl.float32, buffer=nl.psum)
for i in range({count}):
    nisa.nc_matmul(dst=acc, stationary=a, moving=b)
r = nl.ndarray(({m}, {n}), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_copy(r, acc)
nisa.dma_copy(dst=out, src=r)
return out
"""


def attention(before: str, after: str) -> str:
    """One block of attention: scores, exponentials with their sum, the product with the values; division early or late."""
    return f"""
out = nl.ndarray((64, 128), dtype=nl.float32, buffer=nl.shared_hbm)
q = nl.ndarray((64, 128), dtype=x.dtype, buffer=nl.sbuf)
k = nl.ndarray((64, 128), dtype=x.dtype, buffer=nl.sbuf)
v = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.sbuf)
nisa.dma_copy(dst=q, src=x[0:64, 0:128])
nisa.dma_copy(dst=k, src=x[0:64, 128:256])
nisa.dma_copy(dst=v, src=x[:, 256:320])
scores = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
nisa.nc_matmul(dst=scores, stationary=q, moving=k)
e = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
s = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
nisa.activation_reduce(e, nl.exp, scores, reduce_op=nl.add, reduce_res=s)
nisa.reciprocal(s, s)
{before}
turned = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.psum)
nisa.nc_transpose(turned, e)
p = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
nisa.tensor_copy(p, turned)
product = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.psum)
nisa.nc_matmul(dst=product, stationary=p, moving=v)
r = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_copy(r, product)
{after}
nisa.dma_copy(dst=out, src=r[0:64, :])
return out
""".replace("out = nl.ndarray((64, 128)", "out = nl.ndarray((64, 64)")


def turned_blocks(*, by_array: bool) -> str:
    """Products of 16 blocks, which the array turns first, or which lie the right way round already."""
    turn = """
    p = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.psum)
    nisa.nc_transpose(p, a)
    a = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_copy(a, p)
"""
    return f"""
out = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.shared_hbm)
b = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
nisa.dma_copy(dst=b, src=w[:, 0:128])
rows = nl.ndarray((128, 2048), dtype=nl.bfloat16, buffer=nl.sbuf)
nisa.dma_copy(dst=rows, src=x)
acc = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
for i in range(16):
    a = rows[:, i*128:(i+1)*128]
{turn if by_array else ""}
    nisa.nc_matmul(dst=acc, stationary=a, moving=b)
r = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_copy(r, acc)
nisa.dma_copy(dst=out, src=r)
return out
"""


def products(*, hoisted: bool) -> str:
    """48 products with one pair of operands, which is loaded for each, or once."""
    loads = """
    a = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.dma_copy(dst=a, src=w[:, 0:128])
    b = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.dma_copy(dst=b, src=x[:, 0:512])
"""
    before = "if True:" + loads if hoisted else ""
    return f"""
out = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
{before}
for i in range(48):
    {"" if hoisted else loads}
    nisa.nc_matmul(dst=acc, stationary=a, moving=b)
r = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_copy(r, acc)
nisa.dma_copy(dst=out, src=r)
return out
"""


PAIRS: dict[str, Pair] = {
    "T1": Pair(matmuls(128, 128, 512, 600), matmuls(128, 128, 512, 4)),
    "T2": Pair(
        OUT + "for i in range(16):\n    t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=t)\nreturn out",
        OUT
        + LOAD_X.replace("x.shape", "(128, 64)").replace("src=x", "src=x[0:128, 0:64]")
        + "nisa.dma_copy(dst=out[0:128, 0:64], src=t)\nreturn out",
        x=(2048, 2048),
    ),
    "T3": Pair(
        """
out = nl.ndarray((32, 512), dtype=nl.float32, buffer=nl.shared_hbm)
acc = nl.ndarray((32, 512), dtype=nl.float32, buffer=nl.psum)
a = nl.ndarray((128, 32), dtype=x.dtype, buffer=nl.sbuf)
nisa.dma_copy(dst=a, src=w[:, 0:32])
for i in range(16):
    b = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=b, src=x[:, 0:512])
    nisa.nc_matmul(dst=acc, stationary=a, moving=b)
r = nl.ndarray((32, 512), dtype=nl.float32, buffer=nl.sbuf)
nisa.tensor_copy(r, acc)
nisa.dma_copy(dst=out, src=r)
return out
""",
        matmuls(128, 128, 512, 16),
        dtype="bfloat16",
    ),
    "T4": Pair(
        OUT + "for i in range(16):\n    t = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[:, i*128:(i+1)*128])\n    nisa.tensor_scalar(t, t, nl.add, 1.0)\n"
        "    nisa.dma_copy(dst=out[:, i*128:(i+1)*128], src=t)\nreturn out",
        OUT + LOAD_X + "for i in range(64):\n    nisa.tensor_tensor(t, t, t, op=nl.add)\n" + STORE,
    ),
    "T5": Pair(
        OUT + "t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(8):\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    nisa.tensor_tensor(t, t, t, op=nl.add)\n"
        "    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=t)\nreturn out",
        OUT
        + LOAD_X.replace("x.shape", "(128, 2048)").replace("src=x", "src=x[0:128, :]")
        + "for i in range(64):\n    nisa.tensor_tensor(t, t, t, op=nl.add)\nnisa.dma_copy(dst=out[0:128, :], src=t)\nreturn out",
        x=(1024, 2048),
    ),
    "T7": Pair(matmuls(128, 128, 512, 400, dtype="nl.float32"), matmuls(64, 64, 512, 400)),
    "D1": Pair(
        OUT
        + "for i in range(6):\n    t = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\n    nisa.dma_copy(dst=t, src=x)\n"
        "    nisa.dma_copy(dst=out, src=t)\nreturn out",
        OUT + LOAD_X + "for i in range(6):\n    nisa.dma_copy(dst=out, src=t)\nreturn out",
    ),
    "D5": Pair(
        OUT + "for i in range(64):\n    t = nl.ndarray((128, 32), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[:, i*32:(i+1)*32])\n    nisa.dma_copy(dst=out[:, i*32:(i+1)*32], src=t)\nreturn out",
        OUT + "for i in range(4):\n    t = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[:, i*512:(i+1)*512])\n    nisa.dma_copy(dst=out[:, i*512:(i+1)*512], src=t)\nreturn out",
    ),
    "D6": Pair(
        OUT + "for i in range(4):\n    t = nl.ndarray((32, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[i*32:(i+1)*32, :])\n    nisa.dma_copy(dst=out[i*32:(i+1)*32, :], src=t)\nreturn out",
        OUT + LOAD_X + STORE,
    ),
    "D7": Pair(
        "out = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.shared_hbm)\nt = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)\n"
        "nisa.dma_transpose(dst=t, src=x[:, 0:128])\n" + STORE,
        "out = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.shared_hbm)\nt = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)\n"
        "nisa.dma_copy(dst=t, src=x[:, 0:128])\n" + STORE,
        dtype="bfloat16",
        target="trn1",
    ),
    "D8": Pair(
        "out = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.shared_hbm)\n"
        + LOAD_X
        + "c = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.sbuf)\nnisa.tensor_copy(c, t)\nnisa.dma_copy(dst=out, src=c)\nreturn out",
        "out = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.shared_hbm)\nc = nl.ndarray(x.shape, dtype=nl.bfloat16, buffer=nl.sbuf)\n"
        "nisa.dma_copy(dst=c, src=x)\nnisa.dma_copy(dst=out, src=c)\nreturn out",
    ),
    "D9": Pair(
        OUT
        + "mid = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.hbm)\n"
        + LOAD_X
        + "nisa.dma_copy(dst=mid, src=t)\nu = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\nnisa.dma_copy(dst=u, src=mid)\n"
        "nisa.tensor_scalar(u, u, nl.add, 1.0)\nnisa.dma_copy(dst=out, src=u)\nreturn out",
        OUT + LOAD_X + "nisa.tensor_scalar(t, t, nl.add, 1.0)\n" + STORE,
    ),
    "D12": Pair(
        OUT + "t = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(64):\n"
        "    nisa.dma_copy(dst=t[:, i:i+1], src=x[:, i:i+1])\nnisa.dma_copy(dst=out[:, 0:64], src=t)\nreturn out",
        OUT + "t = nl.ndarray((128, 64), dtype=x.dtype, buffer=nl.sbuf)\nnisa.dma_copy(dst=t, src=x[:, 0:64])\n"
        "nisa.dma_copy(dst=out[:, 0:64], src=t)\nreturn out",
    ),
    "P1": Pair(
        OUT + "t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(8):\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    r = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.tensor_tensor(r, t, t, op=nl.add)\n    nisa.tensor_tensor(r, r, t, op=nl.add)\nnisa.dma_copy(dst=out[0:128, :], src=r)\nreturn out",
        OUT
        + LOAD_X.replace("x.shape", "(128, 2048)").replace("src=x", "src=x[0:128, :]")
        + "r = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\nnisa.tensor_tensor(r, t, t, op=nl.add)\nfor i in range(95):\n"
        "    nisa.tensor_tensor(r, r, t, op=nl.add)\nnisa.dma_copy(dst=out[0:128, :], src=r)\nreturn out",
        x=(1024, 2048),
    ),
    "P2": Pair(
        OUT + LOAD_X + "for i in range(8):\n    u = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.tensor_tensor(u, t, t, op=nl.add)\n    t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.activation(t, nl.exp, u)\n" + STORE,
        OUT
        + LOAD_X
        + "for i in range(16):\n    nisa.tensor_tensor(t, t, t, op=nl.add)\nnisa.activation(t, nl.exp, t)\n"
        + STORE,
    ),
    "P3": Pair(
        """
out = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
a = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
b = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.sbuf)
nisa.memset(a, 0.0)
nisa.memset(b, 0.0)
acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
for i in range(32):
    nisa.nc_matmul(dst=acc, stationary=a, moving=b, accumulate=False)
    nisa.nc_matmul(dst=acc, stationary=a, moving=b, accumulate=True)
    r = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.tensor_copy(r, acc)
nisa.dma_copy(dst=out, src=r)
return out
""",
        matmuls(128, 128, 512, 64),
    ),
    "P5": Pair(
        OUT + "t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(8):\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    r = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.activation(r, nl.exp, t)\n    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=r)\nreturn out",
        OUT + "for i in range(8):\n    t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    r = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.activation(r, nl.exp, t)\n    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=r)\nreturn out",
        x=(1024, 2048),
    ),
    "P6": Pair(
        OUT + "for i in range(8):\n    t = nl.ndarray((128, 32768), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x)\n    nisa.tensor_tensor(t, t, t, op=nl.add)\n    nisa.dma_copy(dst=out, src=t)\nreturn out",
        OUT + "for i in range(8):\n    t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[:, 0:2048])\n    nisa.tensor_tensor(t, t, t, op=nl.add)\n    nisa.dma_copy(dst=out[:, 0:2048], src=t)\nreturn out",
        x=(128, 32768),
    ),
    "P7": Pair(
        OUT
        + LOAD_X
        + "u = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\nnisa.memset(u, 1.0)\nfor i in range(8):\n"
        "    nisa.tensor_scalar(t, t, nl.add, 1.0, engine=nisa.vector_engine)\n    nisa.tensor_scalar(u, u, nl.add, 1.0, engine=nisa.gpsimd_engine)\n"
        + STORE,
        OUT
        + LOAD_X
        + "u = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\nnisa.memset(u, 1.0)\nfor i in range(8):\n"
        "    nisa.tensor_scalar(t, t, nl.add, 1.0, engine=nisa.vector_engine)\n    nisa.activation(u, nl.copy, u)\n"
        + STORE,
        target="trn1",
    ),
    "P8": Pair(
        OUT + "for i in range(64):\n    t = nl.ndarray((128, 32), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[:, i*32:(i+1)*32], engine=nisa.sync_engine)\n"
        "    nisa.dma_copy(dst=out[:, i*32:(i+1)*32], src=t, engine=nisa.sync_engine)\nreturn out",
        OUT + LOAD_X + "for i in range(16):\n    nisa.tensor_scalar(t, t, nl.add, 1.0)\n" + STORE,
    ),
    "E1": Pair(matmuls(32, 128, 512, 200), matmuls(128, 128, 512, 50)),
    "E2": Pair(matmuls(128, 128, 64, 400), matmuls(128, 128, 512, 50)),
    "E3": Pair(turned_blocks(by_array=True), turned_blocks(by_array=False), dtype="bfloat16"),
    "E4": Pair(matmuls(128, 1, 512, 200), matmuls(128, 128, 512, 50)),
    "E5": Pair(
        """
out = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
a = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
b = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.sbuf)
s = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
nisa.memset(a, 0.0)
nisa.memset(b, 0.0)
nisa.memset(s, 0.0)
for k in range(16):
    acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=acc, stationary=a, moving=b)
    nisa.tensor_tensor(s, s, acc, op=nl.add)
nisa.dma_copy(dst=out, src=s)
return out
""",
        matmuls(128, 128, 512, 16),
    ),
    "E7": Pair(matmuls(128, 128, 512, 50, dtype="nl.float32"), matmuls(128, 128, 512, 50)),
    "E8": Pair(
        "out = nl.ndarray((1, 2048), dtype=x.dtype, buffer=nl.shared_hbm)\n"
        + LOAD_X
        + "r = nl.ndarray((1, 2048), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(4):\n"
        "    nisa.tensor_partition_reduce(r, nl.add, t)\nnisa.dma_copy(dst=out, src=r)\nreturn out",
        "out = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.shared_hbm)\n"
        + LOAD_X
        + "r = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(4):\n"
        "    nisa.tensor_reduce(r, nl.add, t, axis=1)\nnisa.dma_copy(dst=out, src=r)\nreturn out",
    ),
    "V1": Pair(
        OUT
        + LOAD_X
        + "for i in range(128):\n    nisa.activation(t[:, i*16:(i+1)*16], nl.exp, t[:, i*16:(i+1)*16])\n"
        + STORE,
        OUT
        + LOAD_X
        + "for i in range(4):\n    nisa.activation(t[:, i*512:(i+1)*512], nl.exp, t[:, i*512:(i+1)*512])\n"
        + STORE,
    ),
    "V2": Pair(
        OUT
        + LOAD_X
        + "for i in range(4):\n    nisa.activation(t[i*32:(i+1)*32, :], nl.exp, t[i*32:(i+1)*32, :])\n"
        + STORE,
        OUT + LOAD_X + "nisa.activation(t, nl.exp, t)\n" + STORE,
    ),
    "V3": Pair(
        OUT
        + LOAD_X
        + "u = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\nnisa.tensor_scalar(u, t, nl.multiply, 0.5)\n"
        "nisa.activation(t, nl.exp, u)\n" + STORE,
        OUT + LOAD_X + "nisa.activation(t, nl.exp, t, scale=0.5)\n" + STORE,
    ),
    "V4": Pair(
        "out = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.shared_hbm)\n"
        + LOAD_X
        + "r = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.sbuf)\nnisa.activation(t, nl.exp, t)\n"
        "nisa.tensor_reduce(r, nl.add, t, axis=1)\nnisa.dma_copy(dst=out, src=r)\nreturn out",
        "out = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.shared_hbm)\n"
        + LOAD_X
        + "r = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.sbuf)\n"
        "nisa.activation_reduce(t, nl.exp, t, reduce_op=nl.add, reduce_res=r)\nnisa.dma_copy(dst=out, src=r)\nreturn out",
    ),
    "V5": Pair(
        OUT + LOAD_X + "s = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.sbuf)\nnisa.dma_copy(dst=s, src=w[:, 0:1])\n"
        "b = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\nnisa.tensor_copy(b, s.broadcast(1, 2048))\n"
        "nisa.tensor_tensor(t, t, b, op=nl.multiply)\n" + STORE,
        OUT + LOAD_X + "s = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.sbuf)\nnisa.dma_copy(dst=s, src=w[:, 0:1])\n"
        "nisa.tensor_scalar(t, t, nl.multiply, s)\n" + STORE,
    ),
    "V7": Pair(
        OUT
        + LOAD_X
        + "for i in range(1, 128):\n    nisa.tensor_tensor(t[:, i:i+1], t[:, i-1:i], t[:, i:i+1], op=nl.add)\n"
        + STORE,
        OUT
        + LOAD_X
        + "nisa.tensor_tensor_scan(t[:, 0:128], t[:, 0:128], t[:, 0:128], 0.0, nl.multiply, nl.add)\n"
        + STORE,
    ),
    "V8": Pair(
        OUT
        + "for i in range(8):\n    t = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n    u = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.memset(t, 1.0)\n    nisa.tensor_copy(u, t)\n    nisa.tensor_copy(t, u)\n    nisa.tensor_copy(u, t)\nnisa.dma_copy(dst=out[:, 0:512], src=u)\nreturn out",
        OUT
        + "for i in range(8):\n    t = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n    u = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.memset(t, 1.0)\n    nisa.activation(u, nl.exp, t)\n    nisa.activation(t, nl.exp, u)\n    nisa.activation(u, nl.exp, t)\nnisa.dma_copy(dst=out[:, 0:512], src=u)\nreturn out",
    ),
    "V9": Pair(
        OUT + "t = nl.ndarray((64, 2048), dtype=x.dtype, buffer=nl.sbuf)\nnisa.dma_copy(dst=t, src=x[0:64, :])\n"
        "u = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\nnisa.tensor_copy(u[64:128, :], t)\n"
        "nisa.dma_copy(dst=out[64:128, :], src=u[64:128, :])\nreturn out",
        OUT
        + "u = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\nnisa.dma_copy(dst=u[64:128, :], src=x[0:64, :])\n"
        "nisa.dma_copy(dst=out[64:128, :], src=u[64:128, :])\nreturn out",
    ),
    "V13": Pair(
        OUT + LOAD_X + "r = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(8):\n"
        "    e = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\n    nisa.activation(e, nl.exp, t)\n"
        "    nisa.tensor_copy(r[:, i*64:(i+1)*64], e[:, i*64:(i+1)*64])\nnisa.dma_copy(dst=out[:, 0:512], src=r)\nreturn out",
        OUT + LOAD_X + "r = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n"
        "e = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\nnisa.activation(e, nl.exp, t)\nfor i in range(8):\n"
        "    nisa.tensor_copy(r[:, i*64:(i+1)*64], e[:, i*64:(i+1)*64])\nnisa.dma_copy(dst=out[:, 0:512], src=r)\nreturn out",
    ),
    "S1": Pair(
        OUT
        + LOAD_X
        + "for i in range(8):\n    nisa.activation(t, nl.exp, t)\n    nisa.activation(t, nl.gelu, t)\n"
        + STORE,
        OUT
        + LOAD_X
        + "for i in range(8):\n    nisa.activation(t, nl.exp, t)\nfor i in range(8):\n    nisa.activation(t, nl.gelu, t)\n"
        + STORE,
    ),
    "T6": Pair(
        OUT
        + "u = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\nv = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n"
        "nisa.memset(u, 1.0)\nnisa.memset(v, 1.0)\nfor i in range(32):\n    nisa.tensor_tensor(u, u, u, op=nl.add)\n"
        "    nisa.activation(v, nl.exp, v)\nnisa.dma_copy(dst=out[:, 0:512], src=u)\nnisa.dma_copy(dst=out[:, 512:1024], src=v)\nreturn out",
        OUT + "u = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\nnisa.memset(u, 1.0)\n"
        "for i in range(64):\n    nisa.tensor_tensor(u, u, u, op=nl.add)\nnisa.dma_copy(dst=out[:, 0:512], src=u)\nreturn out",
    ),
    "D2": Pair(
        OUT + "mid = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.hbm)\nfor i in range(4):\n"
        "    t = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\n    nisa.dma_copy(dst=t, src=x)\n"
        "    nisa.dma_copy(dst=mid, src=t)\n    u = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=u, src=mid)\n    nisa.dma_copy(dst=out, src=u)\nreturn out",
        OUT + LOAD_X + "for i in range(4):\n    nisa.dma_copy(dst=out, src=t)\nreturn out",
    ),
    "D3": Pair(
        OUT
        + "mid = nl.ndarray((2048, 16384), dtype=x.dtype, buffer=nl.hbm)\n"
        + "for i in range(16):\n    t = nl.ndarray((128, 16384), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.memset(t, 1.0)\n    nisa.dma_copy(dst=mid[i*128:(i+1)*128, :], src=t)\n"
        "r = nl.ndarray((128, 16384), dtype=x.dtype, buffer=nl.sbuf)\nnisa.memset(r, 0.0)\n"
        "for i in range(16):\n    u = nl.ndarray((128, 16384), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=u, src=mid[i*128:(i+1)*128, :])\n    nisa.tensor_tensor(r, r, u, op=nl.add)\n"
        "nisa.dma_copy(dst=out[:, 0:2048], src=r[:, 0:2048])\nreturn out",
        OUT + "r = nl.ndarray((128, 16384), dtype=x.dtype, buffer=nl.sbuf)\nnisa.memset(r, 0.0)\n"
        "for i in range(16):\n    t = nl.ndarray((128, 16384), dtype=x.dtype, buffer=nl.sbuf)\n    nisa.memset(t, 1.0)\n"
        "    nisa.tensor_tensor(r, r, t, op=nl.add)\nnisa.dma_copy(dst=out[:, 0:2048], src=r[:, 0:2048])\nreturn out",
    ),
    "D4": Pair(
        OUT + "wide = nl.ndarray((128, 8 * 5120), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(8):\n"
        "    nisa.dma_copy(dst=wide[:, i*5120:(i+1)*5120], src=x[:, 0:5120])\n"
        "    r = nl.ndarray((128, 8192), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.activation(r[:, 0:4096], nl.exp, wide[:, i*5120:i*5120+4096])\n"
        "    nisa.activation(r[:, 4096:8192], nl.exp, wide[:, i*5120+1024:(i+1)*5120])\n"
        "    nisa.dma_copy(dst=out, src=r)\nreturn out",
        OUT + "for i in range(8):\n    t = nl.ndarray((128, 5120), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[:, 0:5120])\n    r = nl.ndarray((128, 8192), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.activation(r[:, 0:4096], nl.exp, t[:, 0:4096])\n    nisa.activation(r[:, 4096:8192], nl.exp, t[:, 1024:5120])\n"
        "    nisa.dma_copy(dst=out, src=r)\nreturn out",
        x=(128, 8192),
    ),
    "D10": Pair(
        "out = nl.ndarray((128, 8 * 1024), dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "t = nl.ndarray((128, 8 * 1024), dtype=x.dtype, buffer=nl.sbuf)\nfor k in range(8):\n"
        "    nisa.dma_copy(dst=t[:, k*1024:(k+1)*1024], src=x[:, k:k+1024])\n" + STORE,
        "out = nl.ndarray((128, 8 * 1024), dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "t = nl.ndarray((128, 1032), dtype=x.dtype, buffer=nl.sbuf)\nnisa.dma_copy(dst=t, src=x[:, 0:1032])\nfor k in range(8):\n"
        "    nisa.dma_copy(dst=out[:, k*1024:(k+1)*1024], src=t[:, k:k+1024])\nreturn out",
    ),
    "D13": Pair(
        OUT + "t = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(8):\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    r = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    for j in range(4):\n        nisa.activation(r, nl.exp, t)\n    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=r)\nreturn out",
        OUT + "for i in range(8):\n    t = nl.ndarray((128, 512), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=t)\nreturn out",
        x=(1024, 512),
    ),
    "P4": Pair(
        OUT + "t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\nfor i in range(8):\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    nisa.activation(t, nl.exp, t)\n"
        "    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=t)\nreturn out",
        OUT + "for i in range(8):\n    t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "    nisa.dma_copy(dst=t, src=x[i*128:(i+1)*128, :])\n    nisa.activation(t, nl.exp, t)\n"
        "    nisa.dma_copy(dst=out[i*128:(i+1)*128, :], src=t)\nreturn out",
        x=(1024, 2048),
    ),
    "E6": Pair(
        """
out = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
a = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
b = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.sbuf)
nisa.memset(a, 0.0)
nisa.memset(b, 0.0)
acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
r = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
for k in range(16):
    nisa.nc_matmul(dst=acc, stationary=a, moving=b, accumulate=k > 0)
    nisa.tensor_copy(r, acc)
nisa.dma_copy(dst=out, src=r)
return out
""",
        matmuls(128, 128, 512, 16),
    ),
    "E9": Pair(
        """
out = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
a = nl.ndarray((128, 128), dtype=nl.bfloat16, buffer=nl.sbuf)
b = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.sbuf)
nisa.memset(a, 0.0)
nisa.memset(b, 0.0)
for i in range(16):
    acc = nl.ndarray((128, 4096), dtype=nl.float32, buffer=nl.psum)
    for j in range(8):
        nisa.nc_matmul(dst=acc[:, j*512:(j+1)*512], stationary=a, moving=b)
    r = nl.ndarray((128, 4096), dtype=nl.bfloat16, buffer=nl.sbuf)
    nisa.activation(r, nl.exp, acc)
nisa.dma_copy(dst=out, src=r[:, 0:512])
return out
""",
        matmuls(128, 128, 512, 64),
    ),
    "E10": Pair(products(hoisted=False), products(hoisted=True), dtype="bfloat16"),
    "V6": Pair(
        "out = nl.ndarray((128, 2), dtype=x.dtype, buffer=nl.shared_hbm)\n"
        + LOAD_X
        + "r = nl.ndarray((128, 2), dtype=x.dtype, buffer=nl.sbuf)\nq = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)\n"
        "nisa.tensor_reduce(r[:, 0:1], nl.add, t, axis=1)\nnisa.tensor_tensor(q, t, t, op=nl.multiply)\n"
        "nisa.tensor_reduce(r[:, 1:2], nl.add, q, axis=1)\nnisa.dma_copy(dst=out, src=r)\nreturn out",
        "out = nl.ndarray((128, 2), dtype=x.dtype, buffer=nl.shared_hbm)\n"
        + LOAD_X
        + "r = nl.ndarray((128, 2), dtype=x.dtype, buffer=nl.sbuf)\ns = nl.ndarray((128, 24), dtype=x.dtype, buffer=nl.sbuf)\n"
        "for i in range(4):\n    nisa.bn_stats(s[:, i*6:(i+1)*6], t[:, i*512:(i+1)*512])\n"
        "nisa.bn_aggr(r, s)\nnisa.dma_copy(dst=out, src=r)\nreturn out",
    ),
    "V10": Pair(
        """
out = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
p = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
q = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
nisa.memset(p, 0.0)
nisa.memset(q, 0.0)
r = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
s = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
for i in range(8):
    nisa.tensor_copy(r, p)
    nisa.activation(s, nl.exp, q)
nisa.dma_copy(dst=out, src=r)
return out
""",
        """
out = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
p = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
q = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
nisa.memset(p, 0.0)
nisa.memset(q, 0.0)
r = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
s = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
for i in range(8):
    nisa.tensor_copy(r, p)
    nisa.activation(s, nl.exp, q)
nisa.dma_copy(dst=out, src=r)
return out
""",
        target="trn1",
    ),
    "V11": Pair(
        OUT + LOAD_X + "nisa.tensor_scalar(t, t, nl.multiply, 0.5)\nnisa.tensor_scalar(t, t, nl.add, 1.0)\n" + STORE,
        OUT + LOAD_X + "nisa.tensor_scalar(t, t, nl.multiply, 0.5, op1=nl.add, operand1=1.0)\n" + STORE,
    ),
    "A1": Pair(
        attention("nisa.tensor_scalar(e, e, nl.multiply, s)", ""),
        attention("", "nisa.tensor_scalar(r, r, nl.multiply, s)"),
        dtype="bfloat16",
    ),
}
