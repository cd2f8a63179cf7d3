import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.insight.conftest import blocked
from tests.sim.test_timing_spilling import held
from tools.insight import Observed, explain_gap
from tools.report_html import content, render, write_report
from tools.sim.execute import SimResult
from tools.sim.machine import machine
from tools.sim.timing import Wait

assert blocked  # a fixture


@pytest.fixture
def seen(blocked: Callable[..., SimResult]) -> Observed:
    result = blocked(512)
    return Observed.of(result.trace, result.machine)


class Links(HTMLParser):
    """Collects whatever an HTML page could load, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {value}" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.scripts += tag == "script"


def data_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_loads_nothing(seen: Observed) -> None:
    page = render(seen, "k")
    links = Links()
    links.feed(page)
    assert links.loads == []
    assert links.scripts == 2
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in page


def test_hostile_names_and_source_stay_text(seen: Observed) -> None:
    seen.trace.sources["kernel.py"] += "\n# </script><script>alert(1)</script> {{script}} \u2028"
    page = render(seen, "</title><script>alert(2)</script>")
    links = Links()
    links.feed(page)
    assert links.scripts == 2
    assert data_of(page)["title"] == "</title><script>alert(2)</script>"


def test_it_shows_what_the_tools_found(seen: Observed) -> None:
    data = data_of(render(seen, "k"))
    assert data["latency"] == seen.profile.latency_us
    assert {a["rule"] for a in data["advice"]} >= {"D1"}  # type: ignore[attr-defined]
    assert [g["target"] for g in data["generations"]] == ["trn1", "trn2", "trn3"]  # type: ignore[attr-defined]
    loops = data["loops"]
    assert isinstance(loops, list)
    assert [(entry["header"][:5], entry["depth"], entry["iterations"]) for entry in loops] == [
        ("for m", 0, 4), ("for n", 1, 4), ("for k", 2, 16),
    ]  # fmt: skip
    (source,) = data["sources"]  # type: ignore[misc]
    hot = max(source["use"], key=lambda k: source["use"][k]["busy"])
    assert "nisa." in source["lines"][int(hot) - 1]


def test_every_instruction_is_on_the_timeline(seen: Observed) -> None:
    timeline = content.content(seen, "k", (), (), ())["timeline"]
    assert timeline["drawn"] == timeline["total"] == len(seen.trace)
    ends = [b[1] + b[2] for b in timeline["blocks"]]
    assert max(ends) <= seen.profile.latency_us + 1e-3
    names = timeline["lanes"]
    busy = {name: sum(b[2] for b in timeline["blocks"] if b[0] == k) for k, name in enumerate(names)}
    rows = seen.engine == 0
    expected = float((seen.timeline.issue_ns - seen.timeline.start_ns)[rows].sum()) / 1e3
    assert busy["Tensor"] == pytest.approx(expected, rel=1e-3)
    assert {Wait[timeline["causes"][s[4]].upper()] for s in timeline["stalls"]} <= set(Wait)


def test_a_long_launch_is_drawn_with_joined_blocks(seen: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MOST_BLOCKS", 20)
    timeline = content.content(seen, "k", (), (), ())["timeline"]
    assert timeline["drawn"] <= 20 < timeline["total"]
    assert sum(b[6] for b in timeline["blocks"]) == timeline["total"]


def test_a_broken_page_is_never_left_behind(seen: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.report_html.page.what_if", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path / "r.html", seen, "k")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium isn't installed")
def test_a_browser_draws_it_without_errors(seen: Observed, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", seen, "k")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --enable-logging=stderr"
    )
    shot = tmp_path / "r.png"
    done = subprocess.run(
        [
            "chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
            "--window-size=1280,900", (tmp_path / "r.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    picture = np.frombuffer(shot.read_bytes(), np.uint8)
    assert len(picture) > 20_000, "an empty page compresses to less"


def test_warnings_of_the_recording_are_shown(seen: Observed) -> None:
    assert data_of(render(seen, "k"))["warnings"] == []
    assert data_of(render(seen, "k", warnings=("line 3: warning KW-X: <b>",)))["warnings"] == [
        "line 3: warning KW-X: <b>"
    ]


def test_memory_in_use_is_drawn_with_its_peaks(seen: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {u["name"]: u for u in content.content(seen, "k", (), (), ())["timeline"]["usage"]}
    assert set(whole) == {"SBUF", "PSUM"}
    assert len(whole["SBUF"]["points"]) > 8
    assert whole["SBUF"]["capacity"] == seen.machine.sbuf_partition_bytes
    monkeypatch.setattr(content, "MOST_POINTS", 8)
    for few in content.content(seen, "k", (), (), ())["timeline"]["usage"]:
        assert len(few["points"]) <= 8
        assert max(v for _, v in few["points"]) == max(v for _, v in whole[few["name"]]["points"])


def test_a_wait_leads_to_what_was_waited_for(seen: Observed) -> None:
    timeline = content.content(seen, "k", (), (), ())["timeline"]
    starts = {round(b[1], 4) for b in timeline["blocks"]} | {round(float(t) / 1e3, 4) for t in seen.timeline.start_ns}
    named = [s for s in timeline["stalls"] if s[5] >= 0]
    assert named
    assert all(s[6] in starts and s[6] <= s[1] + s[2] for s in named)


def test_spills_of_the_compiler_model_have_a_lane() -> None:
    launch = Observed.of(held(6), machine("trn1"))
    timeline = content.content(launch, "k", (), (), ())["timeline"]
    assert timeline["lanes"][-1] == "spills"
    mine = [b for b in timeline["blocks"] if b[0] == len(timeline["lanes"]) - 1]
    assert [timeline["opcodes"][b[4]] for b in mine].count("spill save") == 3
    assert len(mine) == launch.timeline.spills.transfers == 6
    assert "spills" in explain_gap(launch, engine="Vector", seconds=0).answer
