# SPDX-License-Identifier: MIT
"""Whose a process is, by the control groups of real machines, and by what it is where there are none."""

from __future__ import annotations

import os

import pytest

from kexecd.kernel import proc
from kexecd.model import Process, ProcessClass
from kexecd.teardown import classes
from kexecd.teardown.classes import Classifier, by_group, unit_of

GUEST, SESSION, SERVICE, REST = ProcessClass

ID = "4a1d2c9be01f6e0f9d6d4d3a4d7a7f2e4f0e9b8c7d6e5f4a3b2c1d0e9f8a7b6c"
USER = "/user.slice/user-1000.slice"

GROUPS = [
    # systemd
    ("/system.slice/sshd.service", SERVICE),
    ("/system.slice/system-getty.slice/getty@tty1.service", SERVICE),
    ("/system.slice/dbus.service", SERVICE),
    (f"{USER}/session-3.scope", SESSION),
    (f"{USER}/user@1000.service/init.scope", SESSION),
    (f"{USER}/user@1000.service/app.slice/app-gnome-firefox-4711.scope", SESSION),
    (f"{USER}/user@1000.service/session.slice/dbus.service", SESSION),
    ("/init.scope", None),
    ("/", None),
    ("", None),
    # libvirt, systemd-nspawn, Proxmox
    ("/machine.slice/machine-qemu\\x2d1\\x2ddebian12.scope/libvirt/emulator", GUEST),
    ("/machine.slice/machine-buildroot.scope/payload/system.slice/cron.service", GUEST),
    ("/machine.slice/systemd-nspawn@web.service/payload/init.scope", GUEST),
    ("/qemu.slice/100.scope", GUEST),
    # Docker: the systemd driver, the cgroupfs driver, and its daemon
    (f"/system.slice/docker-{ID}.scope", GUEST),
    (f"/docker/{ID}", GUEST),
    ("/system.slice/docker.service", SERVICE),
    ("/system.slice/containerd.service", SERVICE),
    # Podman: root's, a user's, Quadlet's
    (f"/machine.slice/libpod-{ID}.scope/container", GUEST),
    (f"/machine.slice/libpod-conmon-{ID}.scope", GUEST),
    (f"{USER}/user@1000.service/user.slice/libpod-{ID}.scope/container", GUEST),
    (f"/system.slice/web.service/libpod-payload-{ID}", GUEST),
    (f"/libpod_parent/libpod-{ID}", GUEST),
    # Kubernetes: containerd, CRI-O, cgroupfs; and the kubelet
    (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f.slice/cri-containerd-{ID}.scope", GUEST),
    (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1f.slice/crio-{ID}.scope", GUEST),
    (f"/kubepods/besteffort/pod6c1f/{ID}", GUEST),
    ("/system.slice/kubelet.service", SERVICE),
    # LXC, Incus
    ("/lxc.payload.web/system.slice/nginx.service", GUEST),
    ("/lxc.monitor.web", GUEST),
    ("/lxc/web", GUEST),
    # OpenRC, elogind
    ("/openrc.sshd", SERVICE),
    ("/openrc.lxc.web", SERVICE),
    ("/2", SESSION),
    ("/c1", SESSION),
]


@pytest.mark.parametrize(("path", "expected"), GROUPS)
def test_a_control_group_says_whose_its_processes_are(path: str, expected: ProcessClass | None) -> None:
    assert by_group(path) == expected


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/sshd.service", "sshd.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        (f"{USER}/session-3.scope", "session-3.scope"),
        (f"{USER}/user@1000.service/app.slice/app-gnome-firefox-4711.scope", "user@1000.service"),
        (f"/system.slice/docker-{ID}.scope/system.slice/cron.service", f"docker-{ID}.scope"),
        ("/openrc.sshd", "sshd"),
        ("/user.slice", ""),
    ],
)
def test_the_unit_is_the_first_one_of_the_path(path: str, unit: str) -> None:
    assert unit_of(path) == unit


def process(name: str = "app", *, ppid: int = 500, session: int = 1, terminal: int = 0) -> Process:
    """Of this test's own pid, so that what is read about it is there."""
    return Process(os.getpid(), ppid, session, terminal, 0, "S", name, 1, False)


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("qemu-system-x86", None, GUEST),
        ("qemu-system-x86", SERVICE, GUEST),  # a unit of somebody's own that runs a machine
        ("qemu-x86_64", SESSION, SESSION),  # runs one program of another architecture
        ("firecracker", None, GUEST),
        ("cloud-hyperviso", None, GUEST),
        ("containerd-shim", SERVICE, GUEST),
        ("conmon", None, GUEST),
        ("systemd-nspawn", SESSION, GUEST),
        ("chrome", SESSION, SESSION),  # its sandbox is a pid namespace, and no guest
        ("mariadbd", SERVICE, SERVICE),
    ],
)
def test_what_runs_a_guest_is_one_wherever_it_was_started(
    name: str, said: ProcessClass | None, expected: ProcessClass
) -> None:
    assert Classifier("pid:[1]").by_nature(process(name), said) is expected


def test_without_control_groups_it_is_told_by_what_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    sort = Classifier("pid:[4026531836]", uid_min=1000)
    monkeypatch.setattr(proc, "pid_namespace", lambda pid: "pid:[4026531836]")
    monkeypatch.setattr(proc, "uid", lambda pid: 0)
    own_session = process(ppid=1, session=os.getpid())
    assert sort.by_nature(process(terminal=0x8801), None) is SESSION
    assert sort.by_nature(own_session, None) is SERVICE
    assert sort.by_nature(process(), None) is REST
    monkeypatch.setattr(proc, "uid", lambda pid: 1000)
    assert sort.by_nature(own_session, None) is SESSION
    monkeypatch.setattr(proc, "uid", lambda pid: 65534)
    assert sort.by_nature(own_session, None) is SERVICE
    monkeypatch.setattr(proc, "pid_namespace", lambda pid: "pid:[4026532241]")
    assert sort.by_nature(own_session, None) is GUEST


def test_people_begin_where_login_defs_says(tmp_path: os.PathLike[str]) -> None:
    root = os.fspath(tmp_path)
    assert classes.uid_min(root) == 1000
    os.mkdir(f"{root}/etc")
    with open(f"{root}/etc/login.defs", "w", encoding="utf-8") as file:
        file.write("# UID_MIN 1\nUID_MIN\t\t\t  500\nUID_MAX 60000\n")
    assert classes.uid_min(root) == 500
