# SPDX-License-Identifier: MIT
"""What the commands print: JSON with a schema number, and plain tables."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence


def print_json(document: Mapping[str, object]) -> None:
    print(json.dumps({"schema": 1, **document}, indent=2))


def print_table(rows: Sequence[Sequence[str]], *, indent: str = "") -> None:
    """Columns as wide as they have to be; the last one is as long as it is."""
    if not rows:
        return
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print((indent + "  ".join([*cells, row[-1]])).rstrip())


def shown(text: str) -> str:
    """What a terminal can show and what does nothing to it: names of files and boot loaders' texts are anybody's."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
