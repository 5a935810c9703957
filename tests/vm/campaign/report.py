# SPDX-License-Identifier: MIT
"""What `make campaign` leaves: the tables of docs/wayback-campaign.md, between two lines of its own, and
.cache/campaign.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.vm.campaign import powercut
from tests.vm.campaign.alternate import KEXECS, Row
from tests.vm.campaign.cases import CASES, Back, Case
from tests.vm.campaign.cell import Cell
from tests.vm.campaign.guests import GUESTS
from tests.vm.campaign.powercut import Cut
from tests.vm.campaign.work import Part, Seen, Work, all_work, of
from tests.vm.lab import notes
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


def keep(project: str, seen: Sequence[Seen], result: Path = RESULT) -> None:
    """Write the JSON. project: the key of what was installed in the guests."""
    found: dict[str, object] = {
        "good": sum(each.good for each in seen),
        "minutes": round(sum(each.took for each in seen) / 60, 1),
    }
    found |= {str(part): [each.as_json() for each in seen if of(each).part is part] for part in Part}
    notes.keep(project, found, result)


def kept(project: str, result: Path = RESULT) -> tuple[Seen, ...]:
    """What was good in a run with this very project that was cut off, or saw other things that were not.

    Of kexecs in turn all or none: they are one machine's.
    """
    found = notes.kept(project, result)
    backs = {case.name: case.back for case in CASES}
    seen: list[Seen] = [
        Cell(
            cell["case"], backs[cell["case"]], cell["guest"], (), cell["seconds"], cell["symptom"], cell["reason"],
            cell["took"],
        )
        for cell in found.get(Part.CELLS, ())
        if cell["good"] and cell["case"] in backs
    ]  # fmt: skip
    rows, cuts = found.get(Part.ALTERNATE, ()), found.get(Part.POWERCUT, ())
    broken = {each["guest"] for each in rows if not each["good"]}
    seen += [Row(each["guest"], each["number"], (), each["took"]) for each in rows if each["guest"] not in broken]
    seen += [Cut(each["guest"], each["moment"], (), each["took"]) for each in cuts if each["good"]]
    works = all_work()
    return tuple(each for each in seen if of(each) in works)


def tables(seen: Sequence[Seen]) -> str:
    """As Markdown: each cell's way back; below, what is only counted. In brackets where nobody has looked."""
    by = {of(each): each for each in seen if isinstance(each, Cell)}
    head = ["", "on", "back after", "brought back by", "the reason that it gives"]
    lines = [row(head), row(["---"] * len(head))]
    lines += [_line(case, guest, by.get(Work(Part.CELLS, guest, case.name))) for case in CASES for guest in GUESTS]
    lines += ["", row(["", *GUESTS]), row(["---"] * (len(GUESTS) + 1))]
    for what, kind, of_all in (
        ("kexecs into good and bad kernels in turn, after which all is exact", Row, KEXECS),
        ("losses of power, after which every record can be read", Cut, len(powercut.lives())),
    ):
        mine = [[each.good for each in seen if isinstance(each, kind) and each.guest == guest] for guest in GUESTS]
        lines.append(row([what, *(_count(found, of_all) for found in mine)]))
    return "\n".join(lines)


def write(seen: Sequence[Seen], page: Path = PAGE) -> None:
    """Put the tables into the page, in the place of the last ones."""
    put(tables(seen), page, BEGIN, END)


def _line(case: Case, guest: str, cell: Cell | None) -> str:
    if cell is None:
        return row([case.name, guest, "(back)", f"({WORDS[case.back]})", ""])
    if not cell.good or cell.seconds is None:
        return row([case.name, guest, "**not as it should be**", "", ""])
    return row([case.name, guest, f"{cell.seconds:.0f} s", WORDS[cell.back], cell.reason.replace("|", "\\|")])


def _count(found: Sequence[bool], of_all: int) -> str:
    told = f"{sum(found)} of {max(of_all, len(found))}"
    return told if all(found) and len(found) >= of_all else f"**{told}**" if found else f"({of_all} of {of_all})"
