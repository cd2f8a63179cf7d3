"""What people write is computed as meant, or refused in one sentence; nothing else is ever computed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.generate.corpus import EITHER, FACTS, MEANS, REFUSED, agrees
from tools.generate.specify import parse_request
from tools.task_errors import RequestError


@pytest.mark.parametrize(("text", "formula"), MEANS)
def test_a_request_computes_what_it_means(text: str, formula: str) -> None:
    task = parse_request(text)
    try:
        assert agrees(formula, task), task.reference.source
    except NameError as error:
        pytest.fail(f"{error}: the inputs are {[s.name for s in task.inputs]}")


@pytest.mark.parametrize(("text", "names"), REFUSED)
def test_a_request_without_one_meaning_is_refused_in_one_sentence(text: str, names: str) -> None:
    with pytest.raises(RequestError, match=names) as refused:
        parse_request(text)
    message = str(refused.value)
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("text", EITHER)
def test_an_odd_request_is_answered_or_refused(text: str) -> None:
    sentence = ""
    try:
        parse_request(text)
    except RequestError as error:
        sentence = str(error)
    assert sentence.endswith(".") or not sentence


@pytest.mark.parametrize(("text", "facts"), FACTS)
def test_the_facts_of_a_request(text: str, facts: dict[str, Any]) -> None:
    task = parse_request(text)
    said = {
        "target": task.target, "goal": str(task.goal), "dtypes": [s.dtype for s in task.inputs], "outputs": list(task.output_dtypes),
        "precision": task.precision, "rtol": task.tolerance.rtol,
    }  # fmt: skip
    assert {k: said[k] for k in facts} == facts


@pytest.mark.parametrize("seed", range(4))
def test_a_word_that_nothing_knows_is_never_skipped(seed: int) -> None:
    rng = random.Random(seed)
    for text, _ in rng.sample(MEANS, 60):
        words = text.split(" ")
        words.insert(rng.randrange(len(words) + 1), "frobnicate")
        with pytest.raises(RequestError):
            parse_request(" ".join(words))


@pytest.mark.parametrize("seed", range(4))
def test_words_in_any_order_are_answered_or_refused_in_one_sentence(seed: int) -> None:
    rng = random.Random(seed)
    texts = [t for t, _ in (*MEANS, *REFUSED) if t.strip()]
    for _ in range(150):
        one, other = rng.choice(texts).split(" "), rng.choice(texts).split(" ")
        mixed = one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other)) :]
        rng.shuffle(mixed) if rng.random() < 0.3 else None
        sentence = ""
        try:
            parse_request(" ".join(mixed))
        except RequestError as error:
            sentence = str(error)
        assert not sentence or (sentence.endswith(".") and "\n" not in sentence), mixed


def test_the_corpus_is_large() -> None:
    assert len(MEANS) + len(REFUSED) + len(FACTS) >= 250
