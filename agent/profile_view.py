"""A profile on the terminal: one screen of figures, then lines, loops and findings, fitted to the width that there is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import TYPE_CHECKING

from rich.console import Console

from tools.figures import amount

if TYPE_CHECKING:
    from tools.export import Result
    from tools.insight import Advice, Explanation, Generation
    from tools.profiled import Profiled

MOST_LINES = 8
MOST_LOOPS = 12
PIPE_WIDTH = 160
"""Columns where nobody looks: a file or another program gets lines that need no cutting."""
NARROWEST = 60
ROOMY = 100
"""Columns from which loops show their busiest engine too."""
BAR = 16


def console() -> Console:
    """Where a profile is printed: as wide as the terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=max(width, NARROWEST), highlight=False, markup=False, emoji=False)


def bar(share: float, width: int = BAR) -> str:
    """A share of 0..1 as a bar of eighths."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return ("█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]).ljust(width)


@dataclass
class _Grid:
    """A table without lines whose last column takes what the others leave of the width.

    Attributes:
        heads: headings; those that end in `>` stand at the right of their column.
    """

    heads: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Append a row."""
        self.rows.append(cells)

    def show(self, out: Console) -> None:
        """Print it; the last column is cut at the end of the line."""
        names = [head.rstrip(">") for head in self.heads]
        widths = [max(len(name), *(len(row[k]) for row in self.rows)) for k, name in enumerate(names)]
        for number, row in enumerate((tuple(names), *self.rows)):
            cells = [
                cell.rjust(w) if head.endswith(">") else cell.ljust(w) for cell, w, head in zip(row, widths, self.heads)
            ]
            line = "  ".join(cells).rstrip()
            cut = line if len(line) <= out.width else line[: out.width - 1] + "…"
            out.print(cut, style="dim" if number == 0 else "", no_wrap=True)


def show_profile(out: Console, done: Profiled) -> None:
    """Latency and bounds, engines, bytes, warnings, the heaviest lines and the loops."""
    p = done.seen.profile
    out.print(f"{done.title}: {p.latency_us:.2f} us simulated on {p.target} ({p.compiler_model})", style="bold")
    out.print(f"bottleneck {p.bottleneck}")
    out.print()
    table = _Grid(("bound", "us>", "of latency"))
    for name, us in (("memory", p.memory_us), ("compute", p.compute_us), ("busiest resource", p.pipeline_us)):
        share = us / p.latency_us if p.latency_us else 0.0
        table.add(name, f"{us:.2f}", f"{bar(share)} {share:4.0%}")
    table.show(out)
    out.print()
    table = _Grid(("engine", "active", "busy us>", "idle us>", "instructions>"))
    for e in p.engines:
        if e.instructions:
            name = f"{e.engine} {e.core}" if done.seen.trace.cores > 1 else e.engine
            active = f"{bar(e.active_percent / 100)} {e.active_percent:5.1f}%"
            table.add(name, active, f"{e.busy_us:.2f}", f"{e.idle_us:.2f}", str(e.instructions))
    active = f"{bar(p.dma_active_percent / 100)} {p.dma_active_percent:5.1f}%"
    idle = p.latency_us - p.dma_active_us
    table.add("DMA", active, f"{p.dma_active_us:.2f}", f"{idle:.2f}", str(p.dma_transfer_count))
    table.show(out)
    out.print()
    moved = f"HBM  {amount(p.hbm_read_bytes)} read ({amount(p.reload_read_bytes)} of it again), {amount(p.hbm_write_bytes)} written"
    if p.spill_save_bytes or p.spill_reload_bytes:
        moved += f", {amount(p.spill_save_bytes)} spilled and {amount(p.spill_reload_bytes)} loaded back"
    out.print(f"{moved}; {amount(p.dma_transfer_average_bytes)} a transfer", soft_wrap=False)
    used = f"MBU {p.mbu_estimated_percent:.1f}%  MFU {p.mfu_estimated_percent:.1f}%"
    if p.hardware_flops:
        used += (
            f"  HFU {p.hfu_estimated_percent:.1f}%  PE rows {p.pe_row_utilisation_percent:.0f}%, columns "
            f"{p.pe_column_utilisation_percent:.0f}%  {p.mm_arithmetic_intensity:.1f} FLOP/byte (ridge {p.peak_flops_bandwidth_ratio:.1f})"
        )
    out.print(used)
    for finding in done.findings:
        out.print(str(finding), style="yellow")
    _show_lines(out, done)
    _show_loops(out, done)


def _show_lines(out: Console, done: Profiled) -> None:
    by_place = {place: k for k, place in enumerate(done.seen.trace.lines)}
    lines = done.seen.profile.lines
    several = len({line.file for line in lines}) > 1
    table = _Grid(("line>", "us>", "engine", "waits us>", "n>", "source"))
    for line in lines[:MOST_LINES]:
        k = by_place.get((line.file, line.line), -1)
        wait = f"{line.stall_us:.2f}" if line.stall_us > 0 else ""
        place = done.seen.where(k) if several else str(line.line)
        table.add(place, f"{line.busy_us:.2f}", line.engine, wait, str(line.instructions), done.seen.source(k))
    _heading(
        out, f"Lines by engine time{f' (the first {MOST_LINES} of {len(lines)})' if len(lines) > MOST_LINES else ''}"
    )
    table.show(out)


def _show_loops(out: Console, done: Profiled) -> None:
    """The loops with their time, each with the loops inside it."""
    loops = done.seen.profile.loops
    if not loops:
        return
    wide = out.width >= ROOMY
    table = _Grid(
        ("line>", "us>", *(("busiest engine",) if wide else ()), "waits us>", "iterations>", "moved>", "loop")
    )
    for entry in loops[:MOST_LOOPS]:
        engine = next(iter(entry.engines), "")
        helpers = f"  with {', '.join(entry.helpers)}" if entry.helpers else ""
        table.add(
            str(entry.first_line),
            f"{entry.busy_us:.2f}",
            *((f"{engine} {entry.engines[engine]:.2f}" if engine else "",) if wide else ()),
            f"{entry.stall_us:.2f}" if entry.stall_us > 0 else "",
            "?" if entry.iterations is None else str(entry.iterations),
            amount(entry.dma_bytes) if entry.dma_bytes else "",
            f"{'  ' * entry.depth}{entry.header}{helpers}",
        )
    _heading(out, "Loops by engine time, each with those inside it")
    table.show(out)
    if len(loops) > MOST_LOOPS:
        out.print(f"and {len(loops) - MOST_LOOPS} more: --sql 'SELECT * FROM SourceLoop'", style="dim")


def show_advice(out: Console, advice: Sequence[Advice]) -> None:
    """The findings, the largest gain first; a proof that several share is told once."""
    _heading(out, "Findings (gains by re-simulation)")
    if not advice:
        out.print("No bottleneck rule found a symptom.")
    told: dict[str, str] = {}
    for a in advice:
        gain = ""
        if a.proof is not None:
            most = "up to " if a.proof.is_bound else ""
            gain = f"saves {most}{a.proof.gain_us:.2f} us ({a.proof.gain_percent:.1f}%): "
        _paragraphs(out, (f"{gain}{a.symptom}",), first=f"{a.rule:>4}  ", style="bold")
        _paragraphs(out, (a.evidence, f"→ {a.change[:1].upper()}{a.change[1:]}"))
        if a.proof is not None and a.proof.change in told:
            _paragraphs(out, (f"(the same re-simulation as {told[a.proof.change]})",), style="dim")
        elif a.proof is not None:
            told[a.proof.change] = a.rule
            caveat = f"; {a.proof.caveat}" if a.proof.caveat else ""
            _paragraphs(out, (f"Re-simulated: {a.proof.change}{caveat}.",), style="dim")


def show_answer(out: Console, title: str, text: str) -> None:
    """An answer: its first line, then its points."""
    _heading(out, title)
    for line in text.splitlines():
        mark, rest = ("- ", line[2:]) if line.startswith("- ") else ("", line)
        _paragraphs(out, (rest,), first=mark, rest=" " * len(mark))


def show_explanation(out: Console, explanation: Explanation) -> None:
    """The answer, and the remedies that it has no room for."""
    more = "".join(f"\n- {t.sentence}" for t in explanation.counterfactuals[3:])
    show_answer(out, f"Why the {explanation.engine} Engine waits", explanation.answer + more)


def show_generations(out: Console, rows: Iterable[Generation]) -> None:
    """One line a generation."""
    _heading(out, "The same program on each generation")
    for row in rows:
        if row.latency_us is None or row.speedup is None:
            out.print(f"{row.target}: doesn't run as recorded: {row.obstacle}")
        else:
            out.print(f"{row.target}: {row.latency_us:.2f} us ({row.speedup:.2f}x), bottleneck {row.bottleneck}")


def show_rows(out: Console, result: Result) -> None:
    """The rows of a query: a table, or where it is wider than the terminal one record after the other."""
    rows = [[f"{v:.6g}" if isinstance(v, float) else str(v) for v in row] for row in result.rows]
    widths = [
        max(len(name), *(len(row[k]) for row in rows)) if rows else len(name) for k, name in enumerate(result.columns)
    ]
    if sum(widths) + 2 * len(widths) <= out.width or not sys.stdout.isatty():
        lines = [result.columns, *rows]
        numeric = [all(isinstance(row[k], int | float) for row in result.rows) for k in range(len(widths))]
        for line in lines:
            cells = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric))
            print("  ".join(cells).rstrip())
        return
    name_width = max(len(name) for name in result.columns)
    for number, row in enumerate(rows):
        out.print(f"row {number}", style="dim")
        for name, value in zip(result.columns, row):
            _paragraphs(out, (value,), first=f"{name.ljust(name_width)}  ", rest=" " * (name_width + 2))


def _heading(out: Console, text: str) -> None:
    out.print()
    out.print(text, style="bold underline")


def _paragraphs(
    out: Console, texts: Iterable[str], *, style: str = "", first: str = "      ", rest: str = "      "
) -> None:
    for text in texts:
        for k, line in enumerate(wrap(text, max(out.width - len(rest), 20), break_on_hyphens=False) or [""]):
            out.print(f"{first if k == 0 else rest}{line}", style=style)
