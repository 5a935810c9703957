# SPDX-License-Identifier: MIT
"""Kernels that are wrapped, and what comes out of them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kexecd.errors import BadImage, Refusal, Unsupported
from kexecd.kernel import unwrap
from kexecd.kernel.files import open_regular
from kexecd.kernel.image import ImageKind, kernel_image
from kexecd.kernel.unwrap import Unwrapped, unwrapped
from kexecd.model import OpenFile
from tests.unit.images import arm64_image, bzimage, pe, zboot
from tests.unit.initrds import early, lz4, tree, zstd

KERNEL = bzimage("6.12.9-dist (a@b) #1")
Unwrap = Callable[[bytes], Unwrapped]


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Unwrap]:
    """Unwraps a file with the content given; whatever is open then is closed at the end, and is all that is open."""
    done: list[Unwrapped] = []
    before = len(os.listdir("/proc/self/fd"))

    def taken(content: bytes) -> Unwrapped:
        path = tmp_path / "kernel"
        path.write_bytes(content)
        file = open_regular(str(path), "kernel")
        try:
            done.append(unwrapped(file, kernel_image(file.fd, "/boot/kernel")))
        finally:
            os.close(file.fd)
        return done[-1]

    yield taken
    for found in done:
        for file in (found.kernel, *found.initrds):
            os.close(file.fd)
    assert len(os.listdir("/proc/self/fd")) == before


def content(file: OpenFile) -> bytes:
    assert os.fstat(file.fd).st_size == file.size
    return os.pread(file.fd, file.size + 1, 0)


def test_a_unified_kernel_image_comes_apart_without_its_padding(take: Unwrap) -> None:
    initrd = tree()[:777]
    found = take(pe(linux=KERNEL, initrd=initrd, cmdline=b"root=/dev/vda1\tquiet\n\0\0", ucode=early(), dtb=b"x"))
    assert content(found.kernel) == KERNEL
    assert [content(file) for file in found.initrds] == [early(), initrd]
    assert found.cmdline == "root=/dev/vda1 quiet"
    assert (found.image.kind, found.image.version) == (ImageKind.BZIMAGE, "6.12.9-dist")


def test_each_part_is_called_by_its_section(take: Unwrap, tmp_path: Path) -> None:
    found = take(pe(linux=KERNEL, initrd=b"070701"))
    assert [file.path for file in (found.kernel, *found.initrds)] == [
        f"{tmp_path}/kernel (.linux)",
        f"{tmp_path}/kernel (.initrd)",
    ]


def test_one_without_anything_else_brings_only_a_kernel(take: Unwrap) -> None:
    found = take(pe(linux=KERNEL))
    assert (found.initrds, found.cmdline) == ((), None)


def test_the_first_profile_is_taken(take: Unwrap) -> None:
    found = take(
        pe(linux=KERNEL, cmdline=b"base", profile=b"ID=a", cmdline2=b"first", profile3=b"ID=b", cmdline4=b"second")
    )
    assert found.cmdline == "first"


def test_the_version_of_the_wrapping_serves_a_kernel_that_says_none(take: Unwrap) -> None:
    found = take(pe(uname=b"6.12.9-arm\n", linux=arm64_image()))
    assert (found.image.kind, found.image.arch, found.image.version) == (ImageKind.IMAGE, "aarch64", "6.12.9-arm")


def test_what_comes_out_can_no_longer_be_changed(take: Unwrap) -> None:
    found = take(pe(linux=KERNEL))
    with pytest.raises(PermissionError):
        os.pwrite(found.kernel.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(found.kernel.fd, 5)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstd,
    "lz4": lz4,
    "lzo": lambda data: subprocess.run(["lzop", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout,
}


@pytest.mark.parametrize("kind", PACKERS)
def test_a_compressed_kernel_is_unpacked(take: Unwrap, kind: str) -> None:
    found = take(PACKERS[kind](arm64_image(100_000)))
    assert content(found.kernel) == arm64_image(100_000)
    assert found.image.arch == "aarch64"


@pytest.mark.parametrize("kind", PACKERS)
def test_the_payload_of_a_zboot_image_is_unpacked(take: Unwrap, kind: str) -> None:
    # All but gzip have the size behind the payload, outside of what the header counts.
    found = take(zboot(PACKERS[kind](arm64_image(100_000))) + b"\1\2\3\4")
    assert content(found.kernel) == arm64_image(100_000)


def test_a_zboot_image_in_a_unified_kernel_image_is_unwrapped_twice(take: Unwrap, tmp_path: Path) -> None:
    found = take(pe(linux=zboot(gzip.compress(arm64_image())), cmdline=b"quiet"))
    assert content(found.kernel) == arm64_image()
    assert found.kernel.path == f"{tmp_path}/kernel (.linux) (unpacked)"
    assert found.cmdline == "quiet"


def test_russian_dolls_have_an_end(take: Unwrap) -> None:
    dolls = arm64_image()
    for _ in range(5):
        dolls = gzip.compress(dolls)
    with pytest.raises(BadImage, match="still wrapped after unwrapping it 3 times"):
        take(dolls)


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd", "bzip2"])
def test_a_cut_one_is_truncated(take: Unwrap, kind: str) -> None:
    packed = PACKERS[kind](arm64_image())
    with pytest.raises(BadImage, match="the file is truncated: "):
        take(packed[:-9])


def test_a_damaged_one_is_told_apart(take: Unwrap) -> None:
    packed = bytearray(gzip.compress(arm64_image()))
    packed[-6] ^= 1
    with pytest.raises(BadImage, match="its gzip stream is damaged"):
        take(bytes(packed))


def test_what_is_no_kernel_after_all_is_refused(take: Unwrap) -> None:
    with pytest.raises(BadImage, match=r"kernel \(unpacked\): it is not a kernel image, it begins with 68 65"):
        take(gzip.compress(b"hello"))
    with pytest.raises(BadImage, match=r"kernel \(\.linux\): it is not a kernel image"):
        take(pe(linux=b"hello"))
    with pytest.raises(BadImage, match="how its payload is compressed is not known, it says 'brotli'"):
        take(zboot(b"hello", kind=b"brotli"))


def test_a_cut_kernel_inside_is_found(take: Unwrap) -> None:
    with pytest.raises(BadImage, match=r"kernel \(\.linux\): the file is truncated: 600 bytes are missing"):
        take(pe(linux=KERNEL[:-600]))


def test_a_bomb_is_stopped(take: Unwrap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwrap, "MOST", 1 << 20)
    with pytest.raises(BadImage, match="it unpacks to more than 1 MiB"):
        take(gzip.compress(bytes(1 << 26)))
    with pytest.raises(BadImage, match=r"its section \.linux has more than 1 MiB"):
        take(pe(linux=bytes(1 << 21)))


def test_a_program_that_is_not_installed_is_named_with_its_package(
    take: Unwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kexecd.kernel.spawn.ENVIRONMENT", {"PATH": "/nowhere"})
    with pytest.raises(Unsupported, match="unpacking lz4 takes the program lz4, which is not installed") as refused:
        take(lz4(arm64_image()))
    assert refused.value.hint == "install the package lz4"


def test_one_that_changes_meanwhile_is_refused(take: Unwrap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sealed = unwrap._sealed

    def slow(memory: int, path: str) -> OpenFile:
        os.utime(tmp_path / "kernel", (1, 1))
        return sealed(memory, path)

    monkeypatch.setattr(unwrap, "_sealed", slow)
    with pytest.raises(BadImage, match="it changed while it was read"):
        take(pe(linux=KERNEL))


PACKED = gzip.compress(arm64_image(), mtime=0)
SEEDS = [pe(linux=KERNEL, cmdline=b"x"), zboot(PACKED), PACKED]
SEEDS += [lzma.compress(arm64_image()), bz2.compress(arm64_image()), pe(linux=zboot(lzma.compress(arm64_image())))]
MUTATIONS = st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=8)), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(SEEDS), MUTATIONS, st.integers(0, 3000))
def test_any_bytes_are_unwrapped_or_refused_and_leave_nothing_open(
    tmp_path: Path, seed: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    changed = bytearray(seed)
    for at, change in changes:
        changed[at : at + len(change)] = change
    path = tmp_path / "k"
    path.write_bytes(bytes(changed[: max(1, len(changed) - cut)]))
    before = len(os.listdir("/proc/self/fd"))
    file = open_regular(str(path), "kernel")
    with suppress(Refusal):
        image = kernel_image(file.fd, "k")
        if image.kind.is_wrapped:
            found = unwrapped(file, image)
            for inner in (found.kernel, *found.initrds):
                os.close(inner.fd)
    os.close(file.fd)
    assert len(os.listdir("/proc/self/fd")) == before
