# SPDX-License-Identifier: MIT
"""The project, put into a guest by its administrator: Debian's package, or `make install` where there is none, and then
the word that makes every restart a kexec, which no installation gives by itself.
"""

from __future__ import annotations

from pathlib import Path

from tests.vm.lab.cache import REPO
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import INSTALL_TIMEOUT, Install, project_key
from tests.vm.lab.recipe import Init
from tests.vm.lab.tools import run_tool

ENABLE = {
    Init.SYSTEMD: ("systemctl", "enable", "kexecd-preload.service"),
    Init.SYSV_RC: ("update-rc.d", "kexecd-preload", "enable"),
    Init.DEBIAN_OPENRC: ("update-rc.d", "kexecd-preload", "enable"),
    Init.OPENRC_INIT: ("rc-update", "add", "kexec", "default"),
    Init.OPENRC_SYSVINIT: ("rc-update", "add", "kexec", "default"),
}

NOT_NOW = "#!/bin/sh\nexit 101\n"
"""Debian's policy-rc.d: a service of the guest is not started on the host that its disk is made on."""

IN_THE_GUEST = """\
set -eu
dpkg --install /root/kexecd.deb
systemctl enable --now kexecd-preload.service
"""


def administered(init: Init) -> Install:
    """For a guest that is not running yet."""
    put = _make_install if init.is_upstream_openrc else _dpkg

    def install(rootdir: Path) -> None:
        put(rootdir)
        run_tool("chroot", rootdir, *ENABLE[init], timeout=INSTALL_TIMEOUT)

    return Install(f"{project_key()}-enabled", install)


def administer(guest: Guest, workdir: Path) -> None:
    """For a guest with systemd that runs already."""
    guest.put("/root/kexecd.deb", _package(workdir).read_bytes())
    guest.run("/bin/sh", "-c", IN_THE_GUEST, timeout=INSTALL_TIMEOUT)


def _package(directory: Path) -> Path:
    run_tool(REPO / "packaging" / "debian" / "build", directory, timeout=INSTALL_TIMEOUT)
    (package,) = directory.glob("kexecd_*_all.deb")
    return package


def _dpkg(rootdir: Path) -> None:
    package, policy = _package(rootdir / "tmp"), rootdir / "usr" / "sbin" / "policy-rc.d"
    policy.write_text(NOT_NOW)
    policy.chmod(0o755)
    run_tool("chroot", rootdir, "dpkg", "--install", f"/tmp/{package.name}", timeout=INSTALL_TIMEOUT)
    policy.unlink()
    package.unlink()


def _make_install(rootdir: Path) -> None:
    options = (f"DESTDIR={rootdir}", "PREFIX=/usr", "INITS=openrc")
    for target in ("install", "enable"):
        run_tool("make", "-C", REPO, target, *options, timeout=INSTALL_TIMEOUT)
