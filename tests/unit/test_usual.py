# SPDX-License-Identifier: MIT
"""How far an init has come, as OpenRC and sysvinit tell it; systemd is asked in tests/namespaces/test_usual.py."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kexecd.init import pid1
from kexecd.kernel import spawn
from kexecd.wayback import usual
from kexecd.wayback.usual import OpenRCUsual, RunlevelUsual, Runner, Unknown, Usual, enabled, of_this_machine


class Machine:
    def __init__(self, path: Path) -> None:
        self.path, self.root = path, str(path)
        self.write("proc/cmdline", "root=/dev/vda ro\n")

    def write(self, path: str, text: str = "") -> Path:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def openrc(self, level: str, *, starting: bool) -> None:
        self.write("run/openrc/softlevel", level)
        if starting:
            (self.path / "run/openrc/rc.starting").mkdir(exist_ok=True)

    def init(self, cmdline: str) -> None:
        """PID 1 as sysvinit shows itself."""
        self.write("proc/1/cmdline", f"{cmdline}\0")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No script of a runlevel runs: this machine may have one of its own."""
    monkeypatch.setattr(Runner, "runs", lambda self: False)


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("level", "starting", "far", "why"),
    [
        ("sysinit", False, False, "OpenRC is in runlevel sysinit, not in default"),
        ("boot", True, False, "OpenRC is still starting runlevel boot"),
        ("default", True, False, "OpenRC is still starting runlevel default"),
        ("default", False, True, "runlevel default is reached"),
        ("single", False, False, "OpenRC is in runlevel single, not in default"),
    ],
)
def test_openrc_is_there_when_it_starts_nothing_more(
    machine: Machine, level: str, starting: bool, far: bool, why: str
) -> None:
    machine.openrc(level, starting=starting)
    reached = OpenRCUsual(machine.root).reached()
    assert (reached.far, reached.why) == (far, why)


@pytest.mark.usefixtures("nobody")
def test_the_runlevel_that_the_command_line_names_is_the_usual_one(machine: Machine) -> None:
    machine.openrc("cluster", starting=False)
    assert not OpenRCUsual(machine.root).reached().far
    machine.write("proc/cmdline", "root=/dev/vda softlevel=cluster\n")
    assert OpenRCUsual(machine.root).reached().far


@pytest.mark.usefixtures("nobody")
def test_openrc_tells_when_it_is_worth_asking_again(machine: Machine) -> None:
    machine.openrc("default", starting=True)
    init = OpenRCUsual(machine.root)
    assert not init.reached().far
    (fd,) = init.fds
    assert not select.select([fd], [], [], 0)[0]
    threading.Timer(0.2, shutil.rmtree, [machine.path / "run/openrc/rc.starting"]).start()
    assert select.select([fd], [], [], 5)[0]
    assert init.reached().far
    assert not select.select([fd], [], [], 0)[0], "what was heard is not told twice"
    init.close()


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("cmdline", "far", "why"),
    [
        ("init [2]", True, "runlevel 2 is reached"),
        ("/sbin/init [5]", True, "runlevel 5 is reached"),
        ("init [S]", False, "sysvinit is in runlevel S, not in one of 2 to 5"),
        ("init [1]", False, "sysvinit is in runlevel 1, not in one of 2 to 5"),
        ("/sbin/init", False, "sysvinit is in runlevel S, not in one of 2 to 5"),
    ],
)
def test_sysvinit_shows_its_runlevel(machine: Machine, cmdline: str, far: bool, why: str) -> None:
    machine.init(cmdline)
    reached = RunlevelUsual(machine.root).reached()
    assert (reached.far, reached.why) == (far, why)


@pytest.mark.usefixtures("nobody")
def test_an_init_that_goes_down_again_says_so(machine: Machine) -> None:
    machine.openrc("default", starting=False)
    assert not OpenRCUsual(machine.root).reached().leaving
    init = OpenRCUsual(machine.root)
    init._runner.words = frozenset(("/sbin/openrc", "shutdown"))
    assert init.reached().leaving
    machine.init("init [6]")
    for other in (OpenRCUsual(machine.root), RunlevelUsual(machine.root)):
        assert other.reached().leaving and not other.reached().far


def test_the_script_that_starts_a_runlevel_is_waited_for_by_its_end() -> None:
    """A real process, by a name of its own and below this one."""
    process = subprocess.Popen(["/bin/sh", "-c", "printf lab-rc > /proc/$$/comm; read line"], stdin=subprocess.PIPE)
    try:
        runner = Runner(("lab-rc",), parent=os.getpid())
        eventually(runner.runs)
        assert "-c" in runner.words
        (fd,) = runner.fds
        assert not select.select([fd], [], [], 0)[0]
        process.communicate(b"\n", timeout=10)
        assert select.select([fd], [], [], 5)[0]
        assert not runner.runs() and not runner.fds
    finally:
        process.kill()
        process.wait()


def eventually(true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        select.select([], [], [], 0.02)
    raise AssertionError("it never became true")


def script(machine: Machine, name: str, status: int, said: str = "") -> None:
    path = machine.write(name, f"#!/bin/sh\necho '{said}'\nexit {status}\n")
    path.chmod(0o755)


def test_a_service_of_debian_is_asked_by_its_script(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    script(machine, "good", 0)
    script(machine, "bad", 3, "bad is not running ... failed!")
    monkeypatch.setattr(usual, "run", relative_to(machine, spawn.run))
    assert RunlevelUsual(machine.root).active(("good", "bad", "none", "../good")) == {
        "bad": "bad: bad is not running ... failed!",
        "none": "there is no /etc/init.d/none",
        "../good": "there is no /etc/init.d/../good",
    }


def relative_to(machine: Machine, real: Callable[..., object]) -> Callable[..., object]:
    """A script is called by its own path; here it lies below a root that is not this machine's."""
    (machine.path / "etc").mkdir()
    (machine.path / "etc/init.d").symlink_to("..")

    def run(words: list[str], **options: object) -> object:
        return real([f"{machine.root}{words[0]}", *words[1:]], **options)

    return run


def test_openrc_is_asked_by_rc_service(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    path = machine.write("rc-service", "#!/bin/sh\n[ $2 = sshd ] || { echo ' * status: crashed'; exit 32; }\n")
    path.chmod(0o755)
    monkeypatch.setattr(pid1, "program", lambda name: str(machine.path / name))
    assert OpenRCUsual(machine.root).active(("sshd", "nginx")) == {"nginx": "nginx: * status: crashed"}


def test_an_init_that_tells_nothing_leaves_it_to_the_checks(machine: Machine) -> None:
    init = of_this_machine(machine.root)
    assert isinstance(init, Unknown) and init.reached().far
    assert init.active(("a",)) == {"a": "nobody knows how PID 1 is asked for it"}


def test_the_init_is_the_one_that_runs(machine: Machine) -> None:
    machine.openrc("default", starting=False)
    init: Usual = of_this_machine(machine.root)
    assert isinstance(init, OpenRCUsual)


@pytest.mark.parametrize(
    "path",
    [
        "etc/systemd/system/sysinit.target.wants/kexecd-confirm.service",
        "usr/lib/systemd/system/sysinit.target.wants/kexecd-confirm.service",
        "etc/runlevels/sysinit/kexec-confirm",
        "etc/runlevels/boot/kexec-confirm",
        "etc/rcS.d/S03kexecd-confirm",
    ],
)
def test_somebody_confirms_where_it_is_enabled(machine: Machine, path: str) -> None:
    assert not enabled(machine.root)
    machine.write(path)
    assert enabled(machine.root)
