"""The NeuronCore generations as data: `machine("trn2")` gives every limit, clock, rate and cost."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import Any

from .fact import Fact, Mark
from .table import TARGETS, facts

__all__ = ["ALIASES", "MODEL_VERSION", "TARGETS", "Fact", "Machine", "Mark", "machine"]

MODEL_VERSION = "1.6"
"""Version of the machine tables and timing laws, stored with every result; raise it when either changes."""

ALIASES: dict[str, str] = {
    "trn1": "trn1", "inf2": "trn1", "gen2": "trn1",
    "trn2": "trn2", "gen3": "trn2",
    "trn3": "trn3", "gen4": "trn3",
}  # fmt: skip
"""Accepted spellings; a longer name such as `trn1.32xlarge` is cut at its first dot."""


@dataclass(frozen=True)
class Machine:
    """One NeuronCore generation. Every number is also a `Fact` with its source: `machine.fact("tensor_ghz")`.

    Times are in ns, rates in bytes per ns (= GB/s), `*_cycles` in cycles of the engine named first.
    Meaning and source of each field stand in `table.FACTS` under the same name.
    """

    name: str
    generation: int
    partitions: int
    sbuf_partition_bytes: int
    sbuf_partition_bytes_physical: int
    psum_banks: int
    psum_bank_bytes: int
    gemm_stationary_fmax: int
    gemm_moving_fmax: int
    bn_stats_fmax: int
    hbm_bytes: int
    device_cores: int
    cores_per_hbm_stack: int
    tensor_ghz: float
    vector_ghz: float
    scalar_ghz: float
    gpsimd_ghz: float
    tensor_min_interval_cycles: float
    tensor_interval_overhead_cycles: float
    tensor_fp32_instructions: int
    tensor_pipeline_ns: float
    tensor_fp32_passes: float
    tensor_onezero_gain: float
    tensor_fp32_transpose_passes: float
    tensor_load_speedup: float
    tensor_load_ns: float
    tensor_fp8_gain: float
    tensor_mx_gain: float
    throttle_window_ns: float
    throttle_share: float
    throttle_factor: float
    vector_min_cycles: float
    vector_overhead_cycles: float
    vector_latency_cycles: float
    vector_operand_cycles: float
    vector_fast_copy: float
    vector_two_tensor_passes: float
    vector_scan_passes: float
    vector_reciprocal_passes: float
    vector_fp32_transpose_passes: float
    scalar_min_cycles: float
    scalar_overhead_cycles: float
    scalar_latency_cycles: float
    scalar_function_cycles: float
    scalar_half_gain: float
    scalar_table_load_ns: float
    accumulator_read_cycles: float
    gpsimd_start_cycles: float
    gpsimd_passes: float
    wide_stride_penalty: float
    vector_gpsimd_serial: int
    scalar_takes_copies: int
    vector_scalar_psum_serial: int
    semaphore_ns: float
    same_engine_gap_ns: float
    dma_engines: int
    dma_queues: int
    dma_bytes_per_ns: float
    dma_descriptor_ns: float
    dma_software_descriptor_ns: float
    dma_trigger_ns: float
    dma_gpsimd_trigger_ns: float
    dma_software_row_ns: float
    dma_packet_bytes: int
    dma_alignment_bytes: int
    dma_unaligned_ns: float
    dma_start_ns: float
    dma_completion_ns: float
    dma_floor_ns: float
    dma_transpose_share: float
    dma_accumulate_share: float
    hbm_stack_gbps: float
    collective_latency_ns: float
    collective_gbps: float
    facts: MappingProxyType[str, Fact] = field(repr=False, compare=False, default_factory=lambda: MappingProxyType({}))

    def fact(self, name: str) -> Fact:
        """The number `name` with its unit, mark and source.

        Raises:
            KeyError: no such number; the message lists the known names.
        """
        found = self.facts.get(name)
        if found is None:
            raise KeyError(f"no machine number {name!r}; known: {', '.join(sorted(self.facts))}")
        return found

    @property
    def psum_partition_bytes(self) -> int:
        """PSUM bytes per partition, all banks."""
        return self.psum_banks * self.psum_bank_bytes

    @property
    def dma_gbps(self) -> float:
        """Rate of all DMA engines together without descriptor overhead, GB/s."""
        return self.dma_engines * self.dma_bytes_per_ns

    @property
    def hbm_gbps(self) -> float:
        """Bandwidth that one busy core can draw, for the roofline: the least of HBM stack and DMA."""
        return min(self.hbm_stack_gbps, self.dma_gbps)

    def peak_tflops(self, dtype: str) -> float:
        """Dense matmul peak of one core for operands of `dtype`, TFLOP/s.

        fp8 counts double_row where the generation has it, packed x4 types count the MX matmul.
        """
        dense = 2 * self.partitions * self.gemm_stationary_fmax * self.tensor_ghz / 1e3
        if dtype.endswith("_x4"):
            return dense * self.tensor_mx_gain
        if dtype.startswith("float8"):
            return dense * self.tensor_fp8_gain
        if dtype in ("float32", "float64", "int32", "uint32", "fp32"):
            return dense / self.tensor_fp32_passes
        return dense

    def clock_ghz(self, engine: str) -> float:
        """Clock of `tensor`, `vector`, `scalar`, `gpsimd` or `sync`."""
        clocks = {
            "tensor": self.tensor_ghz,
            "vector": self.vector_ghz,
            "scalar": self.scalar_ghz,
            "gpsimd": self.gpsimd_ghz,
            "sync": self.gpsimd_ghz,
        }
        return clocks[engine]


@cache
def _build(target: str) -> Machine:
    table = facts(target)
    values: dict[str, Any] = {}
    for entry in fields(Machine):
        if entry.name in table:
            number = table[entry.name].value
            values[entry.name] = int(number) if entry.type == "int" else float(number)
    return Machine(name=target, facts=MappingProxyType(table), **values)


def machine(name: str) -> Machine:
    """The machine called `name`: trn1 (also inf2, gen2), trn2 (gen3) or trn3 (gen4).

    Raises:
        ValueError: unknown target; the message lists the known ones.
    """
    target = ALIASES.get(str(name).strip().lower().split(".")[0])
    if target is None:
        raise ValueError(f"unknown target {name!r}; known targets: {', '.join(ALIASES)}")
    return _build(target)
