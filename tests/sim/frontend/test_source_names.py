"""Names and sizes that source states, checked without running it."""

from __future__ import annotations

from textwrap import dedent

import pytest

from tools.sim.frontend.source_names import unknown_names
from tools.sim.frontend.source_shapes import partition_limits

HEAD = "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n"
BETA1_HEAD = "import neuronxcc.nki as nki\nimport neuronxcc.nki.isa as nisa\nimport neuronxcc.nki.language as nl\n"


def names(body: str, head: str = HEAD) -> list[tuple[str, int, int, str]]:
    found = unknown_names(head + dedent(body), "kernel.py")
    return [(d.found, d.where.line - 3, d.where.column, d.fix) for d in found if d.where]


def sizes(body: str, head: str = HEAD) -> list[tuple[int, int, int]]:
    found = partition_limits(head + dedent(body), "kernel.py")
    assert all(d.code == "KW-PARTITION-LIMIT" and d.limit == 128 for d in found)
    return [(d.found, d.where.line - 3, d.where.column) for d in found if d.where]


@pytest.mark.parametrize("head", [HEAD, BETA1_HEAD])
@pytest.mark.parametrize(
    ("line", "wrong", "column", "fix"),
    [
        ("x = nl.multipy(a, b)", "multipy", 4, "did you mean nl.multiply?"),
        ("x = nl.nc_matmul(a, b)", "nc_matmul", 4, "write nisa.nc_matmul"),
        ("x = nisa.exp(a)", "exp", 4, "write nl.exp"),
        ("x = nl.tile_size.pmaxx", "pmaxx", 4, "did you mean nl.tile_size.pmax?"),
        ("f(a, engine=nisa.engine.vectr)", "vectr", 12, "did you mean engine.vector?"),
        ("nki.jitt(f)", "jitt", 0, "did you mean nki.jit?"),
    ],
)
def test_an_unknown_name_has_a_place_and_a_fix(head: str, line: str, wrong: str, column: int, fix: str) -> None:
    assert names(line, head) == [(wrong, 1, column, fix)]


def test_an_unknown_name_without_a_near_one_points_to_the_list() -> None:
    [(name, _, _, fix)] = names("nl.zzzzzz()")
    assert name == "zzzzzz"
    assert "docs/compatibility.md" in fix


def test_names_of_the_other_version_say_what_took_their_place() -> None:
    assert names("nl.arange(4)") == [("arange", 1, 0, "it is gone since 0.2; use slices or nl.ds")]
    assert names("nl.arange(4)", BETA1_HEAD) == []


@pytest.mark.parametrize(
    "body",
    [
        "def f(nl):\n    return nl.whatever",
        "nl = object()\nnl.whatever",
        "if hasattr(nl, 'whatever'):\n    nl.whatever",
        "try:\n    x = nl.whatever\nexcept AttributeError:\n    x = None",
        "from nki.language import add, ndarray\nfrom nki import isa, language",
        "import numpy as np\nnp.whatever",
        "x = nl.float32.whatever",
        "nisa._private_instruction()",
        "try:\n    from nki.language import whatever\nexcept ImportError:\n    whatever = None",
    ],
)
def test_what_isnt_certain_gives_no_finding(body: str) -> None:
    assert names(body) == []


def test_imports_of_what_doesnt_exist() -> None:
    assert [n[:2] for n in names("from nki.language import ndarry\nimport nki.langauge as n\n")] == [
        ("ndarry", 1),
        ("langauge", 2),
    ]


def test_a_file_for_both_dialects_may_use_the_names_of_either() -> None:
    head = "try:\n    import neuronxcc.nki.language as nl\nexcept ImportError:\n    import nki.language as nl\n"
    assert names("nl.arange(4)\nnl.fori_loop(0, 4)", head) == []
    assert [n[0] for n in names("nl.arnge(4)", head)] == ["arnge"]


def test_source_that_doesnt_parse_is_the_business_of_others() -> None:
    assert unknown_names("def (", "kernel.py") == partition_limits("def (", "kernel.py") == []


@pytest.mark.parametrize(
    ("body", "size", "column"),
    [
        ("t = nl.ndarray((256, 8), nl.float32, buffer=nl.sbuf)", 256, 16),
        ("t = nl.ndarray((129, 8), nl.float32)", 129, 16),
        ("t = nl.ndarray(shape=[256, 8], dtype=nl.float32, buffer='psum')", 256, 22),
        ("t = nl.zeros((2 * nl.tile_size.pmax, 8), nl.float32, nl.psum)", 256, 14),
        ("t = nl.full((200, 8), 0.0, nl.float32, nl.sbuf)", 200, 13),
        ("t = nl.load(a[0:256, :])", 256, 14),
        ("t = nl.load(a[0, nl.ds(4, 144)])", 144, 17),
    ],
)
def test_stated_partitions_beyond_the_memory(body: str, size: int, column: int) -> None:
    assert sizes(body) == [(size, 1, column)]


def test_sizes_are_followed_through_names_bound_once() -> None:
    body = "P = 128\nROWS = 2 * P\n\ndef f(a):\n    return nl.ndarray((ROWS, P), a.dtype, buffer=nl.sbuf)\n"
    assert [s[:2] for s in sizes(body)] == [(256, 5)]
    assert sizes(body.replace("P = 128", "P = 128\nP = 64")) == []
    assert sizes(body.replace("f(a)", "f(a, ROWS)")) == []


@pytest.mark.parametrize(
    "body",
    [
        "t = nl.ndarray((128, 4096), nl.float32, buffer=nl.sbuf)",
        "t = nl.ndarray((4096, 8), nl.float32, buffer=nl.shared_hbm)",
        "t = nl.ndarray((4096, 8), nl.float32, nl.hbm)",
        "t = nl.ndarray((rows, 8), nl.float32, buffer=nl.sbuf)",
        "t = nl.ndarray((256, 8), nl.float32, buffer=where)",
        "t = np.zeros((256, 8))",
        "t = nl.load(a[0:128, 0:512])",
        "t = nl.load(a[i:i + 256])",
    ],
)
def test_tiles_that_fit_or_arent_stated(body: str) -> None:
    assert sizes(body) == []


def test_beta1_partition_dimensions_are_the_marked_ones() -> None:
    assert sizes("t = nl.zeros((512, nl.par_dim(128), 8), nl.float32, buffer=nl.sbuf)", BETA1_HEAD) == []
    assert sizes("t = nl.zeros((4, nl.par_dim(256), 8), nl.float32, buffer=ncc.sbuf.alloc(f))", BETA1_HEAD) == [
        (256, 1, 17)
    ]
