# SPDX-License-Identifier: MIT
"""The guest's image: the lab's Debian, with kexec(8), and with sysvinit unpacked into it but not installed.

Nobody's scripts may take part but those that are called: kexec-tools' own load a kernel at shutdown, so they are
removed, and sysvinit-core would replace systemd-sysv. Facts: Debian 12's packages initscripts, sysvinit-core and
kexec-tools.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab.image import INSTALL_TIMEOUT, Install
from tests.vm.lab.recipe import AT_RANDOM, DEBIAN12_SYSTEMD, Recipe
from tests.vm.lab.tools import run_tool

PEERS = "/usr/local/lib/peers"
"""Where sysvinit's packages are unpacked."""

UP = "bench: the machine is up"
"""What the machine with sysvinit prints when its boot is over; systemd can be asked."""

INITTAB = f"""\
id:2:initdefault:
si::sysinit:{PEERS}/boot
"""

# What a small server has running beside its work. No script of Debian's: what is measured is the way down.
BOOT = f"""\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -o remount,rw /
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sys /sys
mountpoint -q /run || mount -t tmpfs run /run
mkdir -p /run/dbus /run/lock
modprobe virtio_console
mount /data
/lib/systemd/systemd-udevd --daemon
dbus-daemon --system --fork
cron
until port=$(grep -l qemu.guest_agent /sys/class/virtio-ports/*/name); do sleep 0.1; done
qemu-ga --daemonize --method virtio-serial --path "/dev/$(basename "$(dirname "$port")")"
echo "{UP}" > /dev/console
"""

UNPACK = f"""
mkdir -p "$1"{PEERS}
chroot "$1" sh -euc '
    cd {PEERS}
    apt-get -o APT::Sandbox::User=root download initscripts sysvinit-core
    for package in *.deb; do dpkg --extract "$package" .; done
    rm -- *.deb
    cp -a lib/init/. /lib/init/
    rm -f /etc/default/kexec /etc/init.d/kexec* /etc/rc?.d/*kexec*
'
printf %s '{INITTAB}' > "$1"/etc/inittab
printf %s '{BOOT}' > "$1"{PEERS}/boot
chmod 755 "$1"{PEERS}/boot
"""


class Pid1(enum.StrEnum):
    """Who starts the image."""

    SYSTEMD = "systemd"
    SYSVINIT = "sysvinit"

    @property
    def cmdline(self) -> str:
        return f"init={PEERS}/sbin/init" if self is Pid1.SYSVINIT else ""


@dataclass(frozen=True)
class PeersRecipe(Recipe):
    """A recipe that unpacks the peers when everything else is in place."""

    def base_scripts(self) -> dict[str, str]:
        scripts = super().base_scripts()
        return {**scripts, "customize": scripts["customize"] + UNPACK}


NOT_OF_PEERS = (
    "usr/lib/systemd/system/systemd-reboot.service.d/kexecd.conf", "usr/lib/systemd/system-shutdown/kexecd.shutdown",
)
"""What of kexecd takes part when systemd goes down by itself; --fast has no use for it."""

RECIPE = PeersRecipe(
    name="bench-debian12",  # not "debian12-...": the cache tells recipes apart by what their files' names begin with
    suite=DEBIAN12_SYSTEMD.suite,
    init=DEBIAN12_SYSTEMD.init,
    packages=(*DEBIAN12_SYSTEMD.packages, "kexec-tools"),
    kernels=DEBIAN12_SYSTEMD.kernels,
    firmware_kernel=DEBIAN12_SYSTEMD.firmware_kernel,
    masked_units=AT_RANDOM,  # and no more: what an ordinary machine has mounted is to be unmounted here too
)


def project(checkout: Path) -> Install:
    """The project as it is in a checkout, this one or another to compare with. It is delivered, so it needs no key."""

    def install(rootdir: Path) -> None:
        words = (f"DESTDIR={rootdir}", "PREFIX=/usr", "INITS=systemd")
        run_tool("make", "-C", checkout, "install", *words, timeout=INSTALL_TIMEOUT)
        for path in NOT_OF_PEERS:
            rootdir.joinpath(path).unlink(missing_ok=True)

    return Install("", install)
