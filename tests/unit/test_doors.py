# SPDX-License-Identifier: MIT
"""The matrix of doors, without a machine: what it covers, what `make test` takes of it, how it reads a dead disk."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from tests.vm.doors import report
from tests.vm.doors.cell import Cell
from tests.vm.doors.disks import needs_recovery
from tests.vm.doors.guests import GUESTS
from tests.vm.doors.report import BEGIN, END
from tests.vm.doors.subset import AT_LEAST, all_cells, subset
from tests.vm.doors.table import DOORS, FAULTS, TABLE, Door
from tests.vm.doors.table import End as Ends
from tests.vm.lab.bootdisk import make_ext4
from tests.vm.lab.loaders import Firmware
from tests.vm.lab.recipe import Init
from tests.vm.lab.tools import run_tool


def test_every_door_is_somewhere_and_has_a_name_of_its_own() -> None:
    assert {door.name for door, _ in all_cells()} == {door.name for door in TABLE}
    assert len({door.name for door in TABLE}) == len(TABLE)


def test_every_init_has_a_guest() -> None:
    assert {guest.init for guest in GUESTS} == set(Init)


def test_every_fault_is_met_in_every_guest_but_the_one_for_its_firmware() -> None:
    cells = all_cells()
    for fault in FAULTS:
        met = {guest.name for door, guest in cells if door is fault}
        assert met == {guest.name for guest in GUESTS if guest.loader.firmware is Firmware.BIOS}


def test_whatever_must_not_jump_is_tried_with_an_image_in_memory() -> None:
    for door in DOORS:
        if door.end is not Ends.KEXEC:
            assert door.before.__name__ == "image", door.name


def test_make_test_takes_every_door_once_and_every_guest_three_times() -> None:
    taken, possible = subset(), Counter(guest.name for _, guest in all_cells())
    assert {door.name for door, _ in taken} == {door.name for door in TABLE}
    guests = Counter(guest.name for _, guest in taken)
    for guest in GUESTS:
        assert guests[guest.name] >= min(AT_LEAST, possible[guest.name]), guest.name
    assert len(taken) == len(set(taken))
    assert len(taken) <= len(TABLE) + AT_LEAST, "it takes more than it has to"


def test_a_new_door_is_taken_too() -> None:
    new = dataclasses.replace(TABLE[0], name="telinit 6")
    assert any(door is new for door, _ in subset((*TABLE, new)))


@pytest.mark.parametrize("start", [0, 3])
def test_a_journal_that_waits_to_be_replayed_is_seen_from_outside(tmp_path: Path, start: int) -> None:
    """The flag is the one that a mounted filesystem has; debugfs(8) sets it."""
    filesystem, disk = tmp_path / "ext4.img", tmp_path / "disk.qcow2"
    make_ext4(filesystem, 16, "data")

    def look() -> bool:
        raw = tmp_path / "raw.img"
        raw.write_bytes(bytes(start << 20) + filesystem.read_bytes())
        run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk, timeout=60)
        return needs_recovery(disk, start)

    assert not look()
    run_tool("debugfs", "-w", "-R", "feature needs_recovery", filesystem, timeout=60)
    assert look()


def test_a_disk_without_a_filesystem_is_no_clean_one(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", disk, "16M", timeout=60)
    with pytest.raises(ValueError, match="no ext4"):
        needs_recovery(disk)


def cell(door: Door, guest: str, *problems: str) -> Cell:
    return Cell(door, guest, problems, seconds=1.5, took=20.0)


def test_the_page_gets_the_table_in_the_place_of_the_last_one(tmp_path: Path) -> None:
    page = tmp_path / "doors.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    reboot, off = TABLE[0], next(door for door in TABLE if door.end is Ends.OFF)
    report.write([cell(reboot, GUESTS[0].name), cell(off, GUESTS[1].name, "it jumped")], page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert f"| `{reboot.name}` | kexec 1.5 | (kexec) |" in text
    assert f"| `{off.name}` | (off) | **not off** |" in text
    assert "| `systemctl kexec` | (kexec) | (kexec) | - |" in text, "where there is no such door"
    report.write([], page)
    assert page.read_text().count(BEGIN) == 1


def test_a_run_that_was_cut_off_goes_on_with_what_was_good_for_the_same_project(tmp_path: Path) -> None:
    result = tmp_path / "matrix.json"
    (one, guest), (other, _) = all_cells()[:2]
    good = Cell(one, guest.name, (), 8.5, 30.0, ("0.10 kexecd: going down",))
    bad = Cell(other, guest.name, ("no filesystem was clean",), None, 60.0)
    assert report.kept("key", result) == ()
    report.keep("key", (good, bad), result)
    assert report.kept("key", result) == (good,)
    assert report.kept("another", result) == ()
