"""Files that a run leaves in `--out`: whole or not at all, and never at the cost of earlier ones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from agent.report import Report
from agent.settings import SettingsError

KERNEL = "kernel.py"
REPORT = "report.json"
UNFINISHED = "attempt.py"


def prepare(folder: Path) -> None:
    """Make the folder, before any work is spent.

    Raises:
        SettingsError: it can't be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(f"can't write into {folder} ({error.strerror}); choose another folder") from error


def save(report: Report, folder: Path) -> list[Path]:
    """Write kernel and report; what was there under these names is kept as `kernel.1.py` and so on.

    A kernel that is not correct never gets the name `kernel.py`: it is written as `attempt.py`.

    Returns:
        The files written.
    """
    prepare(folder)
    written = []
    if report.kernel:
        path = folder / (KERNEL if report.correct else UNFINISHED)
        _write(path, report.kernel)
        written.append(path)
    path = folder / REPORT
    _write(path, report.model_dump_json(indent=2) + "\n")
    return [*written, path]


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
            os.link(path, _free_name(path))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return candidate
