"""The words of requests: operators, element types, targets and goals, as patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Arity = Literal[
    "unary", "matmul", "bias", "norm", "binary", "reduce", "layout", "scale", "residual", "gated", "attention"
]


@dataclass(frozen=True, slots=True)
class Word:
    """An operator that requests can name.

    Attributes:
        key: its name in reference sources and task names.
        pattern: what people write.
        arity: what it takes besides the running value.
    """

    key: str
    pattern: re.Pattern[str]
    arity: Arity


def _word(key: str, arity: Arity, pattern: str) -> Word:
    return Word(key, re.compile(rf"(?<![\w.]){pattern}(?!\w)", re.IGNORECASE), arity)


_ROW = r"(?:rows?|last (?:axis|dim(?:ension)?)|each row|every row|columns? (?:of|in) each row|feature (?:axis|dim(?:ension)?)|features|axis -?1)"
_OVER = rf"(?:over|along|across|of|per|for|by)\s+(?:the\s+|each\s+|all\s+)?{_ROW}"
_COLUMN = r"(?:first (?:axis|dim(?:ension)?)|axis 0|batch (?:axis|dim(?:ension)?)|columns?|(?:each|every) column)"


def _reduction(key: str, names: str) -> Word:
    return _word(
        f"row_{key}", "reduce",
        rf"(?:row[- ]?(?:wise )?(?:{names})|(?:{names})\s+(?:reduction\s+)?{_OVER}|(?:{names})[- ]reduction|reduce[- ](?:{names}))",
    )  # fmt: skip


def _column(key: str, names: str) -> Word:
    return _word(
        f"column_{key}", "reduce",
        rf"(?:column[- ]?(?:wise )?(?:{names})|(?:{names})\s+(?:(?:over|along|of|across|for)\s+(?:the\s+|all\s+)?{_COLUMN}|per\s+column))",
    )  # fmt: skip


WORDS: tuple[Word, ...] = (
    _word("rmsnorm", "norm", r"(?:rms[\s_-]*norm(?:ali[sz](?:ation|e|ed))?|root[\s-]mean[\s-]square norm(?:ali[sz]ation)?|rms normali[sz]ation)"),
    _word("layernorm", "norm", r"(?:layer[\s_-]*norm(?:ali[sz](?:ation|e|ed))?)"),
    _word("l2norm", "unary", r"(?:l2[\s_-]*normali[sz](?:ation|e|ed|ing)|l2norm)"),
    _word("row_norm", "reduce", rf"(?:row[- ]?(?:wise )?(?:l2|euclidean)[\s_-]*norms?|(?:l2|euclidean)[\s_-]*norms?\s+{_OVER})"),
    _word("log_softmax", "unary", r"log[\s_-]*soft[\s_-]?max"),
    _word("softmax", "unary", r"soft[\s_-]?max"),
    _word("attention", "attention", r"(?:scaled[\s-]dot[\s-]product[\s-])?(?:self[\s-])?attention"),
    _word("swiglu", "gated", r"(?:swi[\s-]?glu)(?: (?:mlp|ffn|block|feed[- ]forward))?"),
    _word("matmul", "matmul", r"(?:multiply (?:the |two )?matrices|mat[\s_-]?mul(?:s|tiply)?|matrix[\s-]+(?:matrix[\s-]+)?(?:multipl\w+|product)|gemm|mm|linear(?: layer| projection)?|dense(?: layer)?|(?:fully[- ]connected(?: layer)?)|projection|matrix[\s-]vector product|gemv)"),
    _column("sum", r"sums?"),
    _column("mean", r"(?:mean|average)s?"),
    _word("row_sum_of_squares", "reduce", rf"(?:row[- ]?(?:wise )?)?(?:sums? of (?:the )?square[sd]?(?: values| elements)?|sums? of squared (?:values|elements)|sums? squares)(?: {_OVER})?"),
    _reduction("sum", r"sums?"),
    _reduction("mean", r"(?:mean|average)s?"),
    _reduction("max", r"(?:max(?:imum|ima)?)"),
    _reduction("min", r"(?:min(?:imum|ima)?)"),
    _reduction("var", r"var(?:iance)?s?"),
    _word("bias", "bias", r"(?:(?:add(?:ing|s)? )?(?:an? |the )?bias(?:[\s-]add(?:ition)?)?)"),
    _word("residual", "residual", r"(?:(?:add(?:ing|s)? )?(?:an? |the )?(?:residual|skip)(?:[\s-](?:add(?:ition)?|connection))?)"),
    _word("leaky_relu", "unary", r"leaky[\s_-]?relu"),
    _word("gelu", "unary", r"gelu"),
    _word("silu", "unary", r"(?:silu|swish)"),
    _word("relu", "unary", r"relu"),
    _word("sigmoid", "unary", r"(?:sigmoid|logistic)"),
    _word("softplus", "unary", r"softplus"),
    _word("mish", "unary", r"mish"),
    _word("tanh", "unary", r"(?:tanh|hyperbolic tangent)"),
    _word("rsqrt", "unary", r"(?:rsqrt|(?:reciprocal|inverse) square[\s-]?root)"),
    _word("sqrt", "unary", r"(?:sqrt|square[\s-]?root)"),
    _word("square", "unary", r"(?:squared?|squaring)"),
    _word("exp", "unary", r"(?:exp|exponential)"),
    _word("log", "unary", r"(?:log|logarithm|natural log(?:arithm)?)"),
    _word("abs", "unary", r"(?:abs|absolute(?: value)?)"),
    _word("erf", "unary", r"erf"),
    _word("sin", "unary", r"sine?"),
    _word("cos", "unary", r"cos(?:ine)?"),
    _word("reciprocal", "unary", r"(?:reciprocal|element[- ]?wise inverse)"),
    _word("negate", "unary", r"(?:negat(?:e|ion)|negative)"),
    _word("transpose", "layout", r"transpos(?:e|ition|ing)"),
    _word("scale", "scale", r"(?:scal(?:e|ed|ing)(?: by)?|multipl(?:y|ied|ying) by|times)(?=[\s,;.]|$)"),
    _word("subtract", "binary", r"(?:subtract(?:ion|ing)?|(?:element[- ]?wise )?difference|minus)"),
    _word("multiply", "binary", r"(?:(?:element[- ]?wise |hadamard )(?:product|multipl\w+)|multipl(?:y|ication))"),
    _word("divide", "binary", r"(?:(?:element[- ]?wise )?(?:divided?|dividing|division|quotient))"),
    _word("maximum", "binary", r"(?:element[- ]?wise )(?:max|maximum)"),
    _word("minimum", "binary", r"(?:element[- ]?wise )(?:min|minimum)"),
    _word("add", "binary", r"(?:(?:element[- ]?wise |vector |tensor |matrix )?(?:add(?:ition|ing|s)?|sum of)|plus)"),
    _word("copy", "unary", r"copy"),
)  # fmt: skip

FOREIGN = re.compile(
    r"(?<!\w)(conv(?:olution\w*|\dd)?|pool(?:ing)?|max ?pool|avg ?pool|fft|sort(?:ing)?|top[- ]?k|arg ?(?:max|min)|cumsum|"
    r"cumulative sum|scan|embedding|gather|scatter|dropout|rope|rotary\w*|mamba|quanti[sz]e\w*|group ?norm|batch ?norm|"
    r"cross[- ]entropy|lstm|gru|einsum|histogram|all[- ]?(?:reduce|gather)|cholesky|svd|qr|inverse of|determinant)(?!\w)",
    re.IGNORECASE,
)
"""Operators that requests in words have no grammar for; a NumPy reference can still name them."""

DTYPES = {
    "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16", "fp16": "float16", "f16": "float16",
    "half": "float16", "half precision": "float16", "float32": "float32", "fp32": "float32", "f32": "float32",
    "single precision": "float32", "full precision": "float32",
    "float8_e4m3": "float8_e4m3", "fp8": "float8_e4m3", "float8": "float8_e4m3",
}  # fmt: skip
DTYPE = re.compile(rf"(?<!\w)({'|'.join(sorted(map(re.escape, DTYPES), key=len, reverse=True))})(?!\w)", re.IGNORECASE)
BAD_DTYPE = re.compile(
    r"(?<!\w)(float64|fp64|f64|double(?: precision)?|u?int\d+|complex\d+|bool(?:ean)?|float(?!8|16|32)\d+|fp(?!8|16|32)\d+|bf(?!16)\d+)(?!\w)",
    re.IGNORECASE,
)

TARGET = re.compile(
    r"(?<!\w)(trn|trainium|inf|inferentia)\s*-?\s*(\d+)(?:\.[\w.]+)?(?!\w)|(?<!\w)(gen[234])(?!\w)", re.IGNORECASE
)
TARGETS = {
    "trn1": "trn1",
    "trn2": "trn2",
    "trn3": "trn3",
    "inf2": "trn1",
    "gen2": "trn1",
    "gen3": "trn2",
    "gen4": "trn3",
}
FOREIGN_TARGET = re.compile(
    r"(?<!\w)(?:for|on|target(?:ing)?)\s+(?:an?\s+|the\s+)?"
    r"((?:nvidia\s+|amd\s+|google\s+)?(?:h100|a100|b200|h200|v100|rtx\s*\d+|mi\d+x?|tpu(?:\s*v\d\w*)?|gpus?|cuda|cpu|rocm|metal))(?!\w)",
    re.IGNORECASE,
)

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_TIME = r"(us|µs|μs|microseconds?|micros|ms|milliseconds?|ns)"
GOALS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("percent", rf"(?:(?:reach(?:es|ing)?|hit|achieve|get(?: to)?|at least|to|at|within|>=?)\s+)*{NUMBER}\s*(?:%|percent|per cent)\s*(?:of\s+)?(?:the\s+)?(?:roofline|peak|roof)"),
        ("percent", rf"roofline\s*(?:>=?|of(?: at least)?|at least|:|=)?\s*{NUMBER}\s*(?:%|percent)"),
        ("share", rf"roofline\s*(?:fraction|share)?\s*(?:>=?|of(?: at least)?|at least|:|=)?\s*{NUMBER}"),
        ("half", r"(?:(?:reach|hit|achieve|at least)\s+)*half\s+(?:of\s+)?(?:the\s+)?(?:roofline|peak)"),
        ("latency", rf"(?:latency\s*(?:<=?|of|under|below|at most|:)?|under|below|within|in less than|less than|at most|no more than|faster than|in under|in|<=?)\s*{NUMBER}\s*{_TIME}(?!\w)"),
        ("twice", r"(?:at least\s+)?(?:twice|two times|2\s*x|double)\s+(?:as fast|faster|the speed)(?:\s+as\s+[\w ]+?(?=[,.;]|$))?"),
        ("speedup", rf"(?:speed-?\s?up\s*(?:>=?|of(?: at least)?|at least|:)?\s*{NUMBER}\s*x?)"),
        ("speedup", rf"{NUMBER}\s*(?:x|×|times|-fold)\s*(?:faster|speed-?\s?up|as fast)"),
    )
)  # fmt: skip
VAGUE_GOAL = re.compile(
    r"as fast as possible|fastest(?: possible)?|maximum (?:speed|performance)|(?:very |really )?fast(?!\w)",
    re.IGNORECASE,
)
