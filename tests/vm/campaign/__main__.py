# SPDX-License-Identifier: MIT
"""`make campaign`: every kind of bad kernel on systemd and on OpenRC, good and bad ones in turn, and losses of power; a
line for each as it ends.

The tables go into docs/wayback-campaign.md when all of it is good. .cache/campaign.json holds what was seen, and
.cache/campaign/ the console of each cell that is not good; then it exits with 1. A run that was cut off goes on where
it was, as long as the project that it installs is the same to the last byte.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time

from tests.vm.campaign import alternate, guests, report
from tests.vm.campaign.cell import Cell
from tests.vm.campaign.guests import GUESTS
from tests.vm.campaign.subset import subset
from tests.vm.campaign.work import Part, Seen, Work, all_work, of
from tests.vm.lab.cache import REPO
from tests.vm.lab.crew import each
from tests.vm.lab.image import project_key

CONSOLES = REPO / ".cache" / "campaign"


def main() -> int:
    options = _options()
    wanted = tuple(work for work in all_work() if _is_wanted(work, options))
    if options.list:
        print("\n".join(work.line() for work in wanted))
        return 0
    project = project_key()
    found: dict[Work, tuple[Seen, ...]] = {}
    for seen in report.kept(project):
        found[of(seen)] = (*found.get(of(seen), ()), seen)
    todo = [work for work in wanted if options.again or not work.done(found.get(work, ()), options.kexecs)]
    if done := len(wanted) - len(todo):
        print(f"{done} of {len(wanted)} were good with this very project already", flush=True)
    begin = time.monotonic()
    for name in sorted({work.guest for work in todo}):
        guests.prepare(name)
    numbers = map(all_work().index, todo)
    for number, now in each(functools.partial(_do, options.kexecs), numbers, options.guests):
        found[all_work()[number]] = now
        report.keep(project, _flat(found))
    good = sum(work.done(found[work], options.kexecs) for work in wanted)
    print(f"\n{good} of {len(wanted)} are as they should be, in {(time.monotonic() - begin) / 60:.0f} minutes")
    if all(work.done(found.get(work, ())) for work in all_work()):
        report.write(_flat(found))
        print(f"the tables are in {report.PAGE.relative_to(REPO)}")
    return 0 if good == len(wanted) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.campaign", description=__doc__)
    parser.add_argument("--guest", action="append", choices=tuple(GUESTS), help="only this one")
    parser.add_argument("--part", action="append", choices=tuple(Part), help="only this part")
    parser.add_argument("--case", action="append", metavar="TEXT", help="only cases with it in their name")
    parser.add_argument("--moment", action="append", metavar="TEXT", help="only power cuts with it in their name")
    parser.add_argument("--kexecs", type=int, default=alternate.KEXECS, help="how many in turn (20)")
    parser.add_argument("--subset", action="store_true", help="only the cells that `make test` runs")
    parser.add_argument("--again", action="store_true", help="also what was good with this very project before")
    parser.add_argument("--guests", type=int, default=1, metavar="N", help="so many at a time; each takes a core")
    parser.add_argument("--list", action="store_true", help="only say what would be run, and in which order")
    return parser.parse_args()


def _is_wanted(work: Work, options: argparse.Namespace) -> bool:
    """Texts for one part of it are no wish for the others."""
    texts = {Part.CELLS: options.case, Part.POWERCUT: options.moment}
    named = [part for part, text in texts.items() if text] or ([Part.CELLS] if options.subset else [*Part])
    return (
        work.part in (options.part or named)
        and work.guest in (options.guest or GUESTS)
        and any(text in work.name for text in texts.get(work.part) or [""])
        and (not options.subset or (work.name, work.guest) in [(case.name, guest) for case, guest in subset()])
    )


def _do(kexecs: int, number: int) -> tuple[Seen, ...]:
    """The work of this number in all_work()."""
    return tuple(_shown(seen) for seen in all_work()[number].do(kexecs))


def _shown(seen: Seen) -> Seen:
    print(f"{seen.line()}\n", end="", flush=True)  # as a whole: others print too
    if isinstance(seen, Cell) and not seen.good:
        CONSOLES.mkdir(exist_ok=True)
        name = f"{seen.guest}-{'-'.join(seen.case.split())}.log"
        (CONSOLES / name).write_text("\n".join((*seen.problems, seen.told)) + "\n", encoding="utf-8")
    return seen


def _flat(found: dict[Work, tuple[Seen, ...]]) -> tuple[Seen, ...]:
    return tuple(seen for work in all_work() for seen in found.get(work, ()))


if __name__ == "__main__":
    sys.exit(main())
