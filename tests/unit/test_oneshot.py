# SPDX-License-Identifier: MIT
"""What a boot loader was told to boot once is taken away when a kexec has booted it, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.discover.grub import grubenv
from kexecd.wayback import oneshot

EFI = "sys/firmware/efi/efivars/{}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


def block(*lines: str) -> bytes:
    """An environment block as grub-editenv makes it."""
    text = ("# GRUB Environment Block\n" + "".join(f"{line}\n" for line in lines)).encode()
    return text + b"#" * (1024 - len(text))


def put(root: Path, path: str, data: bytes) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def variable(root: Path, name: str, text: str) -> Path:
    return put(root, EFI.format(name), b"\7\0\0\0" + text.encode("utf-16-le") + b"\0\0")


def test_of_systemd_boot_only_the_choice_for_one_boot_is_removed(tmp_path: Path) -> None:
    once, always = (variable(tmp_path, f"LoaderEntry{name}", "new.conf") for name in ("OneShot", "Default"))
    assert oneshot.told(str(tmp_path)) == oneshot.SDBOOT
    assert oneshot.clear(oneshot.SDBOOT, str(tmp_path)) == ""
    assert not once.exists() and always.exists()
    assert oneshot.told(str(tmp_path)) == ""
    assert oneshot.clear(oneshot.SDBOOT, str(tmp_path)) == "", "once more does no harm"


@pytest.mark.parametrize("place", ["boot/grub/grubenv", "boot/grub2/grubenv"])
def test_of_grub_only_next_entry_goes_and_the_block_keeps_its_place_and_size(tmp_path: Path, place: str) -> None:
    file = put(tmp_path, place, block("saved_entry=old", "next_entry=Linux 6.12>new", "boot_success=1"))
    inode = file.stat().st_ino
    assert oneshot.told(str(tmp_path)) == oneshot.GRUB
    assert oneshot.clear(oneshot.GRUB, str(tmp_path)) == ""
    after = file.read_bytes()
    assert grubenv.parse(after.decode()) == {"saved_entry": "old", "boot_success": "1"}
    assert len(after) == 1024 and file.stat().st_ino == inode
    assert oneshot.told(str(tmp_path)) == ""


def test_a_block_without_it_is_not_written(tmp_path: Path) -> None:
    file = put(tmp_path, "boot/grub/grubenv", block("saved_entry=old", "next_entry="))
    file.chmod(0o400)
    before = file.stat().st_mtime_ns
    assert oneshot.clear(oneshot.GRUB, str(tmp_path)) == ""
    assert file.stat().st_mtime_ns == before


def test_a_choice_that_nobody_knows_is_told(tmp_path: Path) -> None:
    assert "nobody knows how to take away" in oneshot.clear("lilo -R", str(tmp_path))


def test_one_that_cannot_be_taken_away_is_told(tmp_path: Path) -> None:
    variable(tmp_path, "LoaderEntryOneShot", "new.conf")
    variables = (tmp_path / EFI.format("x")).parent
    file = variables / (EFI.format("LoaderEntryOneShot").rpartition("/")[2])
    file.unlink()
    file.mkdir()
    assert "could not be taken away" in oneshot.clear(oneshot.SDBOOT, str(tmp_path))
