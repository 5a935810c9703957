# SPDX-License-Identifier: MIT
"""Tables that a run puts into a page of the docs, between two lines of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def row(entries: Sequence[str]) -> str:
    """Of a Markdown table."""
    return f"| {' | '.join(entries)} |"


def put(table: str, page: Path, begin: str, end: str) -> None:
    """In the place of the last one."""
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    assert found and closed, f"{page} has no place for the table"
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
