import ml_dtypes
import numpy as np
import pytest

from tests.insight.rule_kernels import PAIRS, Pair, source
from tools.insight import RULES, Observed, advise
from tools.insight.advice import Case
from tools.sim import load_source, simulate
from tools.sim.timing import IN_ORDER, TimingOptions

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def observed(body: str, pair: Pair) -> Observed:
    dtype = DTYPES[pair.dtype]
    result = simulate(
        load_source(source(body)), np.zeros(pair.x, dtype), np.zeros(pair.w, dtype), target=pair.target, data=False
    )
    return Observed.of(result.trace, result.machine, TimingOptions(compiler_model=IN_ORDER))


@pytest.mark.parametrize("name", PAIRS)
def test_rule_names_the_symptom_and_not_its_twin(name: str) -> None:
    pair = PAIRS[name]
    sick = RULES[name](Case(observed(pair.sick, pair)))
    assert sick is not None, f"{name} didn't see its symptom"
    assert sick.rule == name
    assert any(ch.isdigit() for ch in sick.evidence), "evidence needs numbers"
    assert advise(observed(pair.clean, pair), rules=(name,)) == (), f"{name} cried wolf"


UNPROVEN = {"T1", "T2", "T4", "T7"}
"""Rules that direct attention and change nothing (T2 proves only what reloads cost)."""


@pytest.mark.parametrize("name", [n for n in PAIRS if n not in UNPROVEN])
def test_the_change_gains_time_in_re_simulation(name: str) -> None:
    seen = observed(PAIRS[name].sick, PAIRS[name])
    (found,) = advise(seen, rules=(name,))
    assert found.proof is not None
    assert found.gain_us is not None
    assert found.gain_us > 0
    assert found.proof.before_us == seen.profile.latency_us


SAME_WORK = "D1 D4 D5 D7 D8 D9 D10 D12 P4 P5 P7 E1 E2 E3 E6 E7 E10 V1 V2 V3 V4 V5 V6 V7 V9 V10 V11 V13 S1 A1".split()
"""Pairs whose twin is the sick kernel with the advice followed."""


@pytest.mark.parametrize("name", SAME_WORK)
def test_the_predicted_latency_comes_true_when_the_advice_is_followed(name: str) -> None:
    pair = PAIRS[name]
    (found,) = advise(observed(pair.sick, pair), rules=(name,))
    assert found.proof is not None
    assert found.proof.after_us == pytest.approx(observed(pair.clean, pair).profile.latency_us, rel=0.15)


LINE_RULES = [n for n in PAIRS if not n.startswith("T")]


@pytest.mark.parametrize("name", LINE_RULES)
def test_findings_name_lines_of_the_kernel(name: str) -> None:
    pair = PAIRS[name]
    found = RULES[name](Case(observed(pair.sick, pair), proving=False))
    assert found is not None
    assert found.proof is None, "no re-simulation was asked for"
    text = source(pair.sick).splitlines()
    assert found.lines
    assert all(text[line - 1].strip().startswith("nisa.") or "nl.ndarray" in text[line - 1] for line in found.lines)


@pytest.mark.parametrize("name", PAIRS)
def test_all_rules_together_judge_any_kernel_and_name_the_symptom_that_it_was_made_for(name: str) -> None:
    found = advise(observed(PAIRS[name].sick, PAIRS[name]), prove=False)
    assert name in {advice.rule for advice in found}


def test_a_running_sum_is_a_carried_dependency() -> None:
    body = PAIRS["P4"].sick.replace("nisa.activation(t, nl.exp, t)", "nisa.tensor_tensor(s, s, t, op=nl.add)")
    body = body.replace(
        "for i", "s = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\nnisa.memset(s, 0.0)\nfor i", 1
    )
    pair = PAIRS["P4"]
    assert RULES["P4"](Case(observed(body.replace(", src=t)\nreturn", ", src=s)\nreturn"), pair))) is None


def test_every_rule_has_a_pair() -> None:
    assert set(PAIRS) == set(RULES)
    assert len(RULES) >= 50


def test_advice_is_ranked_by_proven_gain_and_serialises() -> None:
    import json

    found = advise(observed(PAIRS["D5"].sick, PAIRS["D5"]))
    gains = [a.gain_us for a in found if a.gain_us is not None]
    assert gains == sorted(gains, reverse=True)
    assert all(a.gain_us is None for a in found[len(gains) :])
    assert json.loads(json.dumps([a.to_json() for a in found]))[0]["rule"] == found[0].rule


def test_one_stall_is_no_plural() -> None:
    found = RULES["P1"](Case(observed(PAIRS["V11"].clean, PAIRS["V11"])))
    assert found is not None
    assert " us in 1 stall; " in found.evidence


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rule 'X9'"):
        advise(observed(PAIRS["D1"].clean, PAIRS["D1"]), rules=("X9",))


def test_a_row_that_is_spread_over_the_partitions_is_not_a_reload() -> None:
    spread = (
        "out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "t = nl.ndarray((128, 2048), dtype=x.dtype, buffer=nl.sbuf)\n"
        "nisa.dma_copy(dst=t, src=w.broadcast(0, 128))\nnisa.dma_copy(dst=out, src=t)\nreturn out"
    )
    assert RULES["D1"](Case(observed(spread, Pair(spread, spread, w=(1, 2048))))) is None


def test_a_contraction_that_is_no_longer_is_not_promised_to_be_packed() -> None:
    pair = PAIRS["E1"]
    body = pair.sick.replace(
        "    nisa.nc_matmul(", "    acc = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)\n    nisa.nc_matmul("
    )
    (summed,) = advise(observed(pair.sick, pair), rules=("E1",))
    (single,) = advise(observed(body, pair), rules=("E1",))
    assert summed.proof is not None
    assert single.proof is None
    assert "row tiles" in single.change


def test_the_change_of_v8_is_an_instruction_not_the_name_of_its_proof() -> None:
    (found,) = advise(observed(PAIRS["V8"].sick, PAIRS["V8"]), rules=("V8",))
    assert found.change.startswith("move the work: ")
    assert found.proof is not None
    assert found.proof.change.removeprefix("With ") in found.change
