# SPDX-License-Identifier: MIT
"""The two machines: one with systemd, one with OpenRC, each with what a server has that these tests are about.

A watchdog that resets the machine (its driver is in Debian's 6.12 and not in 6.1, so that is the kernel which the
firmware boots), a network card with a server at its other end, and, where that is asked for, a place where a panic's
last words outlive it: ACPI's ERST, which the kernel shows as pstore.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from pathlib import Path

from tests.vm.campaign.cases import HEALTHY, SERVER
from tests.vm.lab.booted import booted
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import INSTALL_TIMEOUT, Install, base, build
from tests.vm.lab.packaged import administered
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD, GENTOO_OPENRC_INIT, Init, Recipe
from tests.vm.lab.snapshot import Snapshot
from tests.vm.lab.tools import run_tool

NEW = "6.12."
DRIVER = "i6300esb"

SYSTEMD = replace(DEBIAN12_SYSTEMD, name="campaign-systemd", base=DEBIAN12_SYSTEMD.name, boots=NEW)
OPENRC = replace(GENTOO_OPENRC_INIT, name="campaign-openrc", boots=NEW)

GUESTS = {DEBIAN12_SYSTEMD.name: SYSTEMD, GENTOO_OPENRC_INIT.name: OPENRC}
"""By the name of the guest of the lab that it is but for its kernel."""

HARDWARE = (
    "-device", "i6300esb",
    "-netdev", f"user,id=net,restrict=on,guestfwd=tcp:{SERVER}-cmd:cat",
    "-device", "virtio-net-pci,netdev=net,romfile=",
)  # fmt: skip

ERST = ("-object", "memory-backend-ram,id=erst,size=64K", "-device", "acpi-erst,memdev=erst")

LIMIT = 60
"""Seconds, from its kernel's start, that a new boot is given; an emulated one needs a third of them."""

PANIC = 5
"""Seconds from a panic to the reset."""

POLICY = f"""\
confirm:
  limit: {LIMIT}
  panic: {PANIC}
  commands:
    - {HEALTHY}
  reach:
    - {SERVER}
"""

# Otherwise the jump switches it off: watchdog_reboot_notifier() in drivers/watchdog/watchdog_core.c.
WATCHDOG = "options watchdog stop_on_reboot=0\n"

# As upstream's service sysfs does.
PSTORE = "pstore /sys/fs/pstore pstore defaults 0 0\n"

ADDRESS = "10.0.2.15/24"

NETWORK = f"""\
[Match]
Type=ether

[Network]
Address={ADDRESS}
LinkLocalAddressing=no
"""

# Where nobody renames it, and nobody loads its driver.
NET = f"""\
#!/sbin/openrc-run

description="The network"

start()
{{
	modprobe virtio_net && ip link set eth0 up && ip address add {ADDRESS} dev eth0
}}
"""

FAULTS = """\
#!/bin/sh
# What goes wrong in userspace, late in the boot of a kernel whose command line says so.
for word in $(cat /proc/cmdline); do
    case $word in
    lab.fault=panic) echo 'lab: about to crash' > /dev/kmsg; echo c > /proc/sysrq-trigger ;;
    lab.fault=hang) echo 'lab: hanging' > /dev/kmsg; exec sleep infinity ;;
    esac
done
"""

FAULTS_PATH = "/usr/local/sbin/lab-fault"

UNIT = f"""\
[Unit]
Description=What is started late
Before=multi-user.target

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
ExecStart={FAULTS_PATH}

[Install]
WantedBy=multi-user.target
"""

SERVICE = f"""\
#!/sbin/openrc-run

description="What is started late"

depend()
{{
	after lab-network
}}

start()
{{
	{FAULTS_PATH}
}}
"""

BOOTING = 180.0
"""Seconds for a first boot on a slow CI machine."""


def start(recipe: Recipe, workdir: Path, *, last_words: bool = False) -> Guest:
    """A machine that its firmware has just started; the caller stops it.

    last_words: with ERST. QEMU 7.2 does not put that device's addresses into a snapshot, so this machine is switched on
    and really boots.
    """
    snapshot = _snapshot(recipe)
    if not last_words:
        return Guest.from_snapshot(snapshot, workdir=workdir)
    guest = Guest.start(snapshot.image, workdir=workdir, cpus=1, extra_qemu=HARDWARE + ERST)
    try:
        guest.wait_ready(BOOTING)
    except BaseException:
        guest.stop()
        raise
    return guest


def prepare(name: str) -> None:
    """Make what `start` starts from, now: whoever is forked from here afterwards starts from this very project."""
    _snapshot(GUESTS[name])


@functools.cache
def _snapshot(recipe: Recipe) -> Snapshot:
    """Once a run: all cells of one are about the same project, whatever is changed meanwhile."""
    return booted(build(recipe, _installed(recipe)), cpus=1, extra_qemu=HARDWARE)


def _installed(recipe: Recipe) -> Install:
    """The project, as its administrator has it, and what makes this machine out of an ordinary guest of the lab."""
    project = administered(recipe.init)
    prepare = _systemd if recipe.init is Init.SYSTEMD else _openrc

    def install(rootdir: Path) -> None:
        prepare(rootdir)
        _write(rootdir, "/etc/modprobe.d/lab-watchdog.conf", WATCHDOG)
        _write(rootdir, FAULTS_PATH, FAULTS, mode=0o755)
        project.run(rootdir)
        _write(rootdir, "/etc/kexecd/kexecd.yaml", POLICY)

    texts = repr((WATCHDOG, PSTORE, NETWORK, NET, FAULTS, UNIT, SERVICE, POLICY))
    return Install(f"{project.key}-{hashlib.sha256(texts.encode()).hexdigest()[:8]}", install)


def _systemd(rootdir: Path) -> None:
    _write(rootdir, "/etc/modules-load.d/lab.conf", f"{DRIVER}\n")
    _write(rootdir, "/etc/systemd/network/lab.network", NETWORK)
    _write(rootdir, "/etc/systemd/system/lab-fault.service", UNIT)
    units = ("systemd-networkd.service", "lab-fault.service")
    run_tool("chroot", rootdir, "systemctl", "enable", *units, timeout=INSTALL_TIMEOUT)


def _openrc(rootdir: Path) -> None:
    """This guest's own base has only 6.1: the other's kernel, modules and initrd, which mounts a root and no more."""
    members = [f"./boot/vmlinuz-{NEW}*", f"./boot/initrd.img-{NEW}*", f"./usr/lib/modules/{NEW}*"]
    run_tool("tar", "-C", rootdir, "-xpf", base(SYSTEMD), "--wildcards", *members, timeout=INSTALL_TIMEOUT)
    for initrd in (rootdir / "boot").glob("initrd.img-*"):
        initrd.rename(initrd.with_name(f"initramfs-{initrd.name.removeprefix('initrd.img-')}.img"))
    modules = rootdir / "etc" / "conf.d" / "modules"
    modules.write_text(modules.read_text().replace('modules="', f'modules="{DRIVER} '))
    with (rootdir / "etc" / "fstab").open("a") as fstab:
        fstab.write(PSTORE)
    for name, text in (("lab-network", NET), ("lab-fault", SERVICE)):
        _write(rootdir, f"/etc/init.d/{name}", text, mode=0o755)
        run_tool("chroot", rootdir, "rc-update", "add", name, "default", timeout=INSTALL_TIMEOUT)


def _write(rootdir: Path, path: str, text: str, mode: int = 0o644) -> None:
    target = rootdir / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    target.chmod(mode)
