"""`nki.collectives`: exchanges between the ranks of a replica group. Each rank is a logical NeuronCore of its own."""

from __future__ import annotations

from typing import Any, NoReturn

from tools.sim import context


class ReplicaGroup:
    """Lists of ranks; the ranks of one list work together.

    Attributes:
        replica_groups: e.g. [[0, 1, 2, 3]].
    """

    def __init__(self, replica_groups: Any = None, **kwargs: Any) -> None:
        self.replica_groups = [list(g) for g in (replica_groups if replica_groups is not None else [[0]])]
        if kwargs:
            raise TypeError(f"ReplicaGroup has no argument {next(iter(kwargs))!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReplicaGroup) and other.replica_groups == self.replica_groups

    def __hash__(self) -> int:
        return hash(str(self.replica_groups))

    def __repr__(self) -> str:
        return f"ReplicaGroup({self.replica_groups})"


def _unmodelled(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> NoReturn:
        context.unsupported(f"nki.collectives.{name}")

    call.__name__ = name
    return call


UNMODELLED = (
    "all_reduce",
    "all_gather",
    "all_gather_v",
    "reduce_scatter",
    "all_to_all",
    "all_to_all_v",
    "collective_permute",
    "collective_permute_implicit",
    "collective_permute_implicit_reduce",
    "collective_permute_implicit_current_processing_rank_id",
    "rank_id",
)
"""Functions that stop with an UnsupportedError."""
MEMBERS: dict[str, Any] = {"ReplicaGroup": ReplicaGroup} | {name: _unmodelled(name) for name in UNMODELLED}
