# SPDX-License-Identifier: MIT
"""What a boot loader was told to boot once is taken away when a kexec has booted it, and nothing else is."""

from __future__ import annotations

import errno
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


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    put(tmp_path, "proc/sys/kernel/random/boot_id", b"11111111-1111-4111-8111-111111111111\n")
    (tmp_path / "state").mkdir()
    return tmp_path


def test_what_is_held_back_from_systemd_boot_is_put_back_to_the_last_byte(machine: Path) -> None:
    once = variable(machine, "LoaderEntryOneShot", "new.conf")
    before, state = once.read_bytes(), str(machine / "state")
    assert oneshot.hold(oneshot.SDBOOT, state, str(machine)) == ""
    assert not once.exists()
    assert oneshot.put_back(state, str(machine)) == ""
    assert once.read_bytes() == before
    assert oneshot.put_back(state, str(machine)) == "" and list((machine / "state").iterdir()) == []


def test_what_is_held_back_from_grub_is_put_back_as_grub_writes_it(machine: Path) -> None:
    file = put(machine, "boot/grub/grubenv", block("saved_entry=old", "next_entry=Linux \\\\ 6>new", "boot_success=1"))
    before, state = grubenv.parse(file.read_text()), str(machine / "state")
    assert oneshot.hold(oneshot.GRUB, state, str(machine)) == ""
    assert oneshot.told(str(machine)) == ""
    assert oneshot.put_back(state, str(machine)) == ""
    assert grubenv.parse(file.read_text()) == before and len(file.read_bytes()) == 1024


def test_what_somebody_has_told_the_loader_since_stays(machine: Path) -> None:
    variable(machine, "LoaderEntryOneShot", "new.conf")
    state = str(machine / "state")
    oneshot.hold(oneshot.SDBOOT, state, str(machine))
    later = variable(machine, "LoaderEntryOneShot", "later.conf")
    before = later.read_bytes()
    assert oneshot.put_back(state, str(machine)) == ""
    assert later.read_bytes() == before


def test_what_another_boot_has_held_back_is_not_put_back(machine: Path) -> None:
    once, state = variable(machine, "LoaderEntryOneShot", "new.conf"), str(machine / "state")
    oneshot.hold(oneshot.SDBOOT, state, str(machine))
    put(machine, "proc/sys/kernel/random/boot_id", b"22222222-2222-4222-8222-222222222222\n")
    assert oneshot.put_back(state, str(machine)) == ""
    assert not once.exists() and list((machine / "state").iterdir()) == []


def test_what_cannot_be_written_down_stays_where_it_is(machine: Path) -> None:
    once = variable(machine, "LoaderEntryOneShot", "new.conf")
    assert "stays" in oneshot.hold(oneshot.SDBOOT, str(machine / "proc/sys/kernel/random/boot_id"), str(machine))
    assert once.exists()


@pytest.mark.parametrize("damage", ["", "[]", "{}", "7", "{", "[" * 10000])
def test_a_damaged_record_of_it_is_told(machine: Path, damage: str) -> None:
    (machine / "state" / "one-shot.json").write_text(damage)
    assert "damaged" in oneshot.put_back(str(machine / "state"), str(machine))
    assert oneshot.put_back(str(machine / "state"), str(machine)) == "", "once is enough"


NEW_BOOT = b"22222222-2222-4222-8222-222222222222\n"
OLD_BOOT = "11111111-1111-4111-8111-111111111111"


def held_in_vain(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The old boot could not take it away; then the jump led here."""
    file = put(machine, "boot/grub/grubenv", block("saved_entry=old", "next_entry=new"))
    with monkeypatch.context() as patch:

        def broken(*_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        patch.setattr(oneshot, "_rewrite", broken)
        assert "could not be taken away" in oneshot.hold(oneshot.GRUB, str(machine / "state"), str(machine))
    put(machine, "proc/sys/kernel/random/boot_id", NEW_BOOT)
    return file


def test_what_the_old_boot_could_not_take_away_is_taken_away_in_the_new_one(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = held_in_vain(machine, monkeypatch)
    assert oneshot.clear_left(OLD_BOOT, str(machine / "state"), str(machine)) == ""
    assert grubenv.parse(file.read_text()) == {"saved_entry": "old"}
    assert oneshot.clear_left(OLD_BOOT, str(machine / "state"), str(machine)) == "", "once more does no harm"


def test_but_not_what_somebody_has_told_the_loader_instead(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = held_in_vain(machine, monkeypatch)
    file.write_bytes(block("saved_entry=old", "next_entry=later"))
    assert oneshot.clear_left(OLD_BOOT, str(machine / "state"), str(machine)) == ""
    assert b"next_entry=later" in file.read_bytes()


def test_nor_what_another_restart_has_left(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = held_in_vain(machine, monkeypatch)
    assert oneshot.clear_left("another-boot", str(machine / "state"), str(machine)) == ""
    assert b"next_entry=new" in file.read_bytes()


@pytest.mark.parametrize("again", ["new", "later"])
def test_what_somebody_tells_the_loader_after_the_jump_stays(machine: Path, again: str) -> None:
    file = put(machine, "boot/grub/grubenv", block("saved_entry=old", "next_entry=new"))
    assert oneshot.hold(oneshot.GRUB, str(machine / "state"), str(machine)) == ""
    put(machine, "proc/sys/kernel/random/boot_id", NEW_BOOT)
    file.write_bytes(block("saved_entry=old", f"next_entry={again}"))
    assert oneshot.clear_left(OLD_BOOT, str(machine / "state"), str(machine)) == ""
    assert f"next_entry={again}".encode() in file.read_bytes()


def test_a_later_boot_says_once_what_was_used_up(machine: Path) -> None:
    state = str(machine / "state")
    assert oneshot.used_up(state, str(machine)) == "", "nothing was"
    put(machine, "boot/grub/grubenv", block("next_entry=Linux 6>new"))
    assert oneshot.hold(oneshot.GRUB, state, str(machine)) == ""
    assert oneshot.used_up(state, str(machine)) == "", "it may still be put back"
    put(machine, "proc/sys/kernel/random/boot_id", NEW_BOOT)
    assert oneshot.used_up(state, str(machine)) == "Linux 6>new"
    assert oneshot.used_up(state, str(machine)) == "" and list((machine / "state").iterdir()) == []


def test_of_systemd_boot_it_says_the_entry_and_nothing_where_somebody_has_told_it_again(machine: Path) -> None:
    state = str(machine / "state")
    for again, said in ((False, "new.conf"), (True, "")):
        put(machine, "proc/sys/kernel/random/boot_id", f"{OLD_BOOT}\n".encode())
        variable(machine, "LoaderEntryOneShot", "new.conf")
        assert oneshot.hold(oneshot.SDBOOT, state, str(machine)) == ""
        put(machine, "proc/sys/kernel/random/boot_id", NEW_BOOT)
        if again:
            variable(machine, "LoaderEntryOneShot", "later.conf")
        assert oneshot.used_up(state, str(machine)) == said


@pytest.mark.parametrize("damage", ["", "[]", "{}", "7", "{", '{"boot_id": "x", "name": 7, "place": "", "value": ""}'])
def test_a_damaged_record_of_it_says_nothing_and_takes_nothing_away(machine: Path, damage: str) -> None:
    record = machine / "state" / "one-shot.json"
    record.write_text(damage)
    assert "damaged" in oneshot.clear_left("x", str(machine / "state"), str(machine))
    assert oneshot.used_up(str(machine / "state"), str(machine)) == "" and not record.exists()
