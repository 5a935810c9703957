# SPDX-License-Identifier: MIT
"""Who serves the root filesystem, in trees that look like /sys of such machines."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd.kernel import mountinfo
from kexecd.model import Process
from kexecd.teardown.spare import Servers, Spare, serving

ROOT = "29 1 {} / / rw,relatime shared:1 - {} {} rw{}"


def root_on(device: str, fstype: str = "ext4", source: str = "/dev/root", options: str = "") -> list[str]:
    return [ROOT.format(device, fstype, source, options)]


def served(root: Path, lines: list[str]) -> Servers:
    return serving(mountinfo.parse("\n".join(lines)), str(root))


def device(root: Path, number: str, path: str, **files: str) -> Path:
    """A block device in /sys; "dm__uuid" is the file dm/uuid."""
    directory = root / "sys/devices" / path
    directory.mkdir(parents=True)
    for name, content in files.items():
        file = directory / name.replace("__", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{content}\n", encoding="utf-8")
    for link in (root / "sys/dev/block" / number, root / "sys/class/block" / directory.name):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(directory, link.parent))
    return directory


def stands_on(upper: Path, lower: Path) -> None:
    (upper / "slaves").mkdir(exist_ok=True)
    (upper / "slaves" / lower.name).symlink_to(os.path.relpath(lower, upper / "slaves"))


def test_a_disk_of_the_machine_needs_nobody(tmp_path: Path) -> None:
    disk = device(tmp_path, "8:0", "pci0000:00/ata1/host0/target0:0:0/0:0:0:0/block/sda")
    device(tmp_path, "8:2", f"{disk.relative_to(tmp_path / 'sys/devices')}/sda2", partition="2")
    assert served(tmp_path, root_on("8:2")) == Servers()


def test_iscsi_is_seen_through_a_partition_and_through_lvm_and_luks(tmp_path: Path) -> None:
    base = "platform/host2/session1/target2:0:0/2:0:0:1/block/sdb"
    device(tmp_path, "8:16", base)
    partition = device(tmp_path, "8:17", f"{base}/sdb1", partition="1")
    crypt = device(tmp_path, "253:0", "virtual/block/dm-0", dm__uuid="CRYPT-LUKS2-4711-root")
    volume = device(tmp_path, "253:1", "virtual/block/dm-1", dm__uuid="LVM-xyz")
    stands_on(crypt, partition)
    stands_on(volume, crypt)
    assert served(tmp_path, root_on("253:1")).names >= {"iscsid", "iscsiuio", "dmeventd", "dhcpcd"}
    assert "iscsid" in served(tmp_path, root_on("253:0")).names
    assert "dmeventd" not in served(tmp_path, root_on("253:0")).names


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"dm__uuid": "mpath-360000000000000000e00000000010001"}, "multipathd"),
        ({"dm__uuid": "LVM-abcdef"}, "dmeventd"),
        ({"md__metadata_version": "external:/md127/0"}, "mdmon"),
    ],
)
def test_a_device_that_a_daemon_looks_after(tmp_path: Path, files: dict[str, str], name: str) -> None:
    device(tmp_path, "253:0", "virtual/block/dm-0", **files)
    assert served(tmp_path, root_on("253:0")).names == {name}


def test_an_array_with_metadata_of_its_own_needs_nobody(tmp_path: Path) -> None:
    device(tmp_path, "9:0", "virtual/block/md0", md__metadata_version="1.2")
    assert served(tmp_path, root_on("9:0")) == Servers()


def test_nbd_names_its_client_by_pid(tmp_path: Path) -> None:
    device(tmp_path, "43:0", "virtual/block/nbd0", pid="412")
    assert served(tmp_path, root_on("43:0")).pids == {412}


def test_a_filesystem_of_several_devices_is_found_by_its_source(tmp_path: Path) -> None:
    device(tmp_path, "253:0", "virtual/block/dm-0", dm__uuid="mpath-1")
    assert served(tmp_path, root_on("0:26", "btrfs", "/dev/dm-0", ",subvol=/@")).names == {"multipathd"}


def test_nfs_needs_the_network_and_with_kerberos_its_keys(tmp_path: Path) -> None:
    assert served(tmp_path, root_on("0:21", "nfs4", "srv:/root", ",sec=sys")).names >= {"rpc.statd", "wpa_supplicant"}
    assert "rpc.gssd" not in served(tmp_path, root_on("0:21", "nfs4", "srv:/root", ",sec=sys")).names
    assert "rpc.gssd" in served(tmp_path, root_on("0:21", "nfs4", "srv:/root", ",sec=krb5p")).names


def test_fuse_below_an_overlay_and_below_a_loop_device(tmp_path: Path) -> None:
    overlay = [
        ROOT.format("0:30", "overlay", "overlay", ",lowerdir=/run/low:/run/lower,upperdir=/run/up,workdir=/run/work"),
        "30 29 0:31 / /run rw - tmpfs tmpfs rw",
        "31 30 0:32 / /run/lower rw - fuse.squashfuse squashfuse rw",
    ]
    assert served(tmp_path, overlay).fuse
    device(tmp_path, "7:0", "virtual/block/loop0", loop__backing_file="/host/root.disk")
    wubi = [*root_on("7:0"), "30 29 8:1 / /host rw - fuseblk /dev/sda1 rw"]
    assert served(tmp_path, wubi).fuse
    assert not served(tmp_path, [*root_on("8:1"), "30 29 0:40 / /home/x/mnt rw - fuse.sshfs srv: rw"]).fuse


def test_usr_counts_as_the_root_does(tmp_path: Path) -> None:
    lines = [*root_on("8:1"), "30 29 0:21 / /usr ro - nfs srv:/usr ro,sec=sys"]
    assert "rpc.statd" in served(tmp_path, lines).names


def test_only_of_root_the_mark_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    from kexecd.kernel import proc

    owner = 0
    monkeypatch.setattr(proc, "argv0", lambda process, most: "@")
    monkeypatch.setattr(proc, "uid", lambda pid: owner)
    marked = Process(4711, 1, 4711, 0, 0, "S", "mdmon", 1, False)
    assert Spare(frozenset(), frozenset())(marked)
    owner = 1000
    assert not Spare(frozenset(), frozenset())(replace(marked, start=1))


def test_the_mark_is_asked_for_once_in_a_plan_and_of_another_program_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kexecd.kernel import proc

    asked: list[str] = []

    def argv0(process: Process, most: int) -> str:
        asked.append(process.name)
        return ""[:most]

    monkeypatch.setattr(proc, "argv0", argv0)
    one = Process(4712, 1, 4712, 0, 0, "S", "init", 1, False)
    spare = Spare(frozenset(), frozenset())
    for process in (one, one, replace(one, name="mdmon"), one):
        assert not spare(process)
    assert asked == ["init", "mdmon"]
    Spare.ours([])
    spare(one)
    assert asked == ["init", "mdmon", "init"], "a plan that is drawn up later asks anew"
