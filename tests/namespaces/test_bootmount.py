# SPDX-License-Identifier: MIT
"""A boot partition that is not mounted: looked at, unmounted again, and never confused with what lies below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kexecd.cli.main import main
from kexecd.errors import ExitCode
from kexecd.kernel import mountinfo
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import command, disk


def prepare(tmp_path: Path, settings: str = "") -> Path:
    """Have an fstab with a boot partition that is not mounted: 6.12.9 on it, a leftover 7.0 below its mount point.

    /etc is the machine's own below, and this test's above. Returns the mount point.
    """
    boot = disk(tmp_path, "boot")
    kernel(boot, "6.12.9")
    command("umount", boot)
    kernel(boot, "7.0")
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir=/etc,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    command("mount", "-t", "overlay", "-o", layers, "overlay", "/etc")
    Path("/etc/fstab").write_text(f"{tmp_path}/boot.img {boot} ext4 noauto,loop 0 2\n", encoding="utf-8")
    Path("/etc/conf.d").mkdir(exist_ok=True)
    Path("/etc/conf.d/kexec").write_text(f"BOOTPART={boot}\n{settings}", encoding="utf-8")
    return boot


def kernel(directory: Path, version: str) -> None:
    (directory / f"vmlinuz-{version}").write_bytes(b"kernel")
    (directory / f"initrd.img-{version}").write_bytes(b"initrd")


def entries(capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = main(["entries", "--json"])
    return code, json.loads(capsys.readouterr().out)


def is_mounted(point: Path) -> bool:
    return any(mount.point == str(point) for mount in mountinfo.read())


@isolated
def test_it_is_mounted_for_the_look_and_unmounted_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot = prepare(tmp_path)
    before = (tmp_path / "boot.img").read_bytes()
    code, seen = entries(capsys)
    assert code == ExitCode.OK
    assert [entry["version"] for entry in seen["entries"]] == ["6.12.9"]
    assert seen["chosen"]["id"] == "vmlinuz-6.12.9"
    assert not is_mounted(boot)
    assert (tmp_path / "boot.img").read_bytes() == before, "a look has written to the partition"


@isolated
def test_what_lies_below_is_never_taken_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot = prepare(tmp_path, "DONT_MOUNT_BOOT=yes\n")
    code, seen = entries(capsys)
    assert code == ExitCode.NO_ENTRY
    (leftover,) = seen["entries"]
    assert leftover["version"] == "7.0"
    assert leftover["problems"] == [f"{boot} is not mounted, so vmlinuz-7.0 is a leftover below its mount point"]
    assert seen["chosen"]["id"] is None and "leftover" in seen["chosen"]["reason"]


@isolated
def test_one_that_cannot_be_mounted_leaves_the_leftovers_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = prepare(tmp_path)
    (tmp_path / "boot.img").write_bytes(b"no filesystem")
    code, seen = entries(capsys)
    assert code == ExitCode.NO_ENTRY
    assert str(boot) in seen["chosen"]["reason"] and not is_mounted(boot)


@isolated
def test_one_that_is_mounted_stays_mounted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot = prepare(tmp_path)
    command("mount", boot)
    code, seen = entries(capsys)
    assert (code, seen["chosen"]["id"]) == (ExitCode.OK, "vmlinuz-6.12.9")
    assert is_mounted(boot)
