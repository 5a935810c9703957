# SPDX-License-Identifier: MIT
"""What `make matrix` leaves: the table of docs/doors.md, between two lines of its own, and .cache/matrix.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.vm.doors.cell import Cell
from tests.vm.doors.guests import GUESTS
from tests.vm.doors.subset import all_cells
from tests.vm.doors.table import DOORS, TABLE, Door, End
from tests.vm.lab import notes
from tests.vm.lab.cache import REPO
from tests.vm.lab.loaders import Firmware
from tests.vm.lab.page import put, row
from tests.vm.lab.recipe import Recipe

RESULT = REPO / ".cache" / "matrix.json"
PAGE = REPO / "docs" / "doors.md"
BEGIN, END = "<!-- make matrix: begin -->", "<!-- make matrix: end -->"

COLUMNS = tuple(guest for guest in GUESTS if guest.loader.firmware is Firmware.BIOS)
"""The one with a UEFI firmware is there for a single door, which gets a line of its own."""

WORDS = {
    End.KEXEC: "kexec",
    End.FIRMWARE: "firmware",
    End.SETUP: "firmware setup",
    End.OFF: "off",
    End.RESCUE: "single user",
}


def keep(project: str, cells: Sequence[Cell], result: Path = RESULT) -> None:
    """Write the JSON. project: the key of what was installed in the guests."""
    found = {
        "good": sum(cell.good for cell in cells),
        "minutes": round(sum(cell.took for cell in cells) / 60, 1),
        "cells": [cell.as_json() for cell in cells],
    }
    notes.keep(project, found, result)


def kept(project: str, result: Path = RESULT) -> tuple[Cell, ...]:
    """The good cells of a run with this very project that was cut off, or had others that were not."""
    doors = {door.name: door for door in TABLE}
    return tuple(
        Cell(doors[cell["door"]], cell["guest"], (), cell["seconds"], cell["took"], tuple(cell["said"]))
        for cell in notes.kept(project, result).get("cells", ())
        if cell["good"] and cell["door"] in doors
    )


def table(cells: Sequence[Cell]) -> str:
    """As Markdown: what happened, and after how many seconds; in brackets what has to, where the door was not taken."""
    by = {(cell.door.name, cell.guest): cell for cell in cells}
    head = ["", *(guest.name for guest in COLUMNS)]
    lines = [row(head), row(["---"] * len(head))]
    for door in TABLE:
        if door.firmware is Firmware.BIOS:
            entries = [_entry(door, guest, by.get((door.name, guest.name))) for guest in COLUMNS]
            lines.append(row([_name(door), *entries]))
    for door, guest in all_cells():
        if door.firmware is Firmware.UEFI:
            lines += ["", f"{_name(door)} on {guest.name}: {_entry(door, guest, by.get((door.name, guest.name)))}"]
    return "\n".join(lines)


def write(cells: Sequence[Cell], page: Path = PAGE) -> None:
    """Put the table into the page, in the place of the last one."""
    put(table(cells), page, BEGIN, END)


def _name(door: Door) -> str:
    return f"`{door.name}`" if door in DOORS and door.name[0].islower() else door.name


def _entry(door: Door, guest: Recipe, cell: Cell | None) -> str:
    if cell is None:
        return "-" if door.command(guest) is None else f"({WORDS[door.end]})"
    if not cell.good:
        return f"**not {WORDS[cell.door.end]}**"
    return f"{WORDS[cell.door.end]} {cell.seconds:.1f}"
