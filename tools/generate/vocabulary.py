"""Targets, element types and goals as requests write them, as patterns."""

from __future__ import annotations

import re

DTYPES = {
    "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16", "fp16": "float16", "f16": "float16",
    "half": "float16", "half precision": "float16", "float32": "float32", "fp32": "float32", "f32": "float32",
    "single precision": "float32", "full precision": "float32",
    "float": "float32", "floats": "float32", "float8_e4m3": "float8_e4m3", "fp8": "float8_e4m3", "float8": "float8_e4m3",
}  # fmt: skip
DTYPE = re.compile(
    rf"(?<!\w)(?:{'|'.join(sorted(map(re.escape, DTYPES), key=len, reverse=True))})(?!\w)(?!\s+(?:of|the)\b)",
    re.IGNORECASE,
)
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
_TIME = r"(us|µs|μs|usec|usecs|microseconds?|micro ?secs?|micros|ms|msec|milliseconds?|ns|nanoseconds?)"
_LEAD = (
    r"(?:(?<!\w)(?:and|that|which|it|should|must|has to|please|with|goal|target|a|an|the|i want it|i want|reach(?:es|ing)?|hit(?:s|ting)?|"
    r"achiev(?:e|es|ing)|get(?:s|ting)?|get to|run(?:s|ning)?|runs? at|finish(?:es)?|be|is|at least|at|to|of|within|get it|make it|so that|"
    r"as|should be|needs? to be|no less than|minimum|more than|over|above)[\s:]+)*"
)
_PEAK = r"(?:roofline|peak|roof|roof line|theoretical peak)(?:\s+(?:performance|flops|throughput|efficiency))?(?!\s+(?:bandwidth|memory|power))"
_THAN = (
    r"(?:\s+(?:than|as|over|compared (?:to|with)|versus|vs\.?|relative to)\s+(?:the\s+|your\s+|its\s+|a\s+)?(?:(?:first|initial|plain|plainest|"
    r"naive|simplest)\s+)?(?:correct\s+)?(?:draft|version|attempt|one|kernel))?"
)
_AT_MOST = (
    r"(?:latency\s*(?:<=?|of|under|below|at most|:|=|is)?|(?:time|latency)?\s*(?:under|below|within|in less than|less than|at most|no more than|"
    r"not more than|faster than|in under|in at most|in|<=?|max(?:imum)?(?: of)?|budget(?: of)?))"
)
GOALS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(_LEAD + pattern, re.IGNORECASE))
    for kind, pattern in (
        ("percent", rf"(?:>=?\s*)?{NUMBER}\s*(?:%|percent|per cent|pct)\s*(?:of\s+)?(?:the\s+|its\s+)?{_PEAK}"),
        ("percent", rf"roofline\s*(?:>=?|of(?: at least)?|at least|:|=)?\s*{NUMBER}\s*(?:%|percent)"),
        ("share", rf"roofline\s*(?:fraction|share)?\s*(?:>=?|of(?: at least)?|at least|:|=)?\s*{NUMBER}(?!\s*[x×%]\s*\d)"),
        ("share", rf"(?:>=?\s*)?(0?\.\d+)\s*(?:of\s+)?(?:the\s+)?{_PEAK}"),
        ("half", rf"half\s+(?:of\s+)?(?:the\s+|its\s+)?{_PEAK}"),
        ("latency", rf"{_AT_MOST}\s*{NUMBER}\s*{_TIME}(?!\w)(?:\s+or (?:less|faster))?(?:\s+latency)?"),
        ("latency", rf"{NUMBER}\s*{_TIME}\s+(?:or (?:less|faster)|at most|max(?:imum)?|budget)"),
        ("twice", rf"(?:twice|two times|2\s*[x×]|double)\s+(?:as fast|faster|the speed(?: of)?){_THAN}"),
        ("twice", rf"double\s+(?:the\s+)?speed{_THAN}"),
        ("speedup", rf"(?:speed-?\s?up\s*(?:>=?|of(?: at least)?|at least|:|=)?\s*{NUMBER}\s*[x×]?){_THAN}"),
        ("speedup", rf"(?:>=?\s*)?{NUMBER}\s*(?:[x×]|times|-fold|fold)\s*(?:faster|speed-?\s?up|as fast|the speed(?: of)?){_THAN}"),
    )
)  # fmt: skip
VAGUE_GOAL = re.compile(
    r"(?<!\w)(?:and\s+|make it\s+|run\s+|that is\s+|it should be\s+|please\s+)*(?:as fast as (?:possible|you can)|(?:the )?fastest(?: possible)?|"
    r"as quick(?:ly)? as possible|(?:with\s+|for\s+|at\s+)?(?:max(?:imum)?|minimum|minimal|high|low|highest|lowest|best|good|the best)\s+"
    r"(?:speed|performance|throughput|latency|time|efficiency|utili[sz]ation)|(?:very |really |super )?fast(?!\w)|efficiently)",
    re.IGNORECASE,
)
