# SPDX-License-Identifier: MIT
"""The Debian package: what is in it, and what installing, upgrading and removing it does to machines."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.conftest import build
from tests.packaging.installed import TOP, make
from tests.packaging.machine import Booted, Machine, remove, unpack
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD, DEBIAN12_SYSVINIT, DEBIAN13_SYSTEMD

OF_DEBIAN = ("usr/share/doc/kexecd/c", "usr/share/lintian", "usr/share/python3")
WANTS = {
    "etc/systemd/system/sysinit.target.wants/kexecd-freeze.service",
    "etc/systemd/system/sysinit.target.wants/kexecd-confirm.service",
    "etc/systemd/system/emergency.target.wants/kexecd-confirm.service",
    "etc/systemd/system/multi-user.target.wants/kexecd-finish.service",
}
PRELOAD = "etc/systemd/system/multi-user.target.wants/kexecd-preload.service"
REBOOT = "systemd-reboot.service"


# What is in it


def tree(top: Path) -> dict[str, tuple[int, bytes | str]]:
    """Each file and link by its path, with its mode and content; what is compressed, unpacked."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_dir() or name.startswith(OF_DEBIAN):
            continue
        content: bytes | str = os.readlink(path) if path.is_symlink() else path.read_bytes()
        if name.endswith(".gz") and isinstance(content, bytes):
            name, content = name.removesuffix(".gz"), gzip.decompress(content)
        found[name] = path.lstat().st_mode, content
    return found


def test_it_holds_what_make_install_installs(package: Path, tmp_path: Path) -> None:
    make("install", f"DESTDIR={tmp_path}/made", "PREFIX=/usr", "INITS=systemd lsb", "COMPILE=no")
    subprocess.run(["dpkg-deb", "-x", package, tmp_path / "packed"], check=True, timeout=60)
    assert tree(tmp_path / "packed") == tree(tmp_path / "made")


def test_the_same_tree_makes_the_same_bytes(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere/copy"
    copy.mkdir(parents=True)
    without = ("--exclude=./.cache", "--exclude=./.git", "--exclude=__pycache__")
    pack = subprocess.Popen(["tar", "-C", TOP, "-c", *without, "."], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", copy, "-x", "--touch"], stdin=pack.stdout, check=True, timeout=60)
    assert pack.wait(10) == 0
    subprocess.run(["chmod", "-R", "go-rwx", copy], check=True, timeout=60)
    assert build(tmp_path / "out", copy / "packaging/debian/build").read_bytes() == package.read_bytes()


def test_lintian_finds_nothing(package: Path) -> None:
    words = ["lintian", "--allow-root", "--profile=debian", "--display-info", "--tag-display-limit=0", str(package)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


# What it does to a machine


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = unpack(DEBIAN12_SYSTEMD, tmp_path_factory.mktemp("machine") / "systemd")
    yield machine
    remove(machine)


@pytest.fixture(scope="module")
def sysvinit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = unpack(DEBIAN12_SYSVINIT, tmp_path_factory.mktemp("machine") / "sysvinit")
    yield machine
    remove(machine)


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package, with a higher version."""
    directory = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "-R", package, directory / "root"], check=True, timeout=60)
    control = directory / "root/DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+1", control.read_text(encoding="utf-8")), encoding="utf-8")
    result = directory / "kexecd_newer.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", directory / "root", result], check=True, timeout=60)
    return result


def install(machine: Machine, package: Path) -> None:
    shutil.copy(package, machine.root / "tmp/kexecd.deb")
    machine.run("dpkg", "--force-unsafe-io", "-i", "/tmp/kexecd.deb")


def enabled(machine: Machine) -> set[str]:
    return {name for name in (*WANTS, PRELOAD) if (machine.root / name).is_symlink()}


def links(machine: Machine) -> dict[str, str]:
    """Our scripts in sysv-rc's runlevels: "6/kexecd-jump" and "K" or "S"."""
    found = {}
    for level in "0123456S":
        for path in (machine.root / f"etc/rc{level}.d").iterdir():
            if "kexecd" in path.name:
                found[f"{level}/{path.name[3:]}"] = path.name[0]
    return found


def test_it_comes_with_what_finishes_enabled_and_goes_without_a_trace(systemd: Machine, package: Path) -> None:
    before = systemd.files()
    install(systemd, package)
    assert enabled(systemd) == WANTS
    for script in ("kexecd-jump", "kexecd-hooks"):
        assert (systemd.root / f"usr/lib/systemd/system/{script}.service").readlink() == Path("/dev/null")
    assert systemd.run("kexecctl", "--version").startswith("kexecctl ")
    assert list((systemd.root / "usr/lib/kexecd/kexecd").glob("__pycache__/*.pyc")), "it was not compiled"
    systemd.run("dpkg", "--remove", "kexecd")
    left = set(systemd.files()) - set(before)
    assert {name for name in left if not name.startswith(("etc/", "var/lib/systemd/"))} == set()
    systemd.run("dpkg", "--purge", "kexecd")
    assert systemd.files() == before


def test_an_upgrade_leaves_everything_as_the_administrator_has_it(
    systemd: Machine, package: Path, newer: Path
) -> None:
    install(systemd, package)
    systemd.run("systemctl", "enable", "kexecd-preload.service")
    systemd.run("systemctl", "disable", "kexecd-finish.service")
    wanted = enabled(systemd)
    install(systemd, newer)
    assert enabled(systemd) == wanted
    assert PRELOAD in wanted and wanted != WANTS
    systemd.run("dpkg", "--purge", "kexecd")


def test_removed_and_installed_again_it_is_as_it_was(systemd: Machine, package: Path) -> None:
    install(systemd, package)
    systemd.run("systemctl", "enable", "kexecd-preload.service")
    before = systemd.files()
    systemd.run("dpkg", "--remove", "kexecd")
    install(systemd, package)
    notes = {name for name in systemd.files() if name.startswith("var/lib/systemd/deb-systemd-helper")}
    assert {name: mark for name, mark in systemd.files().items() if name not in notes | set(before)} == {}
    assert before.items() <= systemd.files().items()
    systemd.run("dpkg", "--purge", "kexecd")


def test_with_sysv_rc_the_jump_comes_after_everything_and_before_the_reset(sysvinit: Machine, package: Path) -> None:
    before = sysvinit.files()
    install(sysvinit, package)
    down = sorted(path.name for path in (sysvinit.root / "etc/rc6.d").iterdir())
    order = [re.sub(r"^K\d\d", "", name) for name in down if name.startswith("K")]
    assert order.index("umountroot") < order.index("kexecd-jump") < order.index("reboot"), down
    assert links(sysvinit)["6/kexecd-jump"] == "K"
    assert "S" not in {kind for name, kind in links(sysvinit).items() if name.endswith("kexecd-preload")}
    assert not {name for name in links(sysvinit) if name.startswith("0/") and name.endswith("kexecd-jump")}
    sysvinit.run("update-rc.d", "kexecd-preload", "enable")
    assert links(sysvinit)["2/kexecd-preload"] == "S"
    sysvinit.run("dpkg", "--purge", "kexecd")
    assert sysvinit.files() == before


def test_without_systemd_a_removal_takes_back_that_every_restart_is_a_kexec(sysvinit: Machine, package: Path) -> None:
    install(sysvinit, package)
    sysvinit.write("usr/sbin/kexecctl", '#!/bin/sh\necho "$@" >> /tmp/calls\n', 0o755)
    sysvinit.write("run/kexecd/armed", "{}")
    install(sysvinit, package)
    assert not (sysvinit.root / "tmp/calls").exists(), "an upgrade has called it"
    sysvinit.write("usr/sbin/kexecctl", '#!/bin/sh\necho "$@" >> /tmp/calls\n', 0o755)
    sysvinit.run("dpkg", "--purge", "kexecd")
    assert (sysvinit.root / "tmp/calls").read_text(encoding="utf-8") == "service stop --going stay\n"


# What it does to a machine that runs


@pytest.fixture(scope="module", params=[DEBIAN12_SYSTEMD, DEBIAN13_SYSTEMD], ids=["252", "257"])
def running(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """With an installed kexecd whose command only writes down how it was called."""
    machine = unpack(request.param, tmp_path_factory.mktemp("machine") / "running")
    install(machine, package)
    machine.write("usr/sbin/kexecctl", '#!/bin/sh\necho "$@" >> /run/calls\n', 0o755)
    also_in_a_container(machine)
    machine.write("etc/systemd/system/kexecd.service", "[Service]\nExecStart=sleep 1000\n")
    yield machine
    remove(machine)


def also_in_a_container(machine: Machine) -> None:
    """Which the machine is, as far as its systemd can see."""
    for unit in ("kexecd", "kexecd-preload", "kexecd-freeze", "kexecd-confirm", "kexecd-finish"):
        path = f"usr/lib/systemd/system/{unit}.service"
        machine.write(path, (machine.root / path).read_text(encoding="utf-8").replace("ConditionVirt", "#"))


def test_the_daemon_says_when_it_is_ready_and_ends_when_it_is_told_to(systemd: Machine, package: Path) -> None:
    install(systemd, package)
    also_in_a_container(systemd)
    with systemd.booted() as machine:
        machine.run("systemctl", "start", "kexecd.service")
        show = ("systemctl", "show", "--property=ActiveState,Result", "kexecd.service")
        assert set(machine.run(*show).split()) == {"ActiveState=active", "Result=success"}
        assert machine.run("kexecctl", "status"), "it does not answer"
        machine.run("systemctl", "stop", "kexecd.service")
        assert set(machine.run(*show).split()) == {"ActiveState=inactive", "Result=success"}
    systemd.run("dpkg", "--purge", "kexecd")


@pytest.mark.parametrize(
    ("loaded", "firmware", "target", "verb"),
    [
        (True, False, "reboot", "kexec"),
        (False, False, "reboot", "reboot"),
        (True, True, "reboot", "reboot"),
        (True, False, "poweroff", "poweroff"),
        (True, False, "halt", "halt"),
    ],
)
def test_a_restart_comes_to(running: Machine, loaded: bool, firmware: bool, target: str, verb: str) -> None:
    with running.booted(loaded=loaded) as machine:
        machine.run("rm", "-f", "/run/systemd/container")
        if firmware:
            machine.run("sh", "-c", "mkdir -p /run/kexecd; echo '\"act\": \"firmware\"' > /run/kexecd/state.json")
        machine.run("systemctl", "start", "--no-block", f"{target}.target")
        assert machine.comes_to() == verb


def test_an_upgrade_stops_nothing_and_a_removal_makes_restarts_ordinary_ones(
    running: Machine, package: Path, newer: Path
) -> None:
    with running.booted(loaded=True) as machine:
        machine.run("systemctl", "start", "kexecd-preload.service")
        assert calls(machine) == ["service start"]
        shutil.copy(newer, running.root / "tmp/kexecd.deb")
        machine.run("dpkg", "--force-unsafe-io", "-i", "/tmp/kexecd.deb")
        assert calls(machine) == ["service start"]
        assert "kexecd.conf" in machine.run("systemctl", "show", "-P", "DropInPaths", REBOOT)
        running.write("usr/sbin/kexecctl", '#!/bin/sh\necho "$@" >> /run/calls\n', 0o755)
        machine.run("dpkg", "--remove", "kexecd")
        assert calls(machine) == ["service start", "service stop --going ask"]
        assert machine.run("systemctl", "show", "-P", "DropInPaths", REBOOT).strip() == ""
        machine.run("systemctl", "start", "--no-block", "reboot.target")
        assert machine.comes_to() == "reboot"


def calls(machine: Booted) -> list[str]:
    return machine.run("cat", "/run/calls").splitlines()
