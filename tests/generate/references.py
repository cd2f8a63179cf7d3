"""NumPy references that the generator's tests trace, render and simulate."""

SOURCE = """
import math
import numpy as np

def add(x, y): return x + y

def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def rmsnorm(x, g): return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6) * g

def layernorm(x, g, b):
    mean = x.mean(-1, keepdims=True)
    variance = x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * g + b

def gelu(x): return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))

def exact_gelu(x): return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

def silu(x): return x / (1 + np.exp(-x))

def matmul(x, w): return x @ w

def matmul_nk(x, w): return x @ w.T

def matmul_km(x, w): return x.T @ w

def rmsnorm_matmul(x, w): return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) @ w

def rmsnorm_gain_matmul(x, g, w): return (x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g) @ w

def layernorm_matmul(x, g, b, w): return layernorm(x, g, b) @ w

def linear_gelu(x, w, b): return gelu(x @ w + b)

def swiglu(x, gate, up, down): return x + (silu(x @ gate) * (x @ up)) @ down

def attention(q, k, v): return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])) @ v

def matmul_softmax(x, w): return softmax(x @ w)

def residual(x, w, z): return (x @ w + z) * 2

def two_products(x, w, y, v): return x @ w + y @ v

def transpose(x): return x.T

def column_sum(x): return x.sum(axis=0)

def statistics(x): return x.mean(-1), x.var(-1), x.max()

def choose(x): return np.where(x > 0.5, np.sin(x) * 2, np.clip(x, -1, 1)), np.floor(x), np.arctan(x)

def heads(q, k): return np.einsum("bqhd,bkhd->bhqk", q, k)

def joined(x, y): return np.concatenate([x * 2, y + 1], axis=1)

def part(x): return x[1:, ::2] * 3

def by_heads(q, k, v):
    out = np.empty_like(q)
    for h in range(q.shape[1]):
        out[:, h] = softmax(q[:, h] @ k[:, h // 2].T * 0.25) @ v[:, h // 2]
    return out

def running(x): return np.cumsum(x, axis=-1), np.cumsum(x, axis=0)

def running_product(x): return np.cumprod(x * 0.1 + 1, axis=-1)

def running_extremes(x): return np.maximum.accumulate(x, axis=-1), np.minimum.accumulate(x * 2, axis=-1)

def places(x): return np.argmax(x, axis=-1), x.argmin(axis=0), x.argmax(0, keepdims=True)

def first_place(x): return np.argmax(x)

def triangles(x): return np.tril(x), np.triu(x, 2) * 2, x * np.eye(x.shape[-1])[: x.shape[0]]

def counted(x): return x + np.arange(x.shape[-1]) * 0.5, x * np.arange(x.shape[0])[:, None], x @ np.diag(np.ones(x.shape[-1]))

def causal(q, k, v):
    s = q @ k.swapaxes(-1, -2) / 8
    s = np.where(np.tril(np.ones(s.shape[-2:])) == 1, s, -np.inf)
    return softmax(s) @ v

def added_mask(q, k, v):
    mask = np.triu(np.full((q.shape[-2], k.shape[-2]), -1e9), 1)
    return softmax(q @ k.swapaxes(-1, -2) * 0.125 + mask) @ v

def summed_scores(x, w): return np.cumsum(x @ w, axis=-1) + np.arange(w.shape[1])

def lengths(x): return np.sqrt((x * x).sum(axis=1))
"""
