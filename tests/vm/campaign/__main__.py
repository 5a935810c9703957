# SPDX-License-Identifier: MIT
"""`make campaign`: every kind of bad kernel on systemd and on OpenRC, a line each; then good and bad ones in turn, and
losses of power.

The table goes into docs/wayback-campaign.md when all of it is good. .cache/campaign.json holds what was seen, and
.cache/campaign/ the console of each cell that is not good. Then it exits with 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

from tests.vm.campaign import alternate, cell, powercut, report
from tests.vm.campaign.alternate import Row
from tests.vm.campaign.cell import Cell
from tests.vm.campaign.guests import GUESTS
from tests.vm.campaign.powercut import Cut
from tests.vm.campaign.subset import all_cells, subset
from tests.vm.lab.cache import REPO

CONSOLES = REPO / ".cache" / "campaign"

Told = TypeVar("Told", Row, Cut)

PARTS = ("cells", "alternate", "powercut")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.campaign", description=__doc__)
    parser.add_argument("--guest", action="append", choices=tuple(GUESTS), help="only this one")
    parser.add_argument("--case", action="append", metavar="TEXT", help="only cases with it in their name")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part")
    parser.add_argument("--moment", default="", metavar="TEXT", help="only power cuts with it in their name")
    parser.add_argument("--kexecs", type=int, default=alternate.KEXECS, help="how many in turn (20)")
    parser.add_argument("--subset", action="store_true", help="only what `make test` runs")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    options = parser.parse_args()
    parts = options.part or (PARTS[:1] if options.subset or options.case else PARTS)
    names = options.guest or tuple(GUESTS)
    wanted = tuple(
        (case, guest)
        for case, guest in (subset() if options.subset else all_cells())
        if guest in names and any(text in case.name for text in options.case or [""])
    )
    if options.list:
        print("\n".join(f"{guest:<20} {case.name}" for case, guest in wanted))
        return 0
    begin = time.monotonic()
    cells = [_shown(cell.run(case, guest)) for case, guest in wanted] if "cells" in parts else []
    rows = [row for name in names for row in _told(alternate.run(name, options.kexecs))] if "alternate" in parts else []
    cuts = [cut for name in names for cut in _told(powercut.run(name, options.moment))] if "powercut" in parts else []
    seen: list[Cell | Row | Cut] = [*cells, *rows, *cuts]
    good = sum(each.good for each in seen)
    seconds = time.monotonic() - begin
    print(f"\n{good} of {len(seen)} are as they should be, in {seconds / 60:.0f} minutes")
    whole = wanted == all_cells() and set(parts) == set(PARTS) and not options.moment
    if whole and options.kexecs >= alternate.KEXECS:
        report.keep(cells, rows, cuts, seconds)
        if good == len(seen):
            report.write(cells)
            print(f"the table is in {report.PAGE.relative_to(REPO)}")
    return 0 if good == len(seen) else 1


def _told(seen: Iterator[Told]) -> Iterator[Told]:
    for each in seen:
        print(each.line(), flush=True)
        yield each


def _shown(seen: Cell) -> Cell:
    print(seen.line(), flush=True)
    if not seen.good:
        CONSOLES.mkdir(exist_ok=True)
        name = f"{seen.guest}-{'-'.join(seen.case.name.split())}.log"
        (CONSOLES / name).write_text("\n".join((*seen.problems, seen.told)) + "\n", encoding="utf-8")
    return seen


if __name__ == "__main__":
    sys.exit(main())
