# SPDX-License-Identifier: MIT
"""`make matrix`: every door on every guest, a line each; the table goes into docs/doors.md when all of it is good.

.cache/matrix.json holds what was seen, and .cache/matrix/ the console of each cell that is not good; then it exits with
1. A run that was cut off goes on where it was, as long as the project that it installs is the same to the last byte.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.vm.doors import report
from tests.vm.doors.cell import Cell, run
from tests.vm.doors.guests import GUESTS
from tests.vm.doors.subset import Pair, all_cells, subset
from tests.vm.lab.cache import REPO
from tests.vm.lab.crew import each
from tests.vm.lab.image import project_key

CONSOLES = REPO / ".cache" / "matrix"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.doors", description=__doc__)
    parser.add_argument("--guest", action="append", choices=[guest.name for guest in GUESTS], help="only this one")
    parser.add_argument("--door", action="append", metavar="TEXT", help="only doors with it in their name")
    parser.add_argument("--subset", action="store_true", help="only what `make test` runs")
    parser.add_argument("-v", "--verbose", action="store_true", help="with what kexecd said, and when")
    parser.add_argument("--again", action="store_true", help="also what was good with this very project before")
    parser.add_argument("--guests", type=int, default=1, metavar="N", help="so many at a time; each takes a core")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    options = parser.parse_args()
    wanted = tuple(
        (door, guest)
        for door, guest in (subset() if options.subset else all_cells())
        if guest.name in (options.guest or [guest.name])
        and any(text in door.name for text in options.door or [""])
    )
    if options.list:
        print("\n".join(f"{guest.name:<20} {door.name}" for door, guest in wanted))
        return 0
    project = project_key()
    cells = {(cell.door.name, cell.guest): cell for cell in report.kept(project)}
    todo = [pair for pair in wanted if options.again or _name(pair) not in cells]
    if done := len(wanted) - len(todo):
        print(f"{done} of {len(wanted)} cells were good with this very project already")
    begin = time.monotonic()
    for number, cell in each(run_one, map(all_cells().index, todo), options.guests):
        _show(cell, verbose=options.verbose)
        cells[_name(all_cells()[number])] = cell
        report.keep(project, tuple(cells.values()))
    good = sum(cells[_name(pair)].good for pair in wanted)
    print(f"\n{good} of {len(wanted)} cells are as they should be, in {(time.monotonic() - begin) / 60:.0f} minutes")
    if all(_name(pair) in cells and cells[_name(pair)].good for pair in all_cells()):
        report.write(tuple(cells.values()))
        print(f"the table is in {report.PAGE.relative_to(REPO)}")
    return 0 if good == len(wanted) else 1


def _name(pair: Pair) -> tuple[str, str]:
    door, guest = pair
    return door.name, guest.name


def run_one(number: int) -> Cell:
    """The cell of this number in all_cells()."""
    return run(*all_cells()[number])


def _show(cell: Cell, *, verbose: bool) -> None:
    print("\n    ".join((cell.line(), *(cell.said if verbose else ()))), flush=True)
    if not cell.good:
        CONSOLES.mkdir(exist_ok=True)
        name = f"{cell.guest}-{'-'.join(cell.door.name.replace(',', '').split())}.log"
        (CONSOLES / name).write_text("\n".join((*cell.problems, cell.told)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
