"""The tables behind docs/compatibility.md and docs/diagnostics.md, and the pages themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.sim import compatibility, diagnostics
from tools.sim.frontend.modules import all_modules, language_module

DOCS = Path(__file__).resolve().parents[2] / "docs"
FUNCTIONS = dict(compatibility.functions())

DOCUMENTED_ISA = """dma_copy tensor_copy tensor_tensor memset activation nc_matmul tensor_scalar nc_transpose sendrecv
dma_transpose tensor_reduce get_nc_version iota quantize_mx scalar_tensor_tensor reciprocal core_barrier nc_stream_shuffle
nc_matmul_mx dma_compute activation_reduce tensor_scalar_reduce register_alloc register_load nc_find_index8 affine_select
nonzero_with_count tensor_tensor_scan max8 nc_n_gather tensor_copy_predicated bn_stats bn_aggr range_select local_gather
tensor_partition_reduce nc_match_replace8 select_reduce dropout sequence_bounds tensor_scalar_cumulative exponential
activate2 register_move register_store rng rand2 rand_set_state rand_get_state set_rng_seed topk get_nc_sub_version
tensor_copy_dynamic_src tensor_copy_dynamic_dst""".split()
DOCUMENTED_LANGUAGE = """ndarray add multiply ds affine_range maximum copy sequential_range minimum program_id num_programs
store load subtract exp rsqrt static_range square equal program_ndim less shared_identity_matrix zeros max shared_constant
silu gelu_apprx_sigmoid greater_equal dynamic_range sum greater abs matmul log divide gelu gelu_apprx_tanh sigmoid sin
transpose range less_equal logical_and gelu_apprx_sigmoid_dx silu_dx broadcast_to rand full where sqrt reciprocal
load_transpose2d device_print ones zeros_like empty_like gather_flattened min mean relu fori_loop while_loop no_reorder
expand_dims softmax rms_norm dropout random_seed prod var all finfo power mod fmod not_equal logical_or logical_xor
bitwise_and bitwise_or bitwise_xor left_shift right_shift abs_max abs_min tanh gelu_dx softplus mish erf erf_dx cos tan
arctan sign negative ceil floor trunc invert logical_not bypass prelu average sbuf psum hbm shared_hbm private_hbm tile_size
NKIObject NkiTensor float32 bfloat16 float16 tfloat32 float8_e4m3 float8_e4m3fn float8_e5m2 float8_e8m0fnu int8 int16 int32
uint8 uint16 uint32 bool_ float8_e4m3fn_x4 float8_e5m2_x4 float4_e2m1fn_x4 fp32 is_hbm is_on_chip is_psum is_sbuf""".split()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_no_argument_is_ignored_in_silence(name):
    unused = compatibility.unused_parameters(FUNCTIONS[name])
    missing = [p for p in unused if compatibility.inert(name, p) is None]
    assert not missing, f"{name} never uses {missing}: give them an effect, refuse them, or say in INERT why not"


def test_every_documented_name_exists_or_is_refused():
    for module, names in (("nki.isa", DOCUMENTED_ISA), ("nki.language", DOCUMENTED_LANGUAGE)):
        members = vars(language_module(module))
        missing = [n for n in names if n not in members and f"{module}.{n}" not in compatibility.REFUSED]
        assert not missing


def test_notes_name_real_functions():
    assert set(compatibility.PARTIAL) <= set(FUNCTIONS)
    assert not set(compatibility.REFUSED) & set(FUNCTIONS)


def test_every_code_has_a_meaning_and_every_meaning_a_code():
    used = set(diagnostics.used_codes())
    assert used - set(diagnostics.MEANINGS) == set()
    assert set(diagnostics.MEANINGS) - used == set()


@pytest.mark.parametrize(
    ("file", "page"), [("compatibility.md", compatibility.page), ("diagnostics.md", diagnostics.page)]
)
def test_pages_are_up_to_date(file, page):
    command = "python -m tools.sim." + file.removesuffix(".md")
    assert (DOCS / file).read_text(encoding="utf-8") == page(), f"run `{command} > docs/{file}`"


def test_a_module_that_is_not_modelled_is_not_listed():
    assert language_module("neuronxcc.nki.no_such_part") is not None
    assert "neuronxcc.nki.no_such_part" not in all_modules()
