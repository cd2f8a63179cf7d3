"""The numbers of each NeuronCore generation, with unit, mark and source: the only place where they live.

A row holds three facts, in the order trn1 (NC-v2), trn2 (NC-v3), trn3 (NC-v4).
"""

from __future__ import annotations

from .fact import Fact, Mark

TARGETS = ("trn1", "trn2", "trn3")

_ARCH = "NKI architecture guides (Trainium/Inferentia2, Trainium2, Trainium3)"
_ISA = "nki.isa API reference"
_OLD_ISA = "nki.isa pages of the neuronxcc.nki era, written for NC-v2"
_PERF = "NKI performance guide"
_TRACE = "published trn2 device profiles of fused attention (instruction start and duration)"
_LADDER = "published 4096-cubed bf16 matmul ladder on trn2"


def _same(value: float, unit: str, mark: Mark, source: str) -> tuple[Fact, Fact, Fact]:
    fact = Fact(value, unit, mark, source)
    return fact, fact, fact


def _each(unit: str, mark: Mark, source: str, *values: float) -> tuple[Fact, Fact, Fact]:
    first, second, third = (Fact(v, unit, mark, source) for v in values)
    return first, second, third


FACTS: dict[str, tuple[Fact, Fact, Fact]] = {
    # --- limits
    "generation": _each("count", "documented", f"{_ARCH}: NeuronCore-v2, v3, v4", 2, 3, 4),
    "partitions": _same(128, "count", "documented", f"{_ARCH}; nl.tile_size.pmax"),
    "sbuf_partition_bytes": (
        Fact(180224, "bytes", "documented", f"{_OLD_ISA}: 192 KiB less 16 KiB that the compiler keeps"),
        Fact(212984, "bytes", "documented", "NKI library bwmm_bwd_dropless: 224*1024 - 16384 - 8"),
        Fact(245752, "bytes", "fitted", "not stated for NC-v4; the NC-v3 reserve taken off 256 KiB"),
    ),
    "sbuf_partition_bytes_physical": _each("bytes", "documented", _ARCH, 196608, 229376, 262144),
    "psum_banks": _same(8, "count", "documented", f"{_ARCH}; nl.tile_size.psum_num_banks"),
    "psum_bank_bytes": _same(2048, "bytes", "documented", f"{_ARCH}: 16 KiB per partition in 8 banks"),
    "gemm_stationary_fmax": _same(128, "count", "documented", "nl.tile_size"),
    "gemm_moving_fmax": _each(
        "count", "documented", f"nl.tile_size; {_ISA} (NC-v4: 4096 with fp32 output)", 512, 512, 4096
    ),
    "bn_stats_fmax": _same(512, "count", "documented", "nl.tile_size"),
    "hbm_bytes": _each("bytes", "documented", f"{_ARCH}: HBM of one device", 32 << 30, 96 << 30, 144 << 30),
    "device_cores": _each("count", "documented", _ARCH, 2, 8, 8),
    "cores_per_hbm_stack": _each("count", "documented", _ARCH, 1, 2, 2),
    # --- clocks
    "tensor_ghz": _each("GHz", "documented", _ARCH, 2.8, 2.4, 2.4),
    "vector_ghz": (
        Fact(1.12, "GHz", "documented", _ARCH),
        Fact(0.96, "GHz", "documented", _ARCH),
        Fact(1.2, "GHz", "documented", _ARCH),
    ),
    "scalar_ghz": _each("GHz", "documented", _ARCH, 1.4, 1.2, 1.2),
    "gpsimd_ghz": _each("GHz", "documented", _ARCH, 1.4, 1.2, 1.2),
    # --- Tensor Engine
    "tensor_min_interval_cycles": _same(64, "cycles", "documented", f"{_PERF}: MM_INIT_LATENCY"),
    "tensor_interval_overhead_cycles": (
        Fact(74, "cycles", "fitted", "trn1 matmul kernels: time per 128x128x512 product over the streaming time"),
        Fact(10, "cycles", "measured", "2048 back-to-back 128x128x512 bf16 matmuls on trn2: 217.3 ns = 512 + 10"),
        Fact(10, "cycles", "measured", "NC-v3's value, none published"),
    ),
    "tensor_fp32_instructions": _each(
        "count", "measured", f"{_TRACE}: an fp32 matmul is two instructions on trn2; four passes on trn1", 4, 2, 2
    ),
    "tensor_pipeline_ns": _each(
        "ns",
        "measured",
        "profiles: matmul duration less streaming time, NC-v2 142-173, NC-v3 170",
        160.0,
        170.0,
        170.0,
    ),
    "tensor_fp32_passes": _same(4, "ratio", "documented", f"{_ISA}: fp32 matmul runs at a quarter of the bf16 rate"),
    "tensor_onezero_gain": _same(2, "ratio", "documented", f"{_ISA}: is_*_onezero gives up to 2x with fp32"),
    "tensor_fp32_transpose_passes": _each(
        "ratio", "documented", f"{_ARCH}: NC-v3 transpose mode doubles the rate of fp32 transposes", 4, 2, 2
    ),
    "tensor_load_speedup": _same(
        4, "ratio", "documented", f"{_PERF}: LoadStationary is up to 4x faster than MultiplyMoving"
    ),
    "tensor_load_ns": _each(
        "ns",
        "measured",
        "LDWEIGHTS in profiles when it is not hidden behind another matmul",
        70.0,
        64.0,
        64.0,
    ),
    "tensor_fp8_gain": _each("ratio", "documented", f"{_ARCH}: double_row doubles fp8, by doubling K", 1, 2, 2),
    "tensor_mx_gain": _each("ratio", "documented", f"{_ARCH}: MX matmul, 4x by packing K", 1, 1, 4),
    "throttle_window_ns": _each(
        "ns",
        "measured",
        f"{_TRACE}: full and half clock alternate in 3.4 us quanta; glossary: ~3 us",
        0.0,
        3400.0,
        3400.0,
    ),
    "throttle_share": _same(
        0.37,
        "ratio",
        "fitted",
        "Neuron Explorer glossary: below ~50 % use the cap returns; rows in use count (mixed-tile and K=64 matmuls)",
    ),
    "throttle_factor": _same(0.5, "ratio", "documented", "Neuron Explorer glossary: capped at about 50 % of peak"),
    # --- Vector Engine
    "vector_min_cycles": _same(64, "cycles", "documented", f"{_OLD_ISA}: MIN_II"),
    "vector_overhead_cycles": (
        Fact(110, "cycles", "fitted", "mamba on trn1: Vector time per instruction beyond its passes"),
        Fact(60, "cycles", "measured", f"{_TRACE}: the next instruction starts N + 56..62 cycles after"),
        Fact(60, "cycles", "measured", "NC-v3's value, none published"),
    ),
    "vector_latency_cycles": (
        Fact(380, "cycles", "measured", f"{_PERF} figures 10 and 17: 2N + 380..401 cycles"),
        Fact(140, "cycles", "measured", f"{_TRACE}: copies and reductions last N + 134..148 cycles"),
        Fact(140, "cycles", "measured", "NC-v3's value, none published"),
    ),
    "vector_operand_cycles": _each(
        "cycles", "measured", f"{_TRACE}: tensor_scalar with a per-partition operand lasts 66 cycles longer", 0, 66, 66
    ),
    "vector_fast_copy": _each("ratio", "documented", f"{_ARCH}: 2x and 4x performance modes, NC-v3 and later", 1, 4, 4),
    "vector_two_tensor_passes": _each(
        "ratio",
        "measured",
        f"{_OLD_ISA}: 2N on NC-v2; adamw on trn2: scalar_tensor_tensor fp32 keeps Vector busy N + 160 cycles",
        2,
        1,
        1,
    ),
    "vector_scan_passes": _same(2, "ratio", "documented", f"{_OLD_ISA}: tensor_tensor_scan costs 2N"),
    "vector_reciprocal_passes": _each(
        "ratio", "measured", "silu on trn1: exp, add, reciprocal and multiply take four Vector passes in all", 1, 8, 8
    ),
    "vector_fp32_transpose_passes": _same(
        4, "ratio", "measured", "4096 fp32 32x32 transposes on trn2 keep Vector busy 195 ns each: 4 * 32 + 60 cycles"
    ),
    # --- Scalar Engine
    "scalar_min_cycles": _same(64, "cycles", "documented", f"{_OLD_ISA}: MIN_II"),
    "scalar_overhead_cycles": _same(
        60, "cycles", "measured", f"{_TRACE}: copies start N + 60 cycles after an independent one"
    ),
    "scalar_latency_cycles": (
        Fact(222, "cycles", "measured", f"{_PERF} figure 16: 159 ns"),
        Fact(190, "cycles", "measured", f"{_TRACE}: copies last N + 190 cycles"),
        Fact(190, "cycles", "measured", "NC-v3's value, none published"),
    ),
    "scalar_function_cycles": _each(
        "cycles",
        "measured",
        f"{_TRACE}: activations take 145 cycles more than copies; exp N/1.2 + 287..290 ns",
        0,
        145,
        145,
    ),
    "scalar_half_gain": _each("ratio", "documented", f"{_ARCH}: NC-v4 streams 256 two-byte elements a cycle", 1, 1, 2),
    "scalar_table_load_ns": _each(
        "ns",
        "measured",
        f"ACT_TABLE_LOAD: 368 ns in an older profile; {_TRACE}: 1283 ns",
        368.0,
        1283.0,
        1283.0,
    ),
    "accumulator_read_cycles": _same(64, "cycles", "documented", f"{_ARCH}: ActReadAccumulator"),
    # --- GpSimd
    "gpsimd_start_cycles": _same(150, "cycles", "documented", f"{_OLD_ISA}: GPSIMD_START"),
    "gpsimd_passes": _same(
        2, "ratio", "fitted", "GpSimd work for which no cycles are published, against one element a cycle"
    ),
    # --- ports and semaphores
    "wide_stride_penalty": _each(
        "ratio", "documented", f"{_ARCH}: a 16-byte stride halves the port rate (NC-v2)", 2, 1, 1
    ),
    "vector_gpsimd_serial": _each(
        "count", "documented", f"{_ARCH}: Vector and GpSimd take turns at SBUF on NC-v2", 1, 0, 0
    ),
    "scalar_takes_copies": _each(
        "count",
        "measured",
        "Beta-1 compiler; engine-active shares of 14 NKIBench kernels on trn1: Scalar does every copy and tensor_scalar, "
        "Vector none even where it is idle; on trn2 bmm's copies are shared 4170 to 4133",
        1,
        0,
        0,
    ),
    "vector_scalar_psum_serial": _each(
        "count", "documented", f"{_ARCH}: Vector and Scalar take turns at PSUM on NC-v2", 1, 0, 0
    ),
    "semaphore_ns": _same(50.0, "ns", "measured", "profiles: 35-60 ns from an engine's end to another's start"),
    "same_engine_gap_ns": _same(30.0, "ns", "measured", f"{_PERF} figure 16: own-engine semaphore turn-around"),
    # --- DMA
    "dma_engines": _same(16, "count", "documented", f"{_ARCH}: DMA engines of one core"),
    "dma_queues": _same(
        1, "count", "fitted", "instruction streams over which the compiler spreads DMAs that name no engine"
    ),
    "dma_bytes_per_ns": (
        Fact(
            18.6,
            "B/ns",
            "measured",
            "one engine: 18.1 in a profile with all 16 busy; a whole kernel reached 294 GB/s",
        ),
        Fact(27.2, "B/ns", "documented", "DMA overview; slope of 256 B..4 KiB descriptors in device profiles"),
        Fact(38.4, "B/ns", "documented", "DMA overview"),
    ),
    "dma_descriptor_ns": _same(
        8.0, "ns", "measured", f"{_TRACE}: 256 B 17, 512 B 27, 2 KiB 83, 4 KiB 158 ns = 8 + bytes/27.2"
    ),
    "dma_software_descriptor_ns": _same(
        32.0, "ns", "measured", f"{_TRACE}: 256 B takes 41 ns with software descriptors"
    ),
    "dma_trigger_ns": _each(
        "ns",
        "measured",
        f"{_TRACE}: about 560 ns on Sync and Scalar (hardware descriptors; trn1 has none)",
        60.0,
        560.0,
        560.0,
    ),
    "dma_gpsimd_trigger_ns": _same(37.0, "ns", "measured", f"{_TRACE}: about 37 ns on GpSimd"),
    "dma_software_row_ns": _same(4.2, "ns", "measured", f"{_TRACE}: GpSimd starts 128-row DMAs 576-582 ns apart"),
    "dma_packet_bytes": _same(
        4096, "bytes", "documented", "packet size of static DMAs; longer runs are cut into packets"
    ),
    "dma_alignment_bytes": _same(64, "bytes", "fitted", "adamw on trn2: rows of 42.75 and 85.5 times 64 B are slow"),
    "dma_unaligned_ns": _same(
        9.0, "ns", "fitted", "adamw on trn2: 8.1 and 9.6 ns more for each row of 5472 and 2736 B than for whole 64 B"
    ),
    "dma_start_ns": _each(
        "ns", "measured", "profiles: end of the trigger to the first packet 0.74-0.98 us", 850.0, 850.0, 850.0
    ),
    "dma_completion_ns": _same(300.0, "ns", "measured", "profiles: end of data to start of the consumer 295-342 ns"),
    "dma_floor_ns": _same(0.0, "ns", "fitted", "least time between two transfers of one queue beyond the trigger"),
    "dma_transpose_share": _each(
        "ratio", "documented", f"{_ARCH}: DMA transpose up to 90 % of DMA rate", 0.3, 0.9, 0.9
    ),
    "dma_accumulate_share": _each(
        "ratio", "documented", f"{_ARCH}: read-add-write at half rate before NC-v4", 0.5, 0.5, 1.0
    ),
    "hbm_stack_gbps": (
        Fact(410.0, "GB/s", "documented", f"{_ARCH}: 820 GB/s over two stacks"),
        Fact(716.0, "GB/s", "measured", "derived from MBU in a published trn2 profile"),
        Fact(1175.0, "GB/s", "documented", f"{_ARCH}: 4.7 TB/s over four stacks"),
    ),
    "collective_latency_ns": _same(5000.0, "ns", "documented", "collectives guide: latency 1-10 us class"),
    "collective_gbps": _each(
        "GB/s", "documented", "chip link: 384, 1280, 2560 GB/s over the device's cores", 192.0, 160.0, 320.0
    ),
}


def facts(target: str) -> dict[str, Fact]:
    """Every fact of one generation by name; `target` is one of `TARGETS`."""
    column = TARGETS.index(target)
    return {name: row[column] for name, row in FACTS.items()}
