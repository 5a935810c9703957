# SPDX-License-Identifier: MIT
"""What `make campaign` leaves: the table of docs/wayback-campaign.md, between two lines of its own, and
.cache/campaign.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.vm.campaign.alternate import Row
from tests.vm.campaign.cases import CASES, Back, Case
from tests.vm.campaign.cell import Cell
from tests.vm.campaign.guests import GUESTS
from tests.vm.campaign.powercut import Cut
from tests.vm.lab.cache import REPO
from tests.vm.lab.page import put, row

RESULT = REPO / ".cache" / "campaign.json"
PAGE = REPO / "docs" / "wayback-campaign.md"
BEGIN, END = "<!-- make campaign: begin -->", "<!-- make campaign: end -->"

WORDS = {
    Back.PANIC: "the kernel's `panic=`",
    Back.CONFIRM: "`kexecctl confirm`",
    Back.WATCHDOG: "the watchdog",
}


def keep(cells: Sequence[Cell], rows: Sequence[Row], cuts: Sequence[Cut], seconds: float) -> None:
    """Write the JSON."""
    seen: list[Cell | Row | Cut] = [*cells, *rows, *cuts]
    result = {
        "good": sum(each.good for each in seen),
        "cells": [cell.as_json() for cell in cells],
        "alternating": [row.as_json() for row in rows],
        "power-cuts": [cut.as_json() for cut in cuts],
        "minutes": round(seconds / 60, 1),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(cells: Sequence[Cell]) -> str:
    """As Markdown: seconds from the jump until the machine was reset; in brackets where nobody has looked."""
    by = {(cell.case.name, cell.guest): cell for cell in cells}
    lines = [row(["", "brought back by", *GUESTS, "the reason that it gives"]), row(["---"] * (len(GUESTS) + 3))]
    for case in CASES:
        seen = [by.get((case.name, guest)) for guest in GUESTS]
        entries = ["(back)" if cell is None else _entry(cell) for cell in seen]
        lines.append(row([case.name, WORDS[case.back], *entries, _reason(case, seen)]))
    return "\n".join(lines)


def write(cells: Sequence[Cell], page: Path = PAGE) -> None:
    """Put the table into the page, in the place of the last one."""
    put(table(cells), page, BEGIN, END)


def _reason(case: Case, seen: Sequence[Cell | None]) -> str:
    """As the first guest has it: it names devices and times, which differ."""
    return next((cell.reason.replace("|", "\\|") for cell in seen if cell), "")


def _entry(cell: Cell) -> str:
    return f"{cell.seconds:.0f} s" if cell.good and cell.seconds is not None else "**not back**"
