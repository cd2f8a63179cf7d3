"""The bottleneck rules by family; importing this package registers them."""

from tools.insight.rules import algebra, excess, iterations, movement, overlap, psum, tensor, triage, vector

__all__ = ["algebra", "excess", "iterations", "movement", "overlap", "psum", "tensor", "triage", "vector"]
