# SPDX-License-Identifier: MIT
"""`make install`, `make enable` and `make uninstall`, into a machine as it lies in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.installed import make
from tests.packaging.machine import Machine, remove, unpack
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD, GENTOO_SYSVINIT

STAYS = {"etc/kexecd", "etc/kexecd/kexecd.yaml"}
"""The configuration is the administrator's."""


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = unpack(DEBIAN12_SYSTEMD, tmp_path_factory.mktemp("machine") / "debian")
    yield machine
    remove(machine)


@pytest.fixture(scope="module")
def gentoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = unpack(GENTOO_SYSVINIT, tmp_path_factory.mktemp("machine") / "gentoo")
    yield machine
    remove(machine)


def test_what_it_installs_it_takes_away_again(debian: Machine) -> None:
    words = (f"DESTDIR={debian.root}", "PREFIX=/usr")
    before = debian.files()
    make("install", *words)
    installed = debian.files()
    assert {"etc/init.d/kexecd-jump", "usr/lib/systemd/system/kexecd.service", "usr/sbin/kexecctl"} <= set(installed)
    make("enable", *words)
    enabled = set(debian.files()) - set(installed)
    assert "etc/systemd/system/multi-user.target.wants/kexecd-finish.service" in enabled
    assert "etc/systemd/system/emergency.target.wants/kexecd-confirm.service" in enabled
    assert not {name for name in enabled if "preload" in name and "/K" not in name}
    make("uninstall", *words)
    left = {name for name in set(debian.files()) - set(before) if not name.startswith("var/lib/systemd/")}
    assert left == STAYS
    assert before.items() <= debian.files().items()


def test_with_openrc_it_has_the_jump_in_the_runlevel_of_a_shutdown(gentoo: Machine) -> None:
    words = (f"DESTDIR={gentoo.root}", "PREFIX=/usr", "INITS=openrc")
    before = gentoo.files()
    make("install", *words)
    make("enable", *words)
    assert (gentoo.root / "etc/runlevels/shutdown/kexec-jump").is_symlink()
    assert (gentoo.root / "etc/runlevels/default/kexec-finish").is_symlink()
    assert (gentoo.root / "etc/runlevels/sysinit/kexec-confirm").is_symlink()
    assert not (gentoo.root / "etc/runlevels/default/kexec").is_symlink()
    make("uninstall", *words)
    assert set(gentoo.files()) - set(before) == STAYS


def test_the_script_of_somebody_else_stays(gentoo: Machine) -> None:
    words = (f"DESTDIR={gentoo.root}", "PREFIX=/usr", "INITS=openrc")
    theirs = "#!/sbin/openrc-run\n# of kexec-tools\n"
    gentoo.write("etc/init.d/kexec", theirs, 0o755)
    path = Path(gentoo.root, "etc/init.d/kexec")
    make("install", *words)
    assert path.read_text(encoding="utf-8") == theirs
    make("uninstall", *words)
    assert path.read_text(encoding="utf-8") == theirs
    path.unlink()
