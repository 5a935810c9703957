# SPDX-License-Identifier: MIT
"""What becomes of handed over memory in another kernel, told from that kernel's image before the jump."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from struct import pack_into

import pytest

from kexecd.errors import BadImage, Unsupported
from kexecd.kernel.files import open_regular
from kexecd.liveupdate import luo
from kexecd.liveupdate.carrier import Fate, Outlook
from kexecd.liveupdate.compatible import (
    Formats,
    formats,
    is_of,
    judge,
    kernel_memory,
    outlook_of,
    refuse_panic,
    running,
    scratch_needed,
    search,
)
from kexecd.liveupdate.outlook import outlook
from kexecd.model import OpenFile
from tests.unit.images import BANNER, SETUP_SIZE, bzimage, pe, zboot

NOW = Formats(4, 5, 2)
MARKS = b"noise\0luo-v5\0more\0kho-v4\0memfd-v2\0luo-session-v9\0"
ON = "root=/dev/vda kho=on liveupdate=on"
RUNNING = "6.1.0-50-amd64 #1 SMP PREEMPT_DYNAMIC (2026-07-02)"


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": zstd,
    "none": lambda data: data,
}


def kernel(payload: bytes, *, init_size: int = 0) -> bytes:
    """A bzImage with this payload, as the kernel's own build ends it: with the size of what it unpacks to."""
    image = bytearray(bzimage()[:SETUP_SIZE])
    offset = 0x100
    packed = payload + (1 << 20).to_bytes(4, "little")
    pack_into("<II", image, 0x248, offset, len(packed))
    pack_into("<I", image, 0x260, init_size)
    body = bytearray(offset) + packed
    body += bytes(-len(body) % 16)
    pack_into("<I", image, 0x1F4, len(body) // 16)
    banner = BANNER.encode() + b"\0"
    image[0x1200 : 0x1200 + len(banner)] = banner
    return bytes(image + body)


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., OpenFile]:
    def put(data: bytes, name: str = "vmlinuz") -> OpenFile:
        (tmp_path / name).write_bytes(data)
        return open_regular(str(tmp_path / name), "the kernel")

    return put


@pytest.mark.parametrize("packer", PACKERS)
def test_the_versions_are_found_however_a_kernel_is_packed(put: Callable[..., OpenFile], packer: str) -> None:
    inside = os.urandom(300000) + MARKS + os.urandom(300000)
    assert formats(put(kernel(PACKERS[packer](inside)))) == NOW


def test_a_kernel_without_live_update_has_none(put: Callable[..., OpenFile]) -> None:
    assert formats(put(kernel(gzip.compress(bytes(100000))))) == Formats()
    assert str(Formats()) == "no live update"


def test_wrapped_kernels_are_unwrapped_first(put: Callable[..., OpenFile]) -> None:
    inner = kernel(gzip.compress(MARKS))
    assert formats(put(pe(uname=b"6.1\n", linux=inner))) == NOW
    image = bytearray(4096) + MARKS
    image[56:60] = b"ARM\x64"
    assert formats(put(zboot(gzip.compress(bytes(image))))) == NOW
    assert formats(put(bytes(image))) == NOW


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_a_mark_is_found_wherever_the_pieces_end(size: int) -> None:
    pieces = (MARKS[at : at + size] for at in range(0, len(MARKS), size))
    assert search(pieces) == NOW


@pytest.mark.parametrize("text", [b"xluo-v5\0", b"luo-v5", b"luo-v\0", b"luo-v5x\0", b"a-kho-v4\0", b"luo-v55555\0"])
def test_what_only_looks_like_a_mark_is_none(text: bytes) -> None:
    assert search([b"\0" + text]) == Formats()


def test_a_kernel_that_is_damaged_or_cannot_be_unpacked_is_refused(put: Callable[..., OpenFile]) -> None:
    packed = bytearray(gzip.compress(os.urandom(100000)))
    packed[5000:6000] = bytes(1000)
    with pytest.raises(BadImage, match="its gzip stream is damaged"):
        formats(put(kernel(bytes(packed))))


@pytest.mark.parametrize(
    ("own", "other", "cmdline", "fate"),
    [
        (NOW, NOW, ON, Fate.CARRIED),
        (NOW, NOW, "kho=on", Fate.LOST),  # liveupdate is off by default
        (NOW, NOW, "kho=on liveupdate=on liveupdate=off", Fate.LOST),
        (NOW, NOW, f"{ON} kho=off", Fate.LOST),
        (NOW, Formats(), ON, Fate.LOST),
        (NOW, Formats(4, 0, 0), ON, Fate.LOST),
        (NOW, Formats(5, 5, 2), ON, Fate.LOST),
        (NOW, Formats(4, 5, 3), ON, Fate.LOST),
        (NOW, Formats(4, 6, 2), ON, Fate.PANIC),
        (NOW, Formats(4, 6, 2), "kho=on liveupdate=off", Fate.PANIC),
        (NOW, Formats(4, 6, 2), "", Fate.PANIC),
        (NOW, Formats(4, 6, 2), f"{ON} kho=off", Fate.LOST),
        (NOW, Formats(5, 6, 2), ON, Fate.LOST),  # it ignores all of it, and so does not look further
        (Formats(4, 5, 0), NOW, ON, Fate.CARRIED),  # debugfs does not tell of memfds
        (None, NOW, ON, Fate.UNKNOWN),
    ],
)
def test_what_becomes_of_it(own: Formats | None, other: Formats, cmdline: str, fate: Fate) -> None:
    assert judge(own, other, cmdline).fate is fate


def test_a_kernel_that_would_panic_is_refused_with_the_way_on() -> None:
    outlook = judge(NOW, Formats(4, 6, 2), ON)
    with pytest.raises(Unsupported) as no:
        refuse_panic(outlook, "/boot/vmlinuz-7.4")
    assert no.value.sentence() == (
        "cannot kexec into /boot/vmlinuz-7.4: the new kernel speaks kho-v4, luo-v6, memfd-v2, the running one kho-v4, "
        "luo-v5, memfd-v2: it would panic before it has a console; nothing was changed"
    )
    assert "--append kho=off" in no.value.hint
    refuse_panic(judge(NOW, Formats(4, 6, 2), "kho=off"), "/boot/vmlinuz-7.4")


def test_an_image_is_known_by_the_banner_of_the_running_kernel() -> None:
    assert is_of(BANNER, RUNNING)
    assert not is_of(BANNER, RUNNING.replace("#1", "#2"))
    assert not is_of(BANNER, RUNNING.replace("6.1.0-50", "6.1.0-51"))
    assert not is_of("", RUNNING)
    assert not is_of(BANNER, "")


def test_the_running_kernels_own_are_in_its_image(put: Callable[..., OpenFile], tmp_path: Path) -> None:
    image = put(kernel(gzip.compress(MARKS)))
    assert running(RUNNING, debugfs="/nowhere", images=(image,)) == NOW
    assert running(RUNNING.replace("#1", "#7"), debugfs="/nowhere", images=(image,)) is None
    (tmp_path / "kho/sub_fdts").mkdir(parents=True)
    (tmp_path / "kho/fdt").write_bytes(b"\xd0\x0d\xfe\xedkho-v4\0")
    (tmp_path / "kho/sub_fdts/LUO").write_bytes(b"luo-v5\0")
    assert running("", debugfs=str(tmp_path / "kho")) == Formats(4, 5, 0)


def test_the_whole_question_is_answered_from_a_file(put: Callable[..., OpenFile]) -> None:
    image = put(kernel(gzip.compress(MARKS)))
    same = outlook_of(image, ON, RUNNING, active=True)
    assert (same.fate, same.why) == (Fate.CARRIED, "it is the very kernel that runs")
    assert outlook_of(image, f"{ON} kho=off", RUNNING, active=True).fate is Fate.LOST
    assert outlook_of(image, "kho=on", RUNNING, active=True).fate is Fate.LOST
    assert outlook_of(image, ON, "6.6 #1", active=True).fate is Fate.UNKNOWN
    assert outlook_of(image, ON, RUNNING, active=False).fate is Fate.LOST
    broken = put(b"no kernel", "broken")
    outlook = outlook_of(broken, ON, RUNNING, active=True)
    assert outlook.fate is Fate.UNKNOWN
    assert "it is not a kernel image" in outlook.why


def test_too_little_scratch_is_foretold_with_what_to_use() -> None:
    mib = 1 << 20
    assert scratch_needed([104 * mib, 312 * mib], 40 * mib, 60 * mib) == ""
    assert scratch_needed([64 * mib], 30 * mib, 31 * mib) == ""
    assert scratch_needed([4 * mib, 4 * mib], 12 * mib, 1 * mib) == "kho_scratch=16M,16M,16M"
    assert scratch_needed([64 * mib, 64 * mib], 40 * mib, 65 * mib) == "kho_scratch=16M,112M,16M"
    assert scratch_needed([64 * mib, 64 * mib], 60 * mib, 60 * mib) == ""
    assert scratch_needed([], 1, 1) != ""


def test_a_bzimage_takes_what_its_header_says(put: Callable[..., OpenFile]) -> None:
    assert kernel_memory(put(kernel(b"", init_size=50 << 20))) == 50 << 20
    small = put(b"an Image of another kind")
    assert kernel_memory(small) == small.size


def test_where_live_update_is_off_no_kernel_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(luo, "available", lambda: False)
    assert outlook("/nowhere/vmlinuz", ON) == Outlook(
        Fate.LOST, "the running kernel has no live update, or it is not switched on"
    )


def test_where_it_is_on_the_kernel_at_a_path_is(monkeypatch: pytest.MonkeyPatch, put: Callable[..., OpenFile]) -> None:
    monkeypatch.setattr(luo, "available", lambda: True)
    assert outlook("/nowhere/vmlinuz", ON).why == "cannot use /nowhere/vmlinuz as the kernel: there is no such file"
    image = put(kernel(gzip.compress(MARKS)))
    assert outlook(image.path, ON).fate is Fate.UNKNOWN  # of the kernel that runs here nothing is known
    assert outlook(image.path, f"{ON} kho=off").fate is Fate.LOST
