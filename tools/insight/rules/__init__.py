"""The bottleneck rules by family; importing this package registers them."""

from tools.insight.rules import movement, overlap, tensor, triage, vector

__all__ = ["movement", "overlap", "tensor", "triage", "vector"]
