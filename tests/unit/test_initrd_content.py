# SPDX-License-Identifier: MIT
"""What is in an initrd, and every cut of one."""

from __future__ import annotations

import bz2
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from struct import pack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kexecd.errors import BadImage, Refusal
from kexecd.kernel import compression, decompress
from kexecd.kernel.decompress import Budget
from kexecd.kernel.files import open_regular
from kexecd.kernel.initrd import InitrdContent, InitrdKind, foreign_modules, in_order, initrd_kind, inspect
from tests.unit.initrds import MICROCODE, VERSION, early, gzip, lz4, newc, tree, xz, zstd

Inspect = Callable[..., InitrdContent]


@pytest.fixture
def look() -> Iterator[Inspect]:
    """Inspects a file with the content given."""

    def inspected(content: bytes, *, deep: bool = False, version: str = VERSION) -> InitrdContent:
        fd = os.memfd_create("initrd")
        try:
            os.write(fd, content)
            return inspect(fd, "/boot/initrd", version=version, deep=deep)
        finally:
            os.close(fd)

    before = len(os.listdir("/proc/self/fd"))
    yield inspected
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"070701000002D1", InitrdKind.CPIO),
        (b"070702000002D1", InitrdKind.CPIO),
        (b"\x1f\x8b\x08", InitrdKind.GZIP),
        (b"BZh9", InitrdKind.BZIP2),
        (b"\x5d\0\0\0\4", InitrdKind.LZMA),
        (b"\xfd7zXZ\0\0", InitrdKind.XZ),
        (b"\x89LZO\0\r\n\x1a\n", InitrdKind.LZO),
        (b"\x02\x21\x4c\x18", InitrdKind.LZ4),
        (b"\x28\xb5\x2f\xfd", InitrdKind.ZSTD),
        (b"070707", None),
    ],
)
def test_an_initrd_is_known_by_its_magic(head: bytes, kind: InitrdKind | None) -> None:
    assert initrd_kind(head) is kind


@pytest.mark.parametrize("content", [bytes(4096), b"MZ" + bytes(100), b"hello", b"0707", b""])
def test_what_is_no_initrd_is_refused(look: Inspect, content: bytes) -> None:
    with pytest.raises(BadImage, match="/boot/initrd as initrd: it is not an initrd, it begins with"):
        look(content)


# Whole ones, as they are made


MAIN = {
    "cpio": tree(),
    "gzip": gzip(tree()),
    "bzip2": bz2.compress(tree()),
    "xz": xz(tree()),
    "lzma": lzma.compress(tree(), lzma.FORMAT_ALONE),
    "zstd": zstd(tree()),
    "lz4": lz4(tree()),
}


@pytest.mark.parametrize("before", [b"", early()], ids=["alone", "behind microcode"])
@pytest.mark.parametrize("kind", MAIN)
def test_a_whole_one_has_no_problem(look: Inspect, kind: str, before: bytes) -> None:
    for padding in (0, 3, 512):
        content = look(before + MAIN[kind] + bytes(padding))
        assert (content.problem, content.remarks, content.early) == ("", (), False)
        assert [part.kind.value for part in content.parts] == ["cpio", kind][-len(content.parts) :]
        assert content.parts[-1].offset == len(before)


@pytest.mark.parametrize("kind", MAIN)
def test_the_modules_in_it_are_found(look: Inspect, kind: str) -> None:
    content = look(early() + MAIN[kind], deep=True)
    assert (content.module_versions, content.problem, content.remarks) == ((VERSION,), "", ())


@pytest.mark.parametrize(
    "name", ["lib/modules/{}/", "./lib/modules/{}/a.ko", "/usr/lib/modules/{}/", "usr/lib/modules/{}/k/a.ko"]
)
def test_modules_are_found_wherever_they_are_kept(look: Inspect, name: str) -> None:
    assert look(newc(name.format("6.1"))).module_versions == ("6.1",)


@pytest.mark.parametrize("name", ["lib/modules/6.1", "usr/share/lib/modules/6.1/", "lib/modules/"])
def test_what_only_looks_like_modules_is_none(look: Inspect, name: str) -> None:
    assert look(newc(name)).module_versions == ()


def test_an_archive_that_is_joined_behind_a_compressed_one_is_seen(look: Inspect) -> None:
    for main in (xz(tree("5.10")), zstd(tree("5.10")), gzip(tree("5.10"))):
        content = look(main + bytes(-len(main) % 4) + newc("lib/modules/6.1/"), deep=main != zstd(tree("5.10")))
        assert content.module_versions[-1] == "6.1"
        assert not content.problem


def test_bytes_behind_the_archives_are_only_remarked(look: Inspect) -> None:
    content = look(tree() + b"garbage")
    assert content.remarks == ("its last 7 bytes are no archive, the kernel passes over them",)
    assert not content.problem


def test_a_boot_configuration_belongs_there(look: Inspect) -> None:
    configuration = b"kernel.x = 1\n\0\0\0\0"
    tail = configuration + pack("<II", len(configuration), 0) + b"#BOOTCONFIG\n"
    for main in (tree(), xz(tree()), zstd(tree()), lz4(tree())):
        content = look(main + tail)
        assert (content.problem, content.remarks) == ("", ())


def test_a_frame_that_carries_no_data_is_passed_over(look: Inspect) -> None:
    first = zstd(tree())
    filler = bytes(4 + -len(first) % 4)  # so that the archive behind it begins at a multiple of four
    content = look(first + pack("<II", 0x184D2A50, len(filler)) + filler + tree())
    assert [part.kind for part in content.parts] == [InitrdKind.ZSTD, InitrdKind.CPIO]


# Cuts


@pytest.mark.parametrize("kind", ["cpio", "xz", "zstd"])
def test_every_cut_is_found_by_the_headers_alone(look: Inspect, kind: str) -> None:
    whole = early() + MAIN[kind].rstrip(b"\0")
    for end in range(len(early()) + 16, len(whole)):
        content = look(whole[:end])
        assert content.truncated and content.problem.startswith("the file is truncated: "), end


def test_a_cut_in_the_early_part_is_found(look: Inspect) -> None:
    whole = early().rstrip(b"\0")
    for end in range(6, len(whole) - 4):
        assert look(whole[:end]).truncated, end


def test_a_cut_of_lz4_is_found_but_between_two_blocks(look: Inspect) -> None:
    ends = set(_lz4_ends(MAIN["lz4"]))
    for end in range(4, len(MAIN["lz4"])):
        assert look(MAIN["lz4"][:end]).truncated == (end not in ends), end


def _lz4_ends(content: bytes) -> Iterator[int]:
    at = 4
    yield at
    while at < len(content):
        at += 4 + int.from_bytes(content[at : at + 4], "little")
        yield at


def test_a_cut_of_lz4_between_two_blocks_is_found_by_unpacking(look: Inspect) -> None:
    first = list(_lz4_ends(MAIN["lz4"]))[1]
    content = look(MAIN["lz4"][:first], deep=True, version="other")
    assert content.truncated


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "lzma"])
def test_a_cut_of_what_does_not_tell_its_size_is_found_by_unpacking(look: Inspect, kind: str) -> None:
    whole = MAIN[kind]
    for end in range(16, len(whole)):
        assert look(whole[:end], deep=True).truncated, end


def test_what_was_cut_before_it_was_packed_is_found_by_unpacking(look: Inspect) -> None:
    content = look(gzip(tree()[:700]), deep=True)
    assert content.truncated and "its cpio archive lacks at least" in content.problem


def test_damage_is_told_apart_from_a_cut(look: Inspect) -> None:
    damaged = bytearray(gzip(tree()))
    damaged[-6] ^= 1
    content = look(bytes(damaged), deep=True)
    assert content.problem.startswith("its gzip stream is damaged: ") and not content.truncated
    content = look(newc("a", "b").replace(b"070701", b"070707").replace(b"070707", b"070701", 1))
    assert content.problem.startswith("its cpio archive is damaged ")


def test_an_old_ram_disk_is_no_archive_and_is_left_alone(look: Inspect) -> None:
    content = look(gzip(b"ext2" * 1000), deep=True)
    assert not content.problem
    assert content.remarks == ("what is packed in it is no cpio archive",)


# How long it may take


def test_looking_into_it_is_given_up_when_it_takes_too_long(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(gzip(newc("big", size=1 << 24) + tree()))
    with open(tmp_path / "initrd", "rb") as file:
        content = inspect(file.fileno(), "i", deep=True, budget=Budget(0.001, 10))
    assert not content.problem and not content.complete
    assert content.remarks == ("nobody knows for which kernel it is: looking into it takes too long",)


def test_a_helper_that_is_not_installed_is_named(look: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kexecd.kernel.spawn.ENVIRONMENT", {"PATH": "/nowhere"})
    content = look(lz4(tree()), deep=True)
    assert not content.problem
    assert "takes the program lz4, which is not installed" in content.remarks[0]


def test_only_headers_are_read_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(newc("big", size=1 << 24) + zstd(bytes(1 << 24), block=1 << 17))
    read, pread = [], os.pread

    def counting(fd: int, count: int, offset: int) -> bytes:
        read.append(count)
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", counting)
    with open(path, "rb") as file:
        assert not inspect(file.fileno(), "i").problem
    assert sum(read) < 1 << 18


def test_the_program_stops_when_nobody_reads_on(look: Inspect) -> None:
    before = _children()
    content = look(zstd(tree() + newc("big", size=1 << 24), block=1 << 17), deep=True)
    assert content.module_versions == (VERSION,)
    assert _children() <= before


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


class FakeDecoder:
    """As compression.zstd's: here for blocks that are not compressed."""

    def __init__(self) -> None:
        self.eof, self.needs_input, self.unused_data = False, True, b""
        self._data = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._data += data
        plain, at, last = b"", 6, 0
        while not last and at < len(self._data):
            head = int.from_bytes(self._data[at : at + 3], "little")
            last, size = head & 1, head >> 3
            plain += self._data[at + 3 : at + 3 + size]
            at += 3 + size
        self.eof = True
        return plain


def test_pythons_own_zstd_is_preferred_to_the_program(look: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        ZstdDecompressor = FakeDecoder

    def imported(name: str) -> object:
        if name == "compression.zstd":
            return Module
        raise ImportError

    monkeypatch.setattr(decompress, "import_module", imported)
    monkeypatch.setattr("kexecd.kernel.spawn.start", None)
    assert look(zstd(tree()), deep=True).module_versions == (VERSION,)


# Several of them


def test_only_what_has_to_come_first_is_early(look: Inspect) -> None:
    assert look(early()).early
    assert look(newc(".", "early_cpio", MICROCODE)).early
    assert look(newc("kernel/firmware/acpi/dsdt.aml")).early
    assert not look(newc(MICROCODE, "init")).early
    assert not look(early() + zstd(tree())).early


def test_they_are_put_in_order_and_otherwise_left_in_theirs(tmp_path: Path) -> None:
    contents = {"a": tree(), "ucode": early(), "b": zstd(tree()), "acpi": newc("kernel/firmware/acpi/x.aml")}
    pairs = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        file = open_regular(str(tmp_path / name), "initrd")
        pairs.append((file, inspect(file.fd, name)))
    names = [os.path.basename(file.path) for file in in_order(pairs)]
    for file, _ in pairs:
        os.close(file.fd)
    assert names == ["ucode", "acpi", "a", "b"]


def test_the_modules_of_all_of_them_count(look: Inspect) -> None:
    ours, theirs, none = look(newc("lib/modules/6.1/")), look(newc("lib/modules/5.10/")), look(early())
    assert foreign_modules([theirs, none], "6.1") == "it has the modules of 5.10, and the kernel is 6.1"
    assert foreign_modules([theirs, ours], "6.1") == ""
    assert foreign_modules([none], "6.1") == ""
    assert foreign_modules([theirs], "") == ""
    assert foreign_modules([theirs, look(zstd(tree()))], "6.1") == ""  # nobody has looked into the second


# Anything at all


SEEDS = [tree(), early() + zstd(tree(), checksum=True), xz(tree()), lz4(tree()), gzip(tree()), bz2.compress(tree())]
SEEDS += [early() + bytes(3), lzma.compress(tree(), lzma.FORMAT_ALONE), zstd(b""), b"\x28\xb5\x2f\xfd", b"070701"]
MUTATIONS = st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.sampled_from(SEEDS), MUTATIONS, st.integers(0, 600), st.binary(max_size=40))
def test_any_bytes_are_an_initrd_with_or_without_problems_or_a_refusal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: bytes,
    changes: list[tuple[int, bytes]],
    cut: int,
    more: bytes,
) -> None:
    monkeypatch.setattr(decompress, "PROGRAMS", dict.fromkeys(compression.Compression, "no-such-program"))
    content = bytearray(seed)
    for at, change in changes:
        content[at : at + len(change)] = change
    path = tmp_path / "i"
    path.write_bytes(bytes(content[: max(0, len(content) - cut)]) + more)
    with open(path, "rb") as file, suppress(Refusal):
        inspect(file.fileno(), "i", deep=True, budget=Budget(2, 2))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200), st.sampled_from(list(compression.MAGICS)))
def test_any_bytes_behind_a_magic_are_taken_or_damaged(tmp_path: Path, content: bytes, magic: bytes) -> None:
    path = tmp_path / "i"
    path.write_bytes(magic + content)
    with open(path, "rb") as file, suppress(compression.Damaged):
        kind = compression.compression(magic)
        assert kind is not None
        assert 0 <= compression.stream_end(file.fileno(), kind, 0, len(magic + content)) <= len(magic + content)
