"""One self-contained HTML page about a timed launch: no network, no other file."""

from tools.report_html.page import render, write_report

__all__ = ["render", "write_report"]
