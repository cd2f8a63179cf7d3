import math

import pytest

from tools.sim.machine import ALIASES, MODEL_VERSION, TARGETS, machine
from tools.sim.machine.table import FACTS


@pytest.mark.parametrize(("alias", "target"), sorted(ALIASES.items()))
def test_alias_reaches_its_generation(alias: str, target: str) -> None:
    assert machine(alias).name == target


def test_instance_name_is_accepted() -> None:
    assert machine("trn1.32xlarge") is machine("TRN1")


def test_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="trn1, inf2, gen2, trn2, gen3, trn3, gen4"):
        machine("gpu")


@pytest.mark.parametrize("target", TARGETS)
def test_every_number_has_a_fact_with_source_and_mark(target: str) -> None:
    found = machine(target)
    for name in FACTS:
        fact = found.fact(name)
        assert fact.value == getattr(found, name)
        assert fact.mark in ("documented", "measured", "fitted")
        assert fact.source
        assert fact.unit
        assert math.isfinite(fact.value)


def test_unknown_fact_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="tensor_ghz"):
        machine("trn2").fact("no_such_number")


def test_peaks_match_the_documented_ones() -> None:
    assert machine("trn1").peak_tflops("bfloat16") == pytest.approx(91.75, abs=0.01)
    assert machine("trn2").peak_tflops("bfloat16") == pytest.approx(78.64, abs=0.01)
    assert machine("trn2").peak_tflops("float32") == pytest.approx(19.66, abs=0.01)
    assert machine("trn2").peak_tflops("float8_e4m3") == pytest.approx(157.3, abs=0.1)
    assert machine("trn3").peak_tflops("float8_e4m3fn_x4") == pytest.approx(314.6, abs=0.1)


def test_generations_differ_where_documented() -> None:
    assert [machine(t).sbuf_partition_bytes_physical for t in TARGETS] == [192 << 10, 224 << 10, 256 << 10]
    assert [machine(t).generation for t in TARGETS] == [2, 3, 4]
    assert machine("trn1").psum_partition_bytes == 16384
    assert MODEL_VERSION
