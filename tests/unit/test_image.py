# SPDX-License-Identifier: MIT
import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from struct import pack_into

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kexecd.errors import BadImage, Refusal
from kexecd.kernel.image import ImageKind, KernelImage, kernel_image
from tests.unit.images import BANNER, CODE_SIZE, SETUP_SIZE, bzimage, efi_image, uki, zboot

Open = Callable[[bytes], int]


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[Open]:
    """Makes a file with the content given, and opens it."""
    fds: list[int] = []

    def make(content: bytes) -> int:
        path = tmp_path / f"file{len(fds)}"
        path.write_bytes(content)
        fds.append(os.open(path, os.O_RDONLY))
        return fds[-1]

    yield make
    for each in fds:
        os.close(each)


def test_a_bzimage_tells_what_it_is(fd: Open) -> None:
    assert kernel_image(fd(bzimage()), "/boot/vmlinuz") == KernelImage(
        kind=ImageKind.BZIMAGE,
        arch="x86_64",
        version="6.1.0-50-amd64",
        banner=BANNER,
        needs=SETUP_SIZE + CODE_SIZE,
        protocol=0x020F,
        xloadflags=0x7F,
        cmdline_size=2047,
        relocatable=True,
    )


def test_a_32_bit_bzimage_is_told_apart(fd: Open) -> None:
    assert kernel_image(fd(bzimage(xloadflags=0)), "k").arch == "i386"


def test_a_certificate_table_makes_an_image_signed(fd: Open) -> None:
    image = kernel_image(fd(bzimage(certificate=1472)), "k")
    assert image.signed
    assert image.needs == SETUP_SIZE + CODE_SIZE + 1472


@pytest.mark.parametrize("missing", [1, 2, 16, 1024, CODE_SIZE, CODE_SIZE + 1472, CODE_SIZE + 1472 + SETUP_SIZE - 600])
def test_every_cut_of_a_bzimage_is_found(fd: Open, missing: int) -> None:
    with pytest.raises(BadImage, match=f"truncated: {missing} bytes are missing"):
        kernel_image(fd(bzimage(certificate=1472)[:-missing]), "k")


def test_an_image_may_be_longer_than_it_has_to_be(fd: Open) -> None:
    assert kernel_image(fd(bzimage() + bytes(5000)), "k").kind is ImageKind.BZIMAGE


def test_a_protocol_that_does_not_tell_the_size_is_refused(fd: Open) -> None:
    with pytest.raises(BadImage, match=r"2\.03 is too old"):
        kernel_image(fd(bzimage(protocol=0x0203)), "k")


def test_a_version_that_points_into_nowhere_is_no_version(fd: Open) -> None:
    image = bytearray(bzimage())
    pack_into("<H", image, 0x20E, 0xFFFF)
    assert kernel_image(fd(bytes(image)), "k").version == ""


def test_a_unified_kernel_image_is_recognised_with_its_version(fd: Open) -> None:
    image = kernel_image(fd(uki()), "k")
    assert (image.kind, image.arch, image.version) == (ImageKind.UKI, "x86_64", "6.12.9-gentoo-dist")
    assert image.kind.is_wrapped


def test_a_cut_unified_kernel_image_is_found(fd: Open) -> None:
    with pytest.raises(BadImage, match="truncated: 7 bytes"):
        kernel_image(fd(uki()[:-7]), "k")


def with_magic(at: int, magic: bytes) -> bytes:
    content = bytearray(4096)
    content[at : at + len(magic)] = magic
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "kind", "arch"),
    [
        (with_magic(56, b"ARM\x64"), ImageKind.IMAGE, "aarch64"),
        (with_magic(56, b"RSC\x05"), ImageKind.IMAGE, "riscv64"),
        (gzip.compress(b"kernel", mtime=0), ImageKind.GZIP, ""),
        (zboot(b"kernel"), ImageKind.ZBOOT, "aarch64"),
        (efi_image(0x6264), ImageKind.IMAGE, "loongarch64"),
        (b"\x02\x21\x4c\x18" + bytes(64), ImageKind.LZ4, ""),
        (b"\x28\xb5\x2f\xfd" + bytes(64), ImageKind.ZSTD, ""),
        (b"\xfd7zXZ\0" + bytes(64), ImageKind.XZ, ""),
        (with_magic(0, b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x3e\0"), ImageKind.ELF, "x86_64"),
        (with_magic(0, b"\x7fELF\2\2\1" + bytes(9) + b"\0\2\0\x16"), ImageKind.ELF, "s390x"),
    ],
)
def test_other_kinds_are_recognised(fd: Open, content: bytes, kind: ImageKind, arch: str) -> None:
    image = kernel_image(fd(content), "k")
    assert (image.kind, image.arch) == (kind, arch)


def test_a_cut_zboot_image_is_found(fd: Open) -> None:
    with pytest.raises(BadImage, match="truncated: 3 bytes"):
        kernel_image(fd(zboot(b"kernel")[:-3]), "k")


def test_an_elf_file_that_lost_its_section_headers_is_truncated(fd: Open) -> None:
    with open("/proc/self/exe", "rb") as file:
        whole = file.read()
    assert kernel_image(fd(whole), "k").kind is ImageKind.ELF
    with pytest.raises(BadImage, match="truncated: 1 bytes"):
        kernel_image(fd(whole[: kernel_image(fd(whole), "k").needs - 1]), "k")


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", bytes(8192), b"MZ", b"x" * 600, b"\x7fELF"])
def test_what_is_no_kernel_is_refused_with_how_it_begins(fd: Open, content: bytes) -> None:
    with pytest.raises(BadImage, match="it is not a kernel image, it begins with"):
        kernel_image(fd(content), "k")


def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge"
    path.write_bytes(bzimage(certificate=1472))
    os.truncate(path, 10 << 30)
    read, pread = [], os.pread

    def counting(fd: int, count: int, offset: int) -> bytes:
        read.append(count)
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", counting)
    with open(path, "rb") as file:
        assert kernel_image(file.fileno(), "k").signed
    assert sum(read) < 65536


MUTATIONS = st.lists(st.tuples(st.integers(0, 1023), st.binary(min_size=1, max_size=8)), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from([bzimage(), bzimage(certificate=64), uki(), bytes(2000)]), MUTATIONS, st.integers(0, 14000))
def test_any_bytes_are_an_image_or_a_refusal(
    tmp_path: Path, seed: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    content = bytearray(seed)
    for at, change in changes:
        content[at : at + len(change)] = change
    path = tmp_path / "k"
    path.write_bytes(bytes(content[: len(content) - cut]))
    with open(path, "rb") as file, suppress(Refusal):
        kernel_image(file.fileno(), "k")
