# SPDX-License-Identifier: MIT
"""Which init a machine has, how it is asked for a restart, and when it is not because nobody would jump at its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kexecd.config.policy import Policy
from kexecd.errors import ExitCode, NotRestarted, Refusal, Unsupported
from kexecd.init import openrc, pid1
from kexecd.init.detect import detect
from kexecd.init.openrc import OpenRC
from kexecd.init.pid1 import Pid1
from kexecd.kernel.spawn import Finished
from kexecd.model import Act
from tests.unit.boot_tree import BootTree


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    return BootTree(tmp_path)


def first_process(tree: BootTree, program: str, title: str = "") -> None:
    tree.link("/proc/1/exe", program)
    tree.write("/proc/1/comm", program.rpartition("/")[2] + "\n")
    tree.write("/proc/1/cmdline", title)


def hook(tree: BootTree, path: str) -> None:
    tree.write("/etc/init.d/kexecd-jump")
    (tree.path / "etc/init.d/kexecd-jump").chmod(0o755)
    tree.link(path, "/etc/init.d/kexecd-jump")


# Which it is


@pytest.mark.parametrize(
    ("program", "marks", "name", "asked"),
    [
        ("/usr/lib/systemd/systemd", ("/run/systemd/system/x",), "systemd", "systemctl kexec"),
        ("/sbin/openrc-init", ("/run/openrc/x",), "OpenRC (openrc-init)", "openrc-shutdown -r now"),
        ("/sbin/init", ("/run/openrc/x", "/run/initctl"), "OpenRC (sysvinit)", "shutdown -r now"),
        ("/bin/busybox", ("/run/openrc/x",), "OpenRC (busybox)", "reboot"),
        ("/bin/busybox.static", ("/run/openrc/x",), "OpenRC (busybox)", "reboot"),
        ("/sbin/init", ("/run/initctl",), "sysvinit", "shutdown -r now"),
        ("/sbin/init", ("/dev/initctl",), "sysvinit", "shutdown -r now"),
        ("/sbin/init (deleted)", ("/run/initctl",), "sysvinit", "shutdown -r now"),
        ("/usr/bin/runit", (), "runit", "not possible: kexecd has no hook in runit yet"),
        ("/sbin/init", (), "init", "not possible"),
        ("/bin/busybox", (), "busybox", "not possible"),
    ],
)
def test_an_init_is_told_by_its_program_and_by_who_runs_the_runlevels(
    tree: BootTree, program: str, marks: tuple[str, ...], name: str, asked: str
) -> None:
    first_process(tree, program)
    for mark in marks:
        tree.write(mark)
    hook(tree, "/etc/runlevels/shutdown/kexec-jump")
    hook(tree, "/etc/rc6.d/K06kexecd-jump")
    found = detect(tree.root)
    assert found.name == name and asked in found.describe_restart(Act.KEXEC)


def test_one_whose_program_may_not_be_seen_is_told_by_its_name(tree: BootTree) -> None:
    tree.write("/proc/1/comm", "openrc-init\n")
    tree.write("/run/openrc/softlevel")
    assert detect(tree.root).name == "OpenRC (openrc-init)"


def test_one_that_cannot_be_seen_at_all_is_none_of_them(tree: BootTree) -> None:
    assert detect(tree.root).name == "an init that cannot be seen"


# Asking it


class Asked:
    """Stands in for the command that would restart this machine."""

    def __init__(self, answer: Finished) -> None:
        self.answer, self.commands = answer, list[list[str]]()

    def __call__(self, command: list[str], **options: object) -> Finished:
        self.commands.append(command)
        return self.answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked(Finished(0, "", ""))
    monkeypatch.setattr(pid1, "run", asked)
    monkeypatch.setattr(pid1, "program", lambda name: f"/sbin/{name}")
    return asked


def inits(tree: BootTree) -> tuple[OpenRC, ...]:
    return tuple(OpenRC(kind, tree.root) for kind in (Pid1.OPENRC_INIT, Pid1.SYSVINIT, Pid1.BUSYBOX))


def test_each_is_asked_for_an_ordinary_restart_and_never_for_a_kexec(tree: BootTree, asked: Asked) -> None:
    hook(tree, "/etc/runlevels/shutdown/kexec-jump")
    for init in inits(tree):
        init.restart(Act.KEXEC)
        init.restart(Act.FIRMWARE)
    assert asked.commands == [
        *[["/sbin/openrc-shutdown", "-r", "now"]] * 2,
        *[["/sbin/shutdown", "-r", "now"]] * 2,
        *[["/sbin/reboot"]] * 2,
    ]


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda tree: None, "kexec-jump, is not in runlevel shutdown"),
        (lambda tree: tree.write("/etc/runlevels/off/x"), "kexecd-jump, is not in runlevel off"),
        (lambda tree: tree.link("/etc/runlevels/shutdown/kexec-jump", "/etc/init.d/gone"), "not in runlevel shutdown"),
    ],
)
def test_without_our_last_hook_no_kexec_is_asked_for_that_would_not_come(
    tree: BootTree, asked: Asked, prepare: Callable[[BootTree], None], told: str
) -> None:
    prepare(tree)
    init = OpenRC(Pid1.SYSVINIT, tree.root)
    with pytest.raises(Unsupported, match=told) as refusal:
        init.restart(Act.KEXEC)
    assert asked.commands == [] and "kexecctl reboot --fast" in refusal.value.hint
    assert told in init.describe_restart(Act.KEXEC)
    init.restart(Act.FIRMWARE)
    assert len(asked.commands) == 1, "a restart through the firmware needs no hook"


def test_sysv_rc_needs_its_link(tree: BootTree, asked: Asked) -> None:
    first_process(tree, "/sbin/init")
    tree.write("/run/initctl")
    init = detect(tree.root)
    with pytest.raises(Unsupported, match="not enabled in /etc/rc6.d"):
        init.restart(Act.KEXEC)
    hook(tree, "/etc/rc6.d/K06kexecd-jump")
    init.restart(Act.KEXEC)
    assert asked.commands == [["/sbin/shutdown", "-r", "now"]]


def test_what_it_answers_is_the_reason(tree: BootTree, asked: Asked) -> None:
    asked.answer = Finished(1, "", "shutdown: you must be root\n")
    with pytest.raises(NotRestarted, match="did not accept `shutdown -r now`: shutdown: you must be root") as refusal:
        OpenRC(Pid1.SYSVINIT, tree.root).restart(Act.FIRMWARE)
    assert refusal.value.exit_code is ExitCode.NOT_RESTARTED


def test_a_program_that_is_not_there_is_too(tree: BootTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid1, "DIRECTORIES", (str(tree.path),))
    with pytest.raises(Refusal, match="there is no openrc-shutdown"):
        OpenRC(Pid1.OPENRC_INIT, tree.root).restart(Act.FIRMWARE)


# How far it is


def test_openrc_goes_down_while_it_stops_a_runlevel_and_sysvinit_when_it_has_left_it(tree: BootTree) -> None:
    for init in (OpenRC(Pid1.SYSVINIT, tree.root), OpenRC(Pid1.OPENRC_INIT, tree.root)):
        assert not init.going_down()
    first_process(tree, "/sbin/init", "init [6]  ")
    assert OpenRC(Pid1.SYSVINIT, tree.root).going_down()
    tree.write("/proc/1/cmdline", "init [2]")
    assert not OpenRC(Pid1.SYSVINIT, tree.root).going_down()
    tree.write("/run/openrc/rc.stopping/x")
    assert OpenRC(Pid1.OPENRC_INIT, tree.root).going_down()


# In the fast way


def test_services_that_their_scripts_stop_come_before_those_that_get_a_signal(
    tree: BootTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mysql", "libvirt-guests", "cron"):
        more = "" if name == "cron" else "stop() {\n\tsave_everything\n}\n"
        tree.write(f"/etc/init.d/{name}", f"#!/sbin/openrc-run\n{more}")
        tree.write(f"/run/openrc/started/{name}")
    steps = OpenRC(Pid1.OPENRC_INIT, tree.root).services(Policy(), ())
    assert "libvirt-guests" in steps.guests[0].describe() and "10 s" in steps.guests[0].describe()
    assert steps.services[0].describe() == "stop one service by script, 5 s: mysql"


def test_the_daemon_is_started_by_openrc_where_there_is_such_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(Finished(0, "", ""))
    monkeypatch.setattr(openrc, "start", asked)
    monkeypatch.setattr(openrc, "program", lambda name: f"/sbin/{name}")
    OpenRC(Pid1.OPENRC_INIT).warm_up()
    assert asked.commands == [["/sbin/rc-service", "--ifexists", "kexecd", "start"]]
