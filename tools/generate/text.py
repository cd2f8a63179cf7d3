"""Python source under construction: nested sections, so that a line can still be hoisted into an outer block."""

from __future__ import annotations

import keyword
import re


class Section:
    """Lines and inner sections at one indentation."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self.items: list[str | Section] = []

    def line(self, text: str = "") -> None:
        """Append a line."""
        self.items.append("    " * self.depth + text if text else "")

    def comment(self, text: str) -> None:
        """Append a comment."""
        self.line(f"# {text}")

    def block(self, header: str) -> Section:
        """Append a header such as `for ...:` and return the section of its body."""
        self.line(header)
        return self._inner(self.depth + 1)

    def section(self) -> Section:
        """A place in this block that is filled later."""
        return self._inner(self.depth)

    def _inner(self, depth: int) -> Section:
        inner = Section(depth)
        self.items.append(inner)
        return inner

    def render(self) -> list[str]:
        """All lines in order; a block without statements gets `pass`."""
        lines: list[str] = []
        for item in self.items:
            if isinstance(item, str):
                lines.append(item)
            else:
                lines.extend(item.render())
        return lines


_RESERVED = {
    "nki", "nl", "nisa", "P", "rows", "cols", "r0", "c0", "n0", "nw", "nb", "bn", "k", "k0", "kr", "m0", "step", "count", "kernel",
    "min", "range",
}  # fmt: skip


class Names:
    """Unique, readable identifiers."""

    def __init__(self) -> None:
        self.taken = set(_RESERVED)

    def unique(self, wanted: str) -> str:
        """`wanted` as an identifier that nothing else in the kernel uses."""
        base = re.sub(r"\W+", "_", wanted).strip("_").lower() or "tile"
        if base[0].isdigit() or keyword.iskeyword(base):
            base = f"v_{base}"
        name, number = base, 2
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name


def number(value: float) -> str:
    """A constant as a reader would write it: 1.0 / 1024 rather than 0.0009765625."""
    if value not in (0.0, float("inf"), float("-inf")) and abs(value) < 1:
        inverse = 1 / value
        if abs(inverse) < 1e7 and inverse == round(inverse) and abs(inverse) not in (10.0**k for k in range(8)):
            return f"{'-' if value < 0 else ''}1.0 / {abs(int(inverse))}"
        if abs(inverse - round(inverse)) < 1e-9 * abs(inverse) and 1 / round(inverse) == value and abs(inverse) < 1e6:
            return f"{'-' if value < 0 else ''}1.0 / {abs(round(inverse))}"
    if value == float("inf"):
        return "float('inf')"
    if value == float("-inf"):
        return "float('-inf')"
    return repr(float(value))
