"""The README's promises that can rot: its commands exist, and CI runs the same test command."""

from __future__ import annotations

import re
from pathlib import Path

from agent.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    command = next(b for b in blocks if "pytest" in b).strip().removeprefix("python3 -m pip install uv && ")
    assert command.endswith("pytest")
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_command_of_the_readme_exists() -> None:
    import typer.main

    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"`kernelwright ([a-z]+)", README)) | set(re.findall(r"\$ kernelwright ([a-z]+)", README))
    assert named
    assert named <= known, named - known


def test_every_document_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
