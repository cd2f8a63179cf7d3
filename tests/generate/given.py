"""NumPy functions as people hand them over with --reference, and the shapes that they are asked for."""

import math

import numpy as np

SHAPES = {
    "keyword_axes": "x 130x40", "two_axes": "x 3x40x20", "norm_by_helper": "x 130x40, gain 40", "standardise": "x 130x40",
    "where_chain": "x 130x40", "einsum_scores": "q 2x33x4x16, k 2x33x4x16", "einsum_ellipsis": "x 2x3x20x16, w 16x12", "outer_sum": "a 130, b 40",
    "bf16_cast": "x 130x40, w 40x30", "heads_loop": "q 4x33x16, k 4x33x16, v 4x33x16", "heads_list": "x 130x64, w 64x64", "causal_where": "q 64x32, k 64x32, v 64x32",
    "causal_triu": "scores 4x64x64", "local_window": "scores 2x64x64", "gated_split": "x 130x64", "rope_half": "x 4x33x16, cos 33x8, sin 33x8",
    "rope_pairs": "x 33x16, cos 33x8, sin 33x8", "cumulative": "x 130x40", "prefix_mean": "x 130x40", "first_max": "x 130x40",
    "top_two": "x 130x40", "soft_targets": "logits 130x40, targets 130x40", "smoothed": "x 130x40", "pool_rows": "x 128x40", "pool_2d": "x 4x16x16",
    "stacked": "x 130x40, y 130x40", "keepdims_all": "x 130x40", "swapped": "x 3x40x20", "moved": "x 3x40x20", "three_products": "x 33x16, a 16x20, b 20x24, c 24x8",
    "lora": "x 64x32, w 32x48, a 32x4, b 4x48", "adamw": "p 130x40, g 130x40, m 130x40, v 130x40", "mixed_ufuncs": "x 130x40, y 130x40",
    "clipped_log": "x 130x40", "polynomial": "x 130x40", "norm_ratio": "x 130x40, y 130x40", "cosine": "x 130x40, y 130x40",
    "gqa": "q 8x33x16, k 2x33x16, v 2x33x16", "cross_attention": "x 33x32, memory 48x32, wq 32x16, wk 32x16, wv 32x16", "layered": "x 130x40, w1 40x64, b1 64, w2 64x40, b2 40",
    "defaults": "x 130x40", "positions": "x 33x16", "alibi": "scores 4x33x33", "group_norm": "x 33x64", "depthwise": "x 130x40, w 3x40",
    "repeat_rows": "x 33x16, y 66x16", "tile_columns": "x 33x16, y 33x32", "flipped": "x 33x16", "logit_cap": "x 130x40, w 40x30", "diagonal_mask": "x 64x64",
}  # fmt: skip
"""What each function is asked for with."""
BEYOND = {"flipped": "negative step"}
"""Functions that the offline generator refuses, and the words of the refusal."""


def softmax(x, axis=-1):
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def keyword_axes(x):
    return np.sum(a=x, axis=0, keepdims=False), np.mean(x, axis=(-1,), keepdims=True)


def two_axes(x):
    return x.max(axis=(1, 2)), np.sum(x, axis=(0, 2))


def norm_by_helper(x, gain):
    def scale(v):
        return 1.0 / np.sqrt(np.mean(np.square(v), -1, keepdims=True) + 1e-6)

    return x * scale(x) * gain[None, :]


def standardise(x):
    return (x - np.mean(x, axis=0)) / np.std(x, axis=0)


def where_chain(x):
    return np.where(x > 1, 1.0, np.where(x < -1, -1.0, x * 0.5))


def einsum_scores(q, k):
    return np.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])


def einsum_ellipsis(x, w):
    return np.einsum("...d,de->...e", x, w)


def outer_sum(a, b):
    return a[:, None] + b[None, :] * 2


def bf16_cast(x, w):
    return (x.astype(np.float32) @ w.astype(np.float32)).astype(np.float32)


def heads_loop(q, k, v):
    out = np.empty_like(q)
    for h in range(q.shape[0]):
        out[h] = softmax(q[h] @ k[h].T / np.sqrt(q.shape[-1])) @ v[h]
    return out


def heads_list(x, w):
    heads = [softmax(part) for part in np.split(x @ w, 4, axis=-1)]
    return np.concatenate(heads, axis=-1)


def causal_where(q, k, v):
    n = q.shape[0]
    mask = np.arange(n)[:, None] >= np.arange(n)[None, :]
    return softmax(np.where(mask, q @ k.T / np.sqrt(32), -1e9)) @ v


def causal_triu(scores):
    n = scores.shape[-1]
    return softmax(scores + np.triu(np.full((n, n), -np.inf), k=1))


def local_window(scores):
    n = scores.shape[-1]
    i = np.arange(n)
    near = np.abs(i[:, None] - i[None, :]) <= 8
    return softmax(np.where(near, scores, -1e9))


def gated_split(x):
    a, b = np.split(x, 2, axis=-1)
    return a / (1 + np.exp(-a)) * b


def rope_half(x, cos, sin):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rope_pairs(x, cos, sin):
    out = np.empty_like(x)
    out[:, ::2] = x[:, ::2] * cos - x[:, 1::2] * sin
    out[:, 1::2] = x[:, 1::2] * cos + x[:, ::2] * sin
    return out


def cumulative(x):
    return np.cumsum(x, axis=1)


def prefix_mean(x):
    return np.cumsum(x, axis=-1) / np.arange(1, x.shape[-1] + 1)


def first_max(x):
    return np.argmax(x, axis=-1)


def top_two(x):
    best = x.max(-1, keepdims=True)
    second = np.where(x == best, -np.inf, x).max(-1, keepdims=True)
    return np.concatenate([best, second], -1)


def soft_targets(logits, targets):
    shifted = logits - logits.max(-1, keepdims=True)
    return -(targets * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1).mean()


def smoothed(x):
    return 0.9 * softmax(x) + 0.1 / x.shape[-1]


def pool_rows(x):
    return x.reshape(x.shape[0] // 4, 4, x.shape[1]).max(axis=1)


def pool_2d(x):
    c, h, w = x.shape
    return x.reshape(c, h // 2, 2, w // 2, 2).mean(axis=(2, 4))


def stacked(x, y):
    return np.stack([x, y], axis=1).sum(axis=1) * 2


def keepdims_all(x):
    return x - x.mean(keepdims=True)


def swapped(x):
    return np.swapaxes(x, 0, 1) * 2


def moved(x):
    return np.moveaxis(x, 0, -1).sum(-1)


def three_products(x, a, b, c):
    return x @ a @ b @ c


def lora(x, w, a, b, scale=0.5):
    return x @ w + scale * ((x @ a) @ b)


def adamw(p, g, m, v):
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v * v + 0.001 * g * g
    step = (m / (1 - 0.9**10)) / (np.sqrt(v / (1 - 0.999**10)) + 1e-3)
    return p - 1e-2 * (step + 0.01 * p), m, v


def mixed_ufuncs(x, y):
    return np.add(np.multiply(x, y), np.square(np.subtract(x, y)), dtype=np.float32)


def clipped_log(x):
    return np.log(np.clip(np.abs(x), 1e-3, None))


def polynomial(x):
    return sum(c * x**i for i, c in enumerate([0.5, 1.0, -0.25, 0.125]))


def norm_ratio(x, y):
    return np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def cosine(x, y):
    top = np.sum(x * y, axis=1)
    return top / (np.sqrt((x**2).sum(1)) * np.sqrt((y**2).sum(1)) + 1e-8)


def gqa(q, k, v):
    k, v = np.repeat(k, 4, axis=0), np.repeat(v, 4, axis=0)
    return softmax(q @ k.swapaxes(-1, -2) / 4) @ v


def cross_attention(x, memory, wq, wk, wv):
    q, k, v = x @ wq, memory @ wk, memory @ wv
    return softmax(q @ k.T / 4) @ v


def layered(x, w1, b1, w2, b2):
    h = np.maximum(x @ w1 + b1, 0)
    return x + h @ w2 + b2


def defaults(x, slope=0.1, *, offset=0.5):
    return np.maximum(x, slope * x) + offset


def positions(x):
    n, d = x.shape
    return x + np.linspace(0.0, 1.0, n)[:, None] + np.arange(d) / d


def alibi(scores):
    heads, n, _ = scores.shape
    i = np.arange(n)
    return np.stack([softmax(scores[h] - 0.5 ** (h + 1) * (i[:, None] - i[None, :])) for h in range(heads)])


def group_norm(x):
    g = x.reshape(x.shape[0], 4, -1)
    g = (g - g.mean(-1, keepdims=True)) / np.sqrt(g.var(-1, keepdims=True) + 1e-5)
    return g.reshape(x.shape)


def depthwise(x, w):
    return x[2:] * w[2] + x[1:-1] * w[1] + x[:-2] * w[0]


def repeat_rows(x, y):
    return np.repeat(x, 2, axis=0) * y


def tile_columns(x, y):
    return np.tile(x, (1, 2)) + y


def flipped(x):
    return x[:, ::-1] * 2


def logit_cap(x, w):
    return 30.0 * np.tanh(x @ w / 30.0)


def diagonal_mask(x):
    return np.where(np.eye(x.shape[0], dtype=bool), 0.0, x)
