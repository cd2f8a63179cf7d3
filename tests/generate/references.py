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

def lengths(x): return np.sqrt((x * x).sum(axis=1))
"""
