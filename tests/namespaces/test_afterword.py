# SPDX-License-Identifier: MIT
"""The last word before a restart through the firmware, on real filesystems that are closed already."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import handoff
from kexecd.cli import afterword
from kexecd.handoff import PendingHandoff
from kexecd.kernel import syscalls, sysfs
from kexecd.model import Way
from tests.namespaces.disks import disk, mount, replays
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import command

PENDING = PendingHandoff("0123456789abcdef", "here", "6.1.0", "id", "6.2.0", Way.FAST, 1000.0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sysfs, "boot_id", lambda root="/": "here")
    return []


def state(tmp_path: Path, fstype: str = "ext4") -> Path:
    """A filesystem of its own with the record, where that is looked for."""
    place = disk(tmp_path, "state", fstype, mib=320 if fstype == "xfs" else 128)
    (place / "kexecd").mkdir()
    handoff.write(PENDING, str(place / "kexecd"))
    mount(place, Path("/var/lib"), "--bind")
    return place


def writable(place: Path) -> bool:
    return not os.statvfs(place).f_flag & os.ST_RDONLY


@isolated
@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_a_filesystem_that_is_closed_is_opened_for_one_write_and_closed_again(
    tmp_path: Path, told: list[str], fstype: str
) -> None:
    place = state(tmp_path, fstype)
    syscalls.remount_read_only(str(place))
    afterword.write("the machine was not clean", told.append)
    assert handoff.read() == replace(PENDING, refused="the machine was not clean")
    assert not writable(place) and told == []
    command("umount", "/var/lib")
    command("umount", place)
    assert fstype == "btrfs" or not replays(tmp_path / "state.img", fstype)


@isolated
def test_one_that_is_still_open_stays_so(tmp_path: Path, told: list[str]) -> None:
    place = state(tmp_path)
    afterword.write("the jump did not come about", told.append)
    assert handoff.read() == replace(PENDING, refused="the jump did not come about")
    assert writable(place) and told == []


@isolated
def test_where_its_filesystem_is_gone_nothing_is_written_elsewhere(tmp_path: Path, told: list[str]) -> None:
    place = state(tmp_path)
    command("umount", "/var/lib")
    mount("below", Path("/var/lib"), "-t", "tmpfs")
    afterword.write("too late", told.append)
    assert os.listdir("/var/lib") == [] and told == []
    assert handoff.read(str(place / "kexecd")) == PENDING


@isolated
@pytest.mark.parametrize(
    "pending",
    [replace(PENDING, from_boot_id="an earlier boot"), replace(PENDING, refused="a hook said no")],
    ids=["of another boot", "refused before"],
)
def test_what_is_not_this_way_downs_stays(tmp_path: Path, told: list[str], pending: PendingHandoff) -> None:
    state(tmp_path)
    handoff.write(pending)
    afterword.write("too late", told.append)
    assert handoff.read() == pending


@isolated
def test_a_disk_that_does_not_answer_is_waited_for_only_so_long(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state(tmp_path)
    monkeypatch.setattr(afterword, "PATIENCE", 0.3)
    monkeypatch.setattr(handoff, "write", lambda *words: signal.pause())
    afterword.write("it hangs", told.append)
    assert told == ["the next boot will not be told why there was no jump: it did not end in time, ignoring"]


@isolated
def test_a_disk_that_cannot_be_written_is_told(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = state(tmp_path)

    def full(*words: object) -> None:
        raise OSError(28, "No space left on device")

    syscalls.remount_read_only(str(place))
    monkeypatch.setattr(handoff, "write", full)
    afterword.write("it is full", told.append)
    assert len(told) == 1 and "No space left" in told[0]
    assert not writable(place), "it is closed again all the same"
