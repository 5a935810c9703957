# SPDX-License-Identifier: MIT
"""The campaign of bad kernels, without a machine: what it covers, what `make test` takes of it, how the bad ones are
made.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kexecd.kernel import cpio
from kexecd.kernel.image import ImageKind, kernel_image
from tests.unit.images import CODE_SIZE, SETUP_SIZE, bzimage
from tests.unit.initrds import tree, zstd
from tests.vm.campaign import __main__ as command
from tests.vm.campaign import archives, guests, images, programs, report
from tests.vm.campaign.alternate import KEXECS, Row
from tests.vm.campaign.cases import CASES, Back, Case
from tests.vm.campaign.cell import Cell
from tests.vm.campaign.guests import GUESTS, SYSTEMD
from tests.vm.campaign.powercut import MOMENTS, Cut, lives
from tests.vm.campaign.report import BEGIN, END
from tests.vm.campaign.subset import all_cells, subset
from tests.vm.campaign.work import SLOWEST, Part, Seen, Work, all_work
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD, Init

KINDS = 12


def test_there_are_twelve_kinds_each_in_a_guest_with_systemd_and_in_one_with_openrc() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == KINDS
    assert {guest.init for guest in GUESTS.values()} == {Init.SYSTEMD, Init.OPENRC_INIT}
    assert len(all_cells()) == KINDS * len(GUESTS)


def test_a_case_is_seen_by_its_symptom_or_by_its_silence_which_only_a_watchdog_ends() -> None:
    for case in CASES:
        assert case.silent == (case.back is Back.WATCHDOG), case.name


def test_a_case_is_bad_in_some_way() -> None:
    for case in CASES:
        assert case.words or case.kernel or case.initrd or case.after, case.name


def test_make_test_takes_each_way_back_once_and_every_guest() -> None:
    taken = subset()
    assert sorted(case.back for case, _ in taken) == sorted(Back)
    assert {guest for _, guest in taken} == set(GUESTS)


def test_the_guests_need_no_other_base_than_the_labs_own() -> None:
    assert SYSTEMD.base_key == DEBIAN12_SYSTEMD.base_key
    assert SYSTEMD.key != DEBIAN12_SYSTEMD.key


def members(archive: bytes) -> list[cpio.Member]:
    return list(cpio.members(cpio.StreamSource(iter([archive]))))


def test_another_init_lies_behind_the_initrd_that_it_belongs_to() -> None:
    initrd = b"\x28\xb5\x2f\xfd" + b"compressed"
    both = archives.with_init(initrd, b"program")
    assert both.startswith(initrd)
    over = both[len(initrd) + -len(initrd) % 4 :]
    assert [(member.name, member.mode, member.size) for member in members(over)] == [
        ("proc", 0o040755, 0),
        ("init", 0o100755, len(b"program")),
    ]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zstd"])
def test_a_module_is_left_out_and_nothing_else(packed: bool) -> None:
    whole = tree()
    names = [member.name for member in members(whole)]
    (module, *_) = (name for name in names if name.endswith(".ko") or ".ko." in name)
    less = archives.without(zstd(whole) if packed else whole, module.rpartition("/")[2])
    assert [member.name for member in members(less)] == [name for name in names if name != module]


def test_what_is_not_there_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="nothing in this initrd"):
        archives.without(tree(), "no such module")


def test_a_kernel_that_hangs_is_whole_by_all_that_its_header_says(tmp_path: Path) -> None:
    good = bzimage()
    bad = images.hanging(good)
    assert bad[SETUP_SIZE + 0x200 :].startswith(images.SPIN)
    assert [at for at in range(len(good)) if good[at] != bad[at]] == list(range(SETUP_SIZE + 0x200, SETUP_SIZE + 0x204))
    path = tmp_path / "vmlinuz"
    path.write_bytes(bad)
    with path.open("rb") as file:
        assert kernel_image(file.fileno(), str(path)).kind is ImageKind.BZIMAGE


def test_a_piece_of_the_kernel_lies_within_one_page_of_it_in_memory() -> None:
    kernel = bzimage()
    kernel = kernel[:SETUP_SIZE] + b"".join(number.to_bytes(4, "little") for number in range(CODE_SIZE // 4))
    piece = images.sample(kernel)
    assert len(piece) == images.SAMPLE and kernel.count(piece) == 1
    at = kernel.index(piece) - SETUP_SIZE
    assert at // images.PAGE == (at + len(piece) - 1) // images.PAGE


def test_the_program_that_eats_memory_does(tmp_path: Path) -> None:
    """As much as it gets: here not much, and it goes on asking."""
    program = tmp_path / "eat"
    program.write_bytes(programs.eat())
    program.chmod(0o755)

    with subprocess.Popen(["prlimit", f"--as={32 << 20}", program]) as eater:
        try:
            end, used = time.monotonic() + 20, 0
            while used < 16 << 10 and time.monotonic() < end:
                status = Path(f"/proc/{eater.pid}/status").read_text()
                used = next((int(line.split()[1]) for line in io.StringIO(status) if line.startswith("VmRSS")), 0)
                time.sleep(0.05)
            assert used >= 16 << 10, f"{used} KiB"
            assert eater.poll() is None
        finally:
            eater.kill()


def test_the_program_that_crashes_names_what_it_needs() -> None:
    """It is run in a guest only: on a machine it would do what it is for."""
    program = programs.crash()
    assert program.startswith(b"\x7fELF")
    assert program.endswith(b"/proc\0proc\0/proc/sysrq-trigger\0c\0")


SAID_IN_A_GOOD_BOOT = (
    "[    5.640188] systemd[1]: Starting modprobe@loop.service - Load Kernel Module loop...",
    "[    6.164370] Module loop is blacklisted",
    "[   13.600407] kexecd: this boot: kexec from 6.12.117+deb12-cloud-amd64, 1.8 s after it was asked for",
)

UNHEALTHY = (
    "it was not confirmed within 60 s: `/usr/sbin/modprobe loop` ended with exit status 1, and said: "
    "modprobe: ERROR: could not insert 'loop': Operation not permitted"
)


def test_a_health_check_that_fails_is_seen_by_what_comes_of_it_and_not_by_what_systemd_asks_for_anyway() -> None:
    (case,) = (case for case in CASES if case.name == "health check failing")
    given_up = f"[   60.012345] kexecd: this boot is given up: {UNHEALTHY}; this machine restarts through the firmware"
    assert re.search(case.symptom, given_up) and re.search(case.reason, UNHEALTHY, re.IGNORECASE)
    assert not [line for line in SAID_IN_A_GOOD_BOOT if re.search(case.symptom, line)]
    assert not re.search(case.reason, "it was not confirmed within 60 s: modprobe@loop.service is not up")


def test_all_of_it_is_one_list_the_longest_first() -> None:
    works = all_work()
    assert len(works) == len(set(works)) == 2 + len(all_cells()) + 2 * len(lives())
    assert [work.part for work in works[:2]] == [Part.ALTERNATE] * 2
    backs = {case.name: case.back for case in CASES}
    cells = [backs[work.name] for work in works if work.part is Part.CELLS]
    assert cells == sorted(cells, key=SLOWEST.index) and set(SLOWEST) == set(Back)
    assert {work.part for work in works[-2 * len(lives()) :]} == {Part.POWERCUT}


def everything() -> list[Seen]:
    """Of a run that saw nothing but good."""
    seen: list[Seen] = [cell(case, guest) for case in CASES for guest in GUESTS]
    seen += [Row(guest, number, (), 50.0) for guest in GUESTS for number in range(1, KEXECS + 1)]
    return seen + [Cut(guest, moment, (), 60.0) for guest in GUESTS for moment in lives()]


def cell(case: Case, guest: str, *problems: str) -> Cell:
    return Cell(case.name, case.back, guest, problems, seconds=12.3, reason="it | broke", took=60.0)


def test_the_page_gets_the_tables_in_the_place_of_the_last_ones(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    first, second = CASES[0], CASES[1]
    systemd, openrc = GUESTS
    cells = [cell(first, systemd), cell(first, openrc), cell(second, systemd, "it hung")]
    report.write([*cells, Row(openrc, 1, ("it hung",), 9.0)], page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert f"| {first.name} | {systemd} | 12 s | the kernel's `panic=` | it \\| broke |" in text
    assert f"| {second.name} | {systemd} | **not as it should be** |  |  |" in text
    assert f"| {second.name} | {openrc} | (back) | (the kernel's `panic=`) |  |" in text
    assert f"all is exact | (20 of 20) | **0 of {KEXECS}** |" in text
    report.write(everything(), page)
    text = page.read_text()
    assert text.count(BEGIN) == 1 and "(back)" not in text and "**" not in text
    assert text.count(" | 12 s | ") == KINDS * len(GUESTS)
    assert "all is exact | 20 of 20 | 20 of 20 |" in text
    assert "every record can be read | 9 of 9 | 9 of 9 |" in text


def test_a_run_that_was_cut_off_goes_on_with_what_was_good_for_the_same_project(tmp_path: Path) -> None:
    result = tmp_path / "campaign.json"
    systemd, openrc = GUESTS
    rows = [Row(guest, number, (), 50.0) for guest in GUESTS for number in (1, 2)]
    good: list[Seen] = [cell(CASES[0], openrc), *rows[:2], Cut(systemd, MOMENTS[0].name, (), 60.0)]
    bad: list[Seen] = [
        cell(CASES[1], openrc, "it hung"), *rows[2:], Row(openrc, 3, ("it hung",), 1.0),
        Cut(openrc, MOMENTS[0].name, ("lost",), 1.0),
    ]  # fmt: skip
    assert report.kept("key", result) == ()
    report.keep("key", (*bad, *good), result)
    assert report.kept("key", result) == tuple(good), "of a machine's kexecs in turn all or none"
    assert report.kept("another", result) == ()


def test_kexecs_in_turn_are_done_when_there_are_as_many_as_are_wanted() -> None:
    work = Work(Part.ALTERNATE, next(iter(GUESTS)))
    rows = [Row(work.guest, number, (), 50.0) for number in range(1, KEXECS)]
    assert not work.done(rows) and work.done(rows, KEXECS - 1)
    assert work.done([*rows, Row(work.guest, KEXECS, (), 50.0)])
    assert not work.done([*rows, Row(work.guest, KEXECS, ("it hung",), 50.0)])


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`make campaign`, with these words for its options; what it writes lies in tmp_path."""
    page, result = tmp_path / "page.md", tmp_path / "campaign.json"
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(report, "keep", functools.partial(report.keep, result=result))
    monkeypatch.setattr(report, "kept", functools.partial(report.kept, result=result))
    monkeypatch.setattr(report, "write", functools.partial(report.write, page=page))
    monkeypatch.setattr(guests, "prepare", lambda name: None)
    monkeypatch.setattr(command, "CONSOLES", tmp_path / "consoles")

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["campaign", *words])
        return command.main()

    return run


def played(bad: Work | None, work: Work, kexecs: int) -> Iterator[Seen]:
    """In place of a machine."""
    problems = ("it hung",) if work == bad else ()
    match work.part:
        case Part.CELLS:
            yield cell(next(case for case in CASES if case.name == work.name), work.guest, *problems)
        case Part.ALTERNATE:
            yield from (Row(work.guest, number, problems, 1.0) for number in range(1, kexecs + 1))
        case Part.POWERCUT:
            yield Cut(work.guest, work.name, problems, 1.0)


def test_what_is_missing_is_done_and_the_page_is_written_when_nothing_is(
    campaign: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hung, works = all_work()[2], len(all_work())
    assert hung.part is Part.CELLS
    monkeypatch.setattr(Work, "do", lambda work, kexecs: played(hung, work, kexecs))
    assert campaign("--part", "powercut", "--guests", "2") == 0
    assert campaign("--guests", "3") == 1
    told = capfd.readouterr().out
    assert f"18 of {works} were good" in told and f"{works - 1} of {works} are as they should be" in told
    assert told.count("power cut: ") == 18 and "tables" not in told, "once each"
    (console,) = (tmp_path / "consoles").iterdir()
    assert hung.guest in console.name and "it hung" in console.read_text()
    assert "12 s" not in (tmp_path / "page.md").read_text()
    monkeypatch.setattr(Work, "do", lambda work, kexecs: played(None, work, kexecs))
    assert campaign() == 0
    told = capfd.readouterr().out
    assert f"{works - 1} of {works} were good" in told and "the tables are in" in told
    assert len([line for line in told.splitlines() if " back after " in line]) == 1, "only what was not good"
    assert (tmp_path / "page.md").read_text().count("12 s") == KINDS * len(GUESTS)


def test_each_says_in_a_line_what_went_wrong() -> None:
    guest = next(iter(GUESTS))
    bad = dataclasses.replace(cell(CASES[0], guest), problems=("it hung",))
    for seen in (bad, Row(guest, 2, ("it hung",), 1.0), Cut(guest, MOMENTS[0].name, ("it hung",), 1.0)):
        assert not seen.good and "FAILED: it hung" in seen.line()
        assert seen.as_json()["problems"] == ["it hung"]
