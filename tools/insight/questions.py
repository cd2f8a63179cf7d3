"""Questions about a timed launch in words: what is asked is found by its nouns, the answer is computed, gains are re-simulated.

"why is the Tensor Engine idle 27 %?", "what does line 42 wait for?", "what would bf16 gain?", "how about trn3?", "which is
the longest gap?". What isn't understood is said, with what can be asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.figures import amount
from tools.insight import counterfactual as what_if
from tools.insight.advice import advise
from tools.insight.counterfactual import Counterfactual
from tools.insight.gaps import Explanation, explain_gap, written_tiles
from tools.insight.generations import what_if as generations
from tools.insight.observed import Observed
from tools.sim.instruction import Engine
from tools.sim.profiler import ENGINE_NAMES
from tools.sim.timing import Wait

Ints = NDArray[np.int64]

_ENGINES = {
    "Tensor": r"tensor(?! ?_)(?:s\b)?|tensore|\bte\b|\bpe\b|pe array|systolic|matmul unit|matrix (?:unit|engine)",
    "Vector": r"vector|\bdve\b",
    "Scalar": r"scalar|\bact\b|activation engine",
    "GpSimd": r"gp-?simd|\bpool\b",
    "Sync": r"\bsync\b|\bsp\b",
}
_DMA = r"\bdmas?\b|queues?\b|\bhbm\b|memory traffic|bandwidth|\bloads?\b|\bstores?\b"
_IDLE = r"idl|wait|stall|starv|unus|doing nothing|not busy|under-?used|hang|block(?:ed|s)? (?:on|by)|hold(?:s|ing)? (?:up|back)|gap"
_BUSY = r"\bbusy|\bactive|works? on|spend|spent|hot|heav|do(?:es|ing)? (?:most|all)|keeps?\b|time goes|where does"
_IF = r"what if|what would|\bwould\b|\bif\b|how much|gain|worth|\bsave|help|benefit|\bcould\b|instead|faster (?:with|in|on)|try"

WELL_USED = 0.6
"""Share of the latency for which a resource has work, from which it is what bounds the kernel."""

HELP = (
    "I can't tell what is asked. Ask why an engine (Tensor, Vector, Scalar, GpSimd, Sync) or DMA is idle or busy, what a line "
    "waits for, which gap is the longest, what moves, what bounds the kernel, or what a change would gain: bf16 or fp32, loads "
    "hoisted, buffers doubled, wider DMAs, a line on another engine, no waits, trn1, trn2 or trn3."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in words, and the explanation of an engine's idle time where that was asked."""

    text: str
    explanation: Explanation | None = None


def answer(seen: Observed, question: str, *, seconds: float = 20.0) -> Answer:
    """Answer a question about a launch.

    Args:
        seen: the timed launch.
        question: words, or the mere name of an engine.
        seconds: time after which no further counterfactual is tried.

    Raises:
        ValueError: it names a core or a line that the launch doesn't have, or nothing that can be answered.
    """
    words = " ".join(question.lower().split())
    core = _core(seen, words)
    engine = next((name for name, pattern in _ENGINES.items() if re.search(pattern, words)), "")
    line = re.search(r"\blines? (?:no\.? ?|number )?(\d+)|:(\d+)\b", words)
    if re.search(r"\btrn ?[123]\b|trainium ?[123]?\b|generation|other (?:chip|device|machine)|newer|older", words):
        return Answer(_on_generations(seen, words))
    if re.search(_IF, words) and (found := _hypothetical(seen, words, engine, line)) is not None:
        return Answer(found)
    if line is not None:
        return Answer(_of_line(seen, int(line[1] or line[2])))
    if re.search(
        r"(?:long|larg|bigg|wid)est (?:gap|wait|stall|pause|idle)|(?:gap|wait|stall|pause)s? (?:is|are) (?:the )?(?:long|larg|bigg)",
        words,
    ):
        return Answer(_longest(seen, engine, core))
    if re.search(r"critical path", words):
        return Answer(_path(seen))
    if engine:
        if re.search(r"limit|bottleneck|bound\b|bind", words):
            return Answer("\n".join([verdict(seen), _busy(seen, engine, core)]))
        if re.search(_BUSY, words) and not re.search(_IDLE, words):
            return Answer(_busy(seen, engine, core))
        explanation = explain_gap(seen, engine=engine, core=core, seconds=seconds)
        return Answer(explanation.answer, explanation)
    if re.search(r"spill|re-?load|repeat|twice|again|traffic|bytes|moved?\b|arithmetic intensity", words):
        return Answer(_traffic(seen))
    if re.search(r"\bmfu|\bhfu|\bmbu|utili[sz]|\bflops?\b|rows? and col", words):
        return Answer(_metrics(seen))
    if re.search(_DMA, words):
        return Answer(_dma(seen, idle=bool(re.search(_IDLE, words))))
    if re.search(_IDLE, words) and re.search(r"engine|everything|anything|kernel|who|which|most", words):
        return Answer(_idlest(seen, core, seconds))
    if re.search(r"\blines?\b|where|hot|loop|most (?:of the )?time", words):
        return Answer(_hot(seen))
    if re.search(
        r"bound|bottleneck|slow|limit|roofline|latency|fast|improve|optimi[sz]e|speed|better|^(?:and |but )?why\W*$|"
        r"\bwhy\b.*\b(?:it|this|that|kernels?|launch|program|time|us|ms|take[ns]?|long|so)\b|peak|mfu|utili",
        words,
    ):
        return Answer(_overall(seen, seconds))
    raise ValueError(HELP)


def _core(seen: Observed, words: str) -> int:
    named = re.search(r"\bcore (\d+)", words)
    if named is None:
        return 0
    if int(named[1]) >= max(seen.trace.cores, 1):
        raise ValueError(f"no core {named[1]}; the launch used {max(seen.trace.cores, 1)}")
    return int(named[1])


# -- facts -------------------------------------------------------------------------------------------------------------


def _overall(seen: Observed, seconds: float) -> str:
    return "\n".join([verdict(seen), *(f"- {a.sentence}" for a in advise(seen, seconds=seconds)[:3])])


def verdict(seen: Observed) -> str:
    """Memory bound, compute bound, or neither, with the three bounds."""
    p = seen.profile
    filled = p.pipeline_us / p.latency_us if p.latency_us else 0.0
    if filled < WELL_USED:
        kind = f"It is bound by waiting, not by memory or compute: {p.bottleneck}, the busiest resource, has work for {filled:.0%}"
    elif p.bottleneck == "DMA":
        kind = f"It is memory bound: the DMA engines have work for {filled:.0%}"
    else:
        kind = f"It is bound by the {p.bottleneck}, which has work for {filled:.0%}"
    return (
        f"{p.latency_us:.2f} us simulated on {p.target}. {kind} of the time. Bounds: memory {p.memory_us:.2f} us, compute "
        f"{p.compute_us:.2f} us, busiest resource {p.pipeline_us:.2f} us, so with the same work at most "
        f"{p.latency_us / max(p.pipeline_us, 1e-9):.2f}x can be gained."
    )


def _metrics(seen: Observed) -> str:
    p = seen.profile
    return (
        f"MFU {p.mfu_estimated_percent:.1f}% (HFU with transposes {p.hfu_estimated_percent:.1f}%; the arithmetic intensity of "
        f"{p.mm_arithmetic_intensity:.1f} FLOP/byte against a ridge of {p.peak_flops_bandwidth_ratio:.1f} allows "
        f"{p.mfu_max_achievable_estimated_percent:.1f}%), MBU {p.mbu_estimated_percent:.1f}%; PE rows "
        f"{p.pe_row_utilisation_percent:.0f}%, columns {p.pe_column_utilisation_percent:.0f}% used. {verdict(seen)}"
    )


def _busy(seen: Observed, engine: str, core: int) -> str:
    use = seen.profile.engine(engine, core)
    if not use.instructions:
        return f"The {engine} Engine has no work in this kernel."
    rows = np.flatnonzero((seen.engine == ENGINE_NAMES.index(engine)) & (seen.core == core))
    lines = [
        f"The {engine} Engine is busy {use.active_percent:.1f}% of {seen.profile.latency_us:.2f} us (simulated): "
        f"{use.busy_us:.2f} us in {use.instructions} instructions."
    ]
    return "\n".join([*lines, *_by_line(seen, rows)])


def _by_line(seen: Observed, rows: Ints, most: int = 4) -> list[str]:
    """What the instructions hold their engine for, by line, the longest first."""
    lines, inverse = np.unique(seen.line[rows], return_inverse=True)
    held = np.bincount(inverse.reshape(-1), seen.held_ns[rows]) / 1e3
    count = np.bincount(inverse.reshape(-1))
    total = float(held.sum()) or 1.0
    return [
        f"- {held[k]:.2f} us ({held[k] / total:.0%}) in {what_if.counted(int(count[k]), 'instruction')} of "
        f"{seen.where(int(lines[k]))}: {seen.source(int(lines[k]))}"
        for k in np.argsort(-held, kind="stable")[:most]
    ]


def _hot(seen: Observed) -> str:
    return "\n".join(["Most engine time goes to:", *_by_line(seen, np.arange(len(seen.trace)), 5)])


def _rows_of(seen: Observed, number: int) -> Ints:
    """Instructions of a source line, or of the statement that it is a part of.

    Raises:
        ValueError: no instruction comes from there.
    """
    numbers = np.array([place[1] for place in seen.trace.lines] or [0])
    rows = np.flatnonzero(numbers[seen.line] == number)
    if len(rows):
        return rows
    near = numbers[np.argsort(np.abs(numbers - number), kind="stable")][:3].tolist()
    raise ValueError(
        f"no instruction comes from line {number}; the nearest that issue some are {', '.join(map(str, near))}"
    )


def _of_line(seen: Observed, number: int) -> str:
    rows = _rows_of(seen, number)
    timeline = seen.timeline
    waits = rows[
        (timeline.wait[rows] != Wait.NONE) & (timeline.waited_ns[rows] > 0) & (seen.engine[rows] < len(ENGINE_NAMES))
    ]
    total = float(timeline.waited_ns[waits].sum()) / 1e3
    source = seen.source(int(seen.line[rows[0]]))
    held = float(seen.held_ns[rows].sum()) / 1e3
    names = dict.fromkeys(
        "DMA" if d else ENGINE_NAMES[e] for d, e in zip(seen.is_dma[rows].tolist(), seen.engine[rows].tolist())
    )
    lines = [
        f"{seen.where(int(seen.line[rows[0]]))}: {source}",
        f"{what_if.counted(len(rows), 'instruction')} on {' and '.join(names)} take {held:.2f} us, and "
        + (
            f"wait {total:.2f} us before they start."
            if len(waits)
            else "never keep an engine waiting before they start."
        ),
    ]
    groups: dict[tuple[int, int], float] = {}
    for i in waits.tolist():
        there = int(seen.line[timeline.waited_for[i]]) if timeline.waited_for[i] >= 0 else -1
        key = (int(timeline.wait[i]), there)
        groups[key] = groups.get(key, 0.0) + float(timeline.waited_ns[i]) / 1e3
    for (cause, there), us in sorted(groups.items(), key=lambda g: -g[1])[:3]:
        other = f" {seen.where(there)}: {seen.source(there)}" if there >= 0 else ""
        lines.append(f"- {us:.2f} us for {_WAITS[Wait(cause)]}{other}")
    if len(waits):
        worst = max((k for k in groups if k[1] >= 0), key=lambda k: groups[k], default=None)
        if worst is not None:
            waited = np.flatnonzero(seen.line == worst[1])
            change = f"If {seen.where(int(seen.line[rows[0]]))} never waited for {seen.where(worst[1])}"
            lines.append(f"- {what_if.stall_removed(seen, rows, waited, change).sentence}")
    return "\n".join(lines)


_WAITS = {
    Wait.NONE: "nothing",
    Wait.RESULT: "a result of",
    Wait.DMA: "data still moved by",
    Wait.RELEASE: "the last reader of what it overwrites,",
    Wait.SPACE: "the space last used by",
    Wait.PORT: "a memory port",
    Wait.ORDER: "its turn behind",
}


def _longest(seen: Observed, engine: str, core: int) -> str:
    timeline = seen.timeline
    chosen = [ENGINE_NAMES.index(engine)] if engine else list(range(len(ENGINE_NAMES)))
    rows = np.flatnonzero(np.isin(seen.engine, chosen) & (seen.core == core) & (timeline.waited_ns > 0))
    if not len(rows):
        return f"{f'The {engine} Engine' if engine else 'No engine'} {'never ' if engine else 'ever '}waits."
    found = ["The longest waits:"]
    for i in rows[np.argsort(-timeline.waited_ns[rows], kind="stable")][:4].tolist():
        end, us = float(timeline.start_ns[i]) / 1e3, float(timeline.waited_ns[i]) / 1e3
        there = int(timeline.waited_for[i])
        other = f" {seen.opcode[there]} at {seen.where(int(seen.line[there]))}" if there >= 0 else ""
        found.append(
            f"- {us:.2f} us, from {end - us:.2f} to {end:.2f} us: {ENGINE_NAMES[int(seen.engine[i])]} before {seen.opcode[i]} at "
            f"{seen.where(int(seen.line[i]))}, for {_WAITS[Wait(int(timeline.wait[i]))]}{other}"
        )
    return "\n".join(found)


def _path(seen: Observed) -> str:
    from tools.insight.critical import path_shares

    rows = path_shares(seen)[:5]
    return "\n".join(
        [
            "The critical path, by line:",
            *(f"- {r.us:.2f} us ({r.share:.0%}) {r.count} x {r.opcode} at {r.where}" for r in rows),
        ]
    )


def _traffic(seen: Observed) -> str:
    p = seen.profile
    total = p.hbm_read_bytes + p.hbm_write_bytes
    lines = [
        f"{amount(p.hbm_read_bytes)} are read from HBM and {amount(p.hbm_write_bytes)} written, "
        f"{total / max(p.latency_us, 1e-9) / 1e3:.1f} GB/s of the {seen.machine.hbm_gbps * max(seen.trace.cores, 1):.0f} that it can draw. {amount(p.reload_read_bytes)} are inputs "
        f"read again, {amount(p.spill_save_bytes)} are intermediates stored and {amount(p.spill_reload_bytes)} intermediates loaded back.",
        *_by_line(seen, np.flatnonzero(seen.is_dma)),
    ]
    hoisted = what_if.loads_hoisted(seen)
    return "\n".join([*lines, *([f"- {hoisted.sentence}"] if hoisted is not None else [])])


def _dma(seen: Observed, *, idle: bool) -> str:
    p = seen.profile
    lines = [
        f"DMA engines are active {p.dma_active_percent:.1f}% of {p.latency_us:.2f} us (simulated), with "
        f"{what_if.counted(p.dma_transfer_count, 'transfer')} of {p.dma_transfer_average_bytes:.0f} bytes on average."
    ]
    if not idle:
        return "\n".join([*lines, *_by_line(seen, np.flatnonzero(seen.is_dma))])
    found = [a for a in advise(seen, rules=("D13", "D5", "D6", "D9", "D1")) if a.proof is not None]
    said = [f"- {a.sentence}" for a in found[:3]] or ["- No change to the transfers that was tried gains anything."]
    return "\n".join([*lines, *said])


def _idlest(seen: Observed, core: int, seconds: float) -> str:
    uses = [e for e in seen.profile.engines if e.core == core and e.instructions]
    if not uses:
        return "No engine has work in this kernel; only DMAs run."
    said = ", ".join(f"{e.engine} {100 - e.active_percent:.0f}%" for e in sorted(uses, key=lambda e: e.busy_us))
    busiest = max(uses, key=lambda e: e.busy_us)
    found = explain_gap(seen, engine=busiest.engine, core=core, seconds=seconds)
    return f"Idle: {said}. What counts is the busiest of them:\n{found.answer}"


# -- what if -----------------------------------------------------------------------------------------------------------


def _on_generations(seen: Observed, words: str) -> str:
    named = [f"trn{d}" for d in re.findall(r"(?:trn|trainium) ?([123])", words)]
    rows = generations(seen.trace, tuple(dict.fromkeys(named)) or ("trn1", "trn2", "trn3"), options=seen.options)
    said = []
    for row in rows:
        if row.latency_us is None or row.speedup is None:
            said.append(f"{row.target}: doesn't run as recorded: {row.obstacle}.")
        else:
            said.append(
                f"{row.target}: {row.latency_us:.2f} us simulated, {row.speedup:.2f}x of {seen.machine.name}; bottleneck "
                f"{row.bottleneck}."
            )
    return "\n".join(said)


def _hypothetical(seen: Observed, words: str, engine: str, line: re.Match[str] | None) -> str | None:
    """The answer to what a change would gain; None when no change is named."""
    rows = _rows_of(seen, int(line[1] or line[2])) if line is not None else None
    trial = _change(seen, words, engine, rows)
    if trial is None:
        return None
    found = trial()
    return "That change doesn't apply: the kernel has nothing of the kind." if found is None else found.sentence


def _change(seen: Observed, words: str, engine: str, rows: Ints | None) -> Callable[[], Counterfactual | None] | None:
    """The counterfactual that the words name."""
    dmas = np.flatnonzero(seen.is_dma)
    if re.search(r"\bbf16|bfloat16|16.?bit|half precision|narrower type", words):
        return lambda: what_if.other_dtype(seen)
    if re.search(r"\bfp32|float32|32.?bit|full precision|wider type", words):
        return lambda: what_if.other_dtype(seen, wider=True)
    if re.search(
        r"hoist|resident|load(?:ed|ing|s)? (?:\w+ )*(?:only )?once|reload|reuse|block(?:ed|ing)?\b(?! (?:on|by))", words
    ):
        return lambda: what_if.loads_hoisted(seen)
    if re.search(r"(?:doubl|tripl)\w*(?: |-)?buffer|buffers? (?:were )?doubl|two tiles|prefetch|more buffers", words):
        tiles = written_tiles(seen, rows if rows is not None else dmas)
        copies = 3 if "tripl" in words else 2
        return lambda: what_if.buffers_doubled(seen, tiles, copies) if tiles else None
    if re.search(
        r"(?:wider|larger|bigger|longer|coalesc\w*|fewer|joined?) (?:dma|transfer|row|descriptor|load)|coalesc|batch",
        words,
    ):
        return lambda: what_if.wider_dma(seen, dmas if rows is None else rows[seen.is_dma[rows]])
    if re.search(
        r"(?:no|without|never|free of) (?:any )?(?:\w+ )?(?:wait|stall|sync|depend)|(?:didn't|did not|never) wait|perfect(?:ly)? (?:pipelin|overlap)",
        words,
    ):
        return lambda: _unwaited(seen, rows)
    if rows is not None and engine and re.search(r"\bon\b|\bto\b|mov|run", words):
        target = Engine(ENGINE_NAMES.index(engine))
        return lambda: what_if.other_engine(seen, rows[~seen.is_dma[rows]], target)
    if rows is not None and re.search(r"without|remov|delet|gone|skip|left out|free|no cost", words):
        change = f"Without {what_if.describe_group(seen, rows)}"
        return lambda: what_if.without(seen, rows, "line left out", change, "what it produced is taken to be there")
    if re.search(r"infinite|unlimited|enough (?:sbuf|psum|space|room)|more (?:sbuf|psum|space|room)", words):
        return lambda: what_if.space_free(seen)
    if re.search(r"table", words):
        return lambda: what_if.tables_kept(seen)
    if re.search(r"\bdmas?\b|memory|\bhbm\b|transfers?", words) and re.search(
        r"free|infinite|instant|nothing|no time|zero", words
    ):
        return lambda: _no_dma(seen)
    return None


def _unwaited(seen: Observed, rows: Ints | None) -> Counterfactual:
    if rows is None:
        return what_if.all_stalls_removed(seen)
    every = np.arange(len(seen.trace))
    change = f"If {seen.where(int(seen.line[rows[0]]))} waited for nobody's result"
    return what_if.stall_removed(seen, rows, every, change)


def _no_dma(seen: Observed) -> Counterfactual:
    """Loads move nothing; stores stay, so that the program keeps its end."""
    rows = np.flatnonzero(seen.is_load)
    change = f"Without {what_if.describe_group(seen, rows)}" if len(rows) else "Without loads"
    return what_if.without(seen, rows, "loads left out", change, "what they bring is taken to be there")


__all__ = ["HELP", "Answer", "answer"]
