# SPDX-License-Identifier: MIT
"""The campaign of bad kernels, without a machine: what it covers, what `make test` takes of it, how the bad ones are
made.
"""

from __future__ import annotations

import dataclasses
import io
import subprocess
import time
from pathlib import Path

import pytest

from kexecd.kernel import cpio
from kexecd.kernel.image import ImageKind, kernel_image
from tests.unit.images import CODE_SIZE, SETUP_SIZE, bzimage
from tests.unit.initrds import tree, zstd
from tests.vm.campaign import archives, images, programs, report
from tests.vm.campaign.alternate import Row
from tests.vm.campaign.cases import CASES, Back, Case
from tests.vm.campaign.cell import Cell
from tests.vm.campaign.guests import GUESTS, SYSTEMD
from tests.vm.campaign.powercut import MOMENTS, Cut
from tests.vm.campaign.report import BEGIN, END
from tests.vm.campaign.subset import all_cells, subset
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


def cell(case: Case, guest: str, *problems: str) -> Cell:
    return Cell(case, guest, problems, seconds=12.3, reason="it | broke", took=60.0)


def test_the_page_gets_the_table_in_the_place_of_the_last_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    first, second = CASES[0], CASES[1]
    systemd, openrc = GUESTS
    report.write([cell(first, systemd), cell(first, openrc), cell(second, systemd, "it hung")], page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert f"| {first.name} | the kernel's `panic=` | 12 s | 12 s | it \\| broke |" in text
    assert f"| {second.name} | the kernel's `panic=` | **not back** | (back) |" in text
    report.write([], page)
    assert page.read_text().count(BEGIN) == 1


def test_each_says_in_a_line_what_went_wrong() -> None:
    guest = next(iter(GUESTS))
    bad = dataclasses.replace(cell(CASES[0], guest), problems=("it hung",))
    for seen in (bad, Row(guest, 2, ("it hung",), 1.0), Cut(guest, MOMENTS[0].name, ("it hung",), 1.0)):
        assert not seen.good and "FAILED: it hung" in seen.line()
        assert seen.as_json()["problems"] == ["it hung"]
