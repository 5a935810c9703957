# SPDX-License-Identifier: MIT
"""What a guest is made of. A recipe is pure data; its key names everything that was built from it.

A recipe's key covers its own fields and the scripts that provision.py writes from them, so that a changed
word in either makes another image and never a stale one. The package mirror's state is not in it: delete
`.cache/vm` to pick up newer packages.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from dataclasses import dataclass

from tests.vm.lab import provision
from tests.vm.lab.loaders import Loader

# Raise it when something outside the recipe and its scripts changes what a base image holds (mke2fs options,
# for one).
RECIPE_VERSION = 1


class Init(enum.StrEnum):
    """Who is PID 1 in the guest."""

    SYSTEMD = "systemd"
    OPENRC = "openrc"
    SYSVINIT = "sysvinit"

    @property
    def ready_probe(self) -> tuple[str, ...]:
        """The command whose output says that the boot is over."""
        if self is Init.SYSTEMD:
            return ("systemctl", "is-system-running")
        return ("/bin/sh", "-c", "rc-status --runlevel 2>/dev/null || runlevel | cut -d' ' -f2")

    @property
    def ready_answers(self) -> frozenset[str]:
        """Which of ready_probe's answers mean "up"; a degraded systemd is up, it only lost a unit."""
        if self is Init.SYSTEMD:
            return frozenset({"running", "degraded"})
        return frozenset({"default", "2", "3", "4", "5"})


@dataclass(frozen=True)
class Recipe:
    """One kind of guest. Sizes are in MiB."""

    name: str
    suite: str
    init: Init
    packages: tuple[str, ...]
    kernels: tuple[str, ...]
    """Kernel meta packages; the first is the one that the firmware boots."""
    firmware_kernel: str
    """The beginning of that kernel's version, to tell its files in /boot from the others'."""
    masked_units: tuple[str, ...] = ()
    enabled_units: tuple[str, ...] = ()
    """Units of the project to enable after `make install`, as its user would."""
    later_kernels: tuple[str, ...] = ()
    """Kernel meta packages that are not installed: they lie, with what they need, in provision.PACKAGE_STORE."""
    loader: Loader = Loader.QEMU
    root_mib: int = 2048
    data_mib: int = 1024

    @property
    def cmdline(self) -> str:
        """What QEMU gives to a kernel that it puts into memory itself."""
        return f"root={self.loader.root_device} ro console=ttyS0,115200"

    def base_scripts(self) -> dict[str, str]:
        """The scripts that run in the new root while its packages are installed, by hook name."""
        return {
            "essential": provision.essential_script(self.loader.root_device, self.loader.settings),
            "customize": provision.customize_script(self.masked_units, self.later_kernels),
        }

    @property
    def key(self) -> str:
        """Twelve hex digits that change whenever the base image would."""
        contents = {
            "version": RECIPE_VERSION,
            "recipe": dataclasses.asdict(self),
            "scripts": self.base_scripts(),
            "in_the_guest": (self.loader.setup, provision.INSTALL_LATER),
            "first_partition": repr(self.loader.first_partition),
            "path_excludes": provision.PATH_EXCLUDES,
        }
        return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]


# A true Debian machine with everything that takes part in a shutdown (logind, journald, udevd, D-Bus, an
# ordinary daemon), and deliberately without kexec-tools: kexecd has to work where nobody installed them. Two
# kernels, so that "boot the newest" and "boot the one that the firmware boots" differ.
DEBIAN12_SYSTEMD = Recipe(
    name="debian12-systemd",
    suite="bookworm",
    init=Init.SYSTEMD,
    packages=(
        "systemd-sysv", "libpam-systemd", "udev", "dbus", "cron", "passwd",
        "initramfs-tools", "zstd", "kmod", "e2fsprogs", "util-linux", "procps", "iproute2",
        "qemu-guest-agent",
        "python3", "python3-yaml", "python3-psutil",
    ),
    kernels=("linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"),
    firmware_kernel="6.1.",
    # Each of these costs emulated seconds at boot or runs at a random moment; none takes part in what is
    # tested.
    masked_units=(
        "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
        "e2scrub_all.timer", "e2scrub_reap.service", "systemd-tmpfiles-clean.timer",
        "getty@tty1.service", "serial-getty@ttyS0.service",
    ),
    enabled_units=("kexecd.service",),
)  # fmt: skip

# The same machine, but what boots is up to a boot loader on its disk. The newer kernel is installed later, in the
# guest, so that the distribution's own hooks tell the boot loader about it.
DEBIAN12_GRUB = dataclasses.replace(
    DEBIAN12_SYSTEMD,
    name="debian12-grub",
    packages=(*DEBIAN12_SYSTEMD.packages, "grub-pc"),
    kernels=("linux-image-cloud-amd64",),
    later_kernels=("linux-image-6.12-cloud-amd64",),
    loader=Loader.GRUB,
)
DEBIAN12_SYSTEMD_BOOT = dataclasses.replace(
    DEBIAN12_GRUB,
    name="debian12-sdboot",  # not "-systemd-boot": the cache tells recipes apart by what their files' names begin with
    packages=(*DEBIAN12_SYSTEMD.packages, "systemd-boot", "dosfstools"),
    loader=Loader.SYSTEMD_BOOT,
)

RECIPES = {recipe.name: recipe for recipe in (DEBIAN12_SYSTEMD, DEBIAN12_GRUB, DEBIAN12_SYSTEMD_BOOT)}
