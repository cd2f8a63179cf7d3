"""The chat on a terminal or a pipe: reads lines, shows what the conversation yields."""

from __future__ import annotations

import re
import sys
from contextlib import suppress

from rich.console import Console

from agent.chat import Conversation
from agent.events import RunFinished, RunRefused
from agent.render import Progress, microseconds, show_report
from agent.report import Report
from agent.runs import Runs
from agent.settings import SettingsError
from agent.store import RunBusy, UnreadableRun
from tools.task_errors import RequestError

HELP = """Describe a kernel:      softmax, x 512x1024, float32, trn2
Ask for a change:       now for trn3 / make it work for 300 rows / in bfloat16 / reach 70% of roofline
Ask a question:         why is the Vector Engine the bottleneck? / which lines are slow? / is it correct?
Ask for more work:      make it faster
show kernel             print the best kernel
show report             print kernel, evidence, profile, changes and limits
save FOLDER             write kernel.py and report.json
help, quit"""


_SHOW = r"(?:please )?(?:(?:show|print|give|see)(?: me)?(?: the)? )?(?:best |final |whole )?"
_SHOW_KERNEL = re.compile(_SHOW + r"(?:kernel|source|code)(?: please)?[.!]?", re.IGNORECASE)
_SHOW_REPORT = re.compile(_SHOW + r"report(?: please)?[.!]?", re.IGNORECASE)
_SAVE = re.compile(r"save(?: it| this| that| the kernel)?(?: (?:to|in|into|as))? (?P<folder>\S+)", re.IGNORECASE)


def converse(conversation: Conversation, runs: Runs) -> int:
    """Read lines until `quit` or the end of input. Errors in a line are told and the chat goes on.

    Returns:
        Exit status: 0, or 2 when every line of a pipe was refused.
    """
    console = Console()
    interactive = sys.stdin.isatty()
    answered = refused = 0
    if interactive:
        console.print("Describe a kernel, ask a question, or type help. Sessions are stored.", style="dim")
        with suppress(ImportError):
            import readline  # noqa: F401 line editing and history for input()
    while (line := _read(interactive)) is not None:
        if not line.strip():
            continue
        if line.strip().lower().lstrip("/:") in ("quit", "q", "exit", "bye"):
            break
        if not interactive:
            console.print(f"> {line.strip()}", style="bold", highlight=False, markup=False)
        try:
            ok = _command(line.strip(), conversation, runs, console) or _turn(line, conversation, runs, console)
        except (RequestError, SettingsError, RunBusy, UnreadableRun) as error:
            console.print(f"{error}", style="red", highlight=False, markup=False)
            ok = False
        answered, refused = answered + ok, refused + (not ok)
    if conversation.run_id:
        console.print(f"kernelwright chat --resume {conversation.run_id} goes on from here.", style="dim")
    return 2 if refused and not answered else 0


def _read(interactive: bool) -> str | None:
    try:
        return input("kernelwright> " if interactive else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        print()
        return None


def _command(line: str, conversation: Conversation, runs: Runs, console: Console) -> bool:
    """Carry out a command; False when the line is none."""
    line = line.lstrip("/:")
    if line.lower() == "help":
        console.print(HELP, highlight=False, markup=False)
        return True
    if _SHOW_KERNEL.fullmatch(line):
        report = _report(conversation, runs)
        console.print(report.kernel.rstrip(), highlight=False, markup=False, soft_wrap=True)
        return True
    if _SHOW_REPORT.fullmatch(line):
        show_report(console, _report(conversation, runs))
        return True
    if saving := _SAVE.fullmatch(line):
        from pathlib import Path

        from agent.output import save

        paths = save(_report(conversation, runs), Path(saving["folder"]).expanduser())
        console.print(f"saved {' and '.join(map(str, paths))}", highlight=False, markup=False)
        return True
    return False


def _report(conversation: Conversation, runs: Runs) -> Report:
    report = runs.report(conversation.run_id) if conversation.run_id else None
    if report is None:
        raise RequestError("there is no kernel yet; describe one first, e.g. softmax, x 512x1024, float32, trn2")
    return report


def _turn(line: str, conversation: Conversation, runs: Runs, console: Console) -> bool:
    """One line of conversation; False when it was refused."""
    progress = Progress(console)
    ok = True
    current = ""
    turn = conversation.say(line)
    try:
        for piece in turn:
            if isinstance(piece, str):
                console.print(piece, highlight=False, markup=False)
            elif isinstance(piece, RunFinished):
                progress.stop()
                _summary(console, piece.report)
            elif isinstance(piece, RunRefused):
                progress.stop()
                console.print(piece.message, style="red", highlight=False, markup=False)
                ok = False
            else:
                current = piece.run_id
                progress.show(piece)
    except KeyboardInterrupt:
        progress.stop()
        if current:
            runs.cancel(current)
            for event in runs.stream(current, runs.last_seq(current)):
                if isinstance(event, RunFinished):
                    conversation.run_id = current
                    _summary(console, event.report)
    finally:
        progress.stop()
    return ok


def _summary(console: Console, report: Report) -> None:
    console.print(report.verdict, style="green" if report.goal_met else "yellow", highlight=False, markup=False)
    if report.latency_us is not None:
        shares = ", ".join(f"{e.engine} {e.share:.0%}" for e in report.engines if e.instructions)
        console.print(
            f"{microseconds(report.latency_us)} simulated on {report.target}, bottleneck {report.bottleneck}; "
            f"busy: {shares}. 'show kernel' prints it.",
            highlight=False,
            markup=False,
        )
