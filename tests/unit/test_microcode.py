# SPDX-License-Identifier: MIT
"""Files of microcode, as Intel and AMD make them, beside what runs."""

from __future__ import annotations

from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.kernel.microcode import Newer, _amd, _intel, newer

INTEL = 0x906EA  # family 6, model 158, stepping 10
AMD = 0x00A20F12  # family 25, model 33, stepping 2


def intel(revision: int, processor: int = INTEL, flags: int = 0x22, data: int = 16) -> bytes:
    return pack("<9I12x", 1, revision, 0, processor, 0, 1, flags, data, 48 + data) + bytes(data)


def amd(*patches: tuple[int, int], processor: int = AMD, called: int = 0xA212) -> bytes:
    """A container: the processor is `called` so, and the patches are (revision, for whom)."""
    table = pack("<3I2H", processor, 0, 0, called, 0) + bytes(16)
    parts = [b"DMA\0", pack("<2I", 0, len(table)), table]
    for revision, whom in patches:
        body = pack("<2IH2B3IH", 0, revision, 0, 0, 0, 0, 0, 0, whom).ljust(64, b"\0")
        parts += [pack("<2I", 1, len(body)), body]
    return b"".join(parts)


def machine(root: Path, vendor: str, family: int, model: int, stepping: int, running: int) -> None:
    for name, text in {
        "proc/cpuinfo": f"vendor_id : {vendor}\ncpu family : {family}\nmodel : {model}\nstepping : {stepping}\n",
        "sys/devices/system/cpu/cpu0/microcode/version": f"{running:#x}\n",
        "sys/devices/system/cpu/cpu0/microcode/processor_flags": "0x2\n" if vendor == "GenuineIntel" else "0x0\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def install(root: Path, name: str, data: bytes) -> str:
    path = root / "lib/firmware" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return f"/lib/firmware/{name}"


def test_intels_file_is_called_by_family_model_and_stepping(tmp_path: Path) -> None:
    machine(tmp_path, "GenuineIntel", 6, 158, 10, 0xF0)
    assert newer(str(tmp_path)) is None
    file = install(tmp_path, "intel-ucode/06-9e-0a", intel(0xF4))
    assert newer(str(tmp_path)) == Newer(0xF0, 0xF4, file)


def test_of_several_in_a_file_those_for_this_processor_count(tmp_path: Path) -> None:
    others = intel(0xFF, flags=0x40) + intel(0xFE, processor=0x906EB)
    assert list(_intel(others + intel(0xF2) + intel(0xF4), INTEL, 0x2)) == [0xF2, 0xF4]


def test_amds_container_tells_what_it_calls_a_processor(tmp_path: Path) -> None:
    machine(tmp_path, "AuthenticAMD", 25, 33, 2, 0xA201200)
    file = install(tmp_path, "amd-ucode/microcode_amd_fam19h.bin", amd((0xA201210, 0xA212), (0xB000000, 0xA213)))
    assert newer(str(tmp_path)) == Newer(0xA201200, 0xA201210, file)


def test_a_second_container_behind_the_first_counts_too() -> None:
    both = amd((1, 0xA213), called=0xA213, processor=AMD + 1) + amd((7, 0xA212))
    assert list(_amd(both, AMD)) == [7]


@pytest.mark.parametrize("vendor", ["HygonGenuine", ""])
def test_other_processors_are_not_looked_at(tmp_path: Path, vendor: str) -> None:
    machine(tmp_path, vendor, 6, 158, 10, 1)
    install(tmp_path, "intel-ucode/06-9e-0a", intel(0xF4))
    assert newer(str(tmp_path)) is None


def test_a_machine_that_tells_nothing_has_nothing_newer(tmp_path: Path) -> None:
    assert newer(str(tmp_path)) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_read_to_their_end(data: bytes) -> None:
    list(_intel(data, INTEL, 2))
    list(_amd(b"DMA\0" + data, AMD))
