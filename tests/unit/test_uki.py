# SPDX-License-Identifier: MIT
import os
from pathlib import Path
from struct import pack, pack_into

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kexecd.discover import uki
from kexecd.errors import BadImage
from kexecd.kernel.uki import UkiParts, sections

OSREL = b'ID=debian\nPRETTY_NAME="Debian 13"\nVERSION_ID="13"\n'
PLAIN = [
    (b".osrel", OSREL),
    (b".cmdline", b"root=/dev/a\nquiet \0"),
    (b".uname", b"6.12.43"),
    (b".initrd", b"initrd"),
    (b".ucode", b"ucode"),
    (b".linux", b"kernel"),
]


def image(parts: list[tuple[bytes, bytes]], *, machine: int = 0x8664, certificate: int = 0) -> bytes:
    """A PE file with these sections in this order; each is stored in units of 512 bytes."""
    table, data, offset = b"", b"", 4096
    for name, content in parts:
        stored = -(-len(content) // 512) * 512
        table += pack("<8sIIII16x", name, len(content), offset, stored, offset + len(data))
        data += content.ljust(stored, b"\xee")
    optional = bytearray(112 + 16 * 8)
    pack_into("<H", optional, 0, 0x20B)
    pack_into("<I", optional, 108, 16)
    if certificate:
        pack_into("<II", optional, 112 + 4 * 8, offset + len(data), certificate)
    coff = b"PE\0\0" + pack("<HHIIIHH", machine, len(parts), 0, 0, 0, len(optional), 0x22E)
    head = b"MZ".ljust(0x3C, b"\0") + pack("<I", 0x40) + coff + bytes(optional) + table
    return head.ljust(offset, b"\0") + data + bytes(certificate)


def take(content: bytes, profile: int = 0) -> tuple[UkiParts, list[bytes]]:
    """The parts, and what .linux and the initrds hold."""
    fd = os.memfd_create("image")
    try:
        os.write(fd, content)
        parts = sections(fd, "/x.efi", profile)
        return parts, [os.pread(fd, part.size, part.offset) for part in (parts.linux, *parts.initrds)]
    finally:
        os.close(fd)


def put(root: Path, name: str, content: bytes) -> None:
    place = root / "efi/EFI/Linux" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def test_the_parts_are_where_they_are_without_their_padding() -> None:
    parts, contents = take(image(PLAIN))
    assert contents == [b"kernel", b"ucode", b"initrd"]  # microcode is for the kernel to see first
    assert (parts.arch, parts.signed, parts.cmdline, parts.uname) == ("x86_64", False, "root=/dev/a quiet", "6.12.43")


def test_an_image_may_bring_no_command_line_and_no_initrd() -> None:
    parts, contents = take(image([(b".linux", b"kernel"), (b".initrd", b"")]))
    assert (parts.cmdline, contents) == (None, [b"kernel"])


def test_a_signed_image_says_so() -> None:
    assert take(image(PLAIN, certificate=64))[0].signed


def test_a_profile_replaces_what_it_brings_itself() -> None:
    parts = [
        *PLAIN,
        *[(b".profile", b"ID=main"), (b".cmdline", b"main")],
        *[(b".profile", b"ID=reset"), (b".cmdline", b"reset"), (b".initrd", b"other")],
    ]
    first, contents = take(image(parts))
    assert (first.cmdline, first.profiles, contents[1:]) == ("main", ("ID=main", "ID=reset"), [b"ucode", b"initrd"])
    second, contents = take(image(parts), 1)
    assert (second.cmdline, contents) == ("reset", [b"kernel", b"ucode", b"other"])
    with pytest.raises(BadImage, match="it has no profile 2"):
        take(image(parts), 2)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is no EFI executable"),
        (b"MZ" + bytes(200), "it is no EFI executable"),
        (image([(b".cmdline", b"x")]), "it has no .linux section"),
        (image([(b".linux", b"")]), "it has no .linux section"),
        (image(PLAIN)[:-600], "the file is truncated: 600 bytes are missing"),
        (image([*PLAIN[1:], (b".osrel", bytes(70000))]), "its section .osrel has 70000 bytes"),
    ],
)
def test_what_is_no_whole_image_says_why(content: bytes, why: str) -> None:
    with pytest.raises(BadImage, match=why):
        take(content)


def test_an_image_is_an_entry(tmp_path: Path) -> None:
    put(tmp_path, "debian-6.12.43+2-1.efi", image(PLAIN))
    (entry,) = uki.entries(str(tmp_path), machine="x86_64")
    assert (entry.id, entry.title, entry.version) == ("debian-6.12.43.efi", "Debian 13", "6.12.43")
    assert (entry.kernel, entry.initrds) == ("/efi/EFI/Linux/debian-6.12.43+2-1.efi", ())
    assert (entry.cmdline, entry.problems, entry.remarks) == ("root=/dev/a quiet", (), ())


def test_the_newest_system_comes_first_and_one_out_of_tries_last(tmp_path: Path) -> None:
    for name, version in (("a", "9"), ("b", "12"), ("c+0-1", "13")):
        osrel = f"ID=x\nNAME=X\nIMAGE_VERSION={version}\nVERSION_ID=1\n".encode()
        put(tmp_path, f"{name}.efi", image([(b".osrel", osrel), (b".linux", b"k")]))
    found = uki.entries(str(tmp_path))
    assert [(entry.id, entry.problems) for entry in found] == [
        ("b.efi", ()),
        ("a.efi", ()),
        ("c.efi", ("its boot counter has run out",)),
    ]


def test_an_image_for_another_machine_says_so(tmp_path: Path) -> None:
    put(tmp_path, "a.efi", image(PLAIN, machine=0xAA64))
    assert uki.entries(str(tmp_path), machine="x86_64")[0].problems == ("it is for aarch64, this machine is x86_64",)
    assert uki.entries(str(tmp_path), machine="aarch64")[0].problems == ()


def test_what_only_the_stub_would_pass_on_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a+3.efi", image([*PLAIN[1:], (b".dtb", b"tree")]))
    put(tmp_path, "a.efi.extra.d/b.addon.efi", b"x")
    put(tmp_path, "a+3.efi.extra.d/c.cred", b"x")
    put(tmp_path, "../../loader/addons/d.addon.efi", b"x")
    assert uki.entries(str(tmp_path))[0].remarks == (
        "systemd-boot does not show it, because its .osrel section does not name a system",
        "it brings a device tree, which kexec does not pass on",
        "the boot loader would pass on c.cred, b.addon.efi, d.addon.efi, kexec does not",
    )


def test_profiles_are_entries_that_cannot_be_taken(tmp_path: Path) -> None:
    put(tmp_path, "a.efi", image([*PLAIN, (b".profile", b""), (b".profile", b"TITLE=Two"), (b".cmdline", b"two")]))
    found = uki.entries(str(tmp_path))
    assert [(entry.id, entry.title, entry.cmdline, len(entry.problems)) for entry in found] == [
        ("a.efi", "Debian 13", "root=/dev/a quiet", 0),
        ("a.efi@1", "Debian 13 (Two)", "two", 1),
    ]


def test_files_that_are_none_are_entries_with_a_problem(tmp_path: Path) -> None:
    put(tmp_path, "huge.efi", b"MZ")
    folder = tmp_path / "efi/EFI/Linux"
    os.truncate(folder / "huge.efi", 10 << 30)
    os.mkfifo(folder / "fifo.efi")
    (folder / "folder.efi").mkdir()
    (folder / "loop.efi").symlink_to("loop.efi")
    (folder / "empty.efi").touch()
    (folder / "gone.efi").symlink_to("nowhere")
    assert {entry.id: entry.problems for entry in uki.entries(str(tmp_path))} == {
        "huge.efi": ("it is no EFI executable",),
        "fifo.efi": ("it is a FIFO",),
        "folder.efi": ("it is a directory",),
        "loop.efi": ("too many levels of symbolic links",),
        "empty.efi": ("it is empty",),
        "gone.efi": ("there is no such file",),
    }


WHOLE = image([*PLAIN, (b".profile", b"ID=a"), (b".profile", b"ID=b")])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=6),
    st.one_of(st.none(), st.integers(0, len(WHOLE))),
)
def test_any_damage_is_a_problem_or_none(tmp_path: Path, damage: list[tuple[int, int]], end: int | None) -> None:
    content = bytearray(WHOLE)
    for at, byte in damage:
        content[at] = byte
    put(tmp_path, "a.efi", bytes(content[:end]))
    for entry in uki.entries(str(tmp_path), machine="x86_64"):
        assert entry.problems or entry.cmdline is not None
