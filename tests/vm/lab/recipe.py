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
from tests.vm.lab.storage import LAYERED, Storage

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
    storage: Storage | None = None
    """What the root and the other disks are made of; None: the root and /data are a disk each."""
    root_mib: int = 2048
    data_mib: int = 1024

    @property
    def cmdline(self) -> str:
        """What QEMU gives to a kernel that it puts into memory itself."""
        return f"root={self.root_device} ro console=ttyS0,115200"

    @property
    def root_device(self) -> str:
        """The block device of the root filesystem."""
        return self.storage.root_device if self.storage else self.loader.root_device

    def base_scripts(self) -> dict[str, str]:
        """The scripts that run in the new root while its packages are installed, by hook name."""
        return {
            "essential": provision.essential_script(
                self.root_device, {**self.loader.settings, **dict(self.storage.settings if self.storage else ())}
            ),
            "customize": provision.customize_script(self.masked_units, self.later_kernels)
            + (self.storage.customize if self.storage else ""),
        }

    @property
    def key(self) -> str:
        """Twelve hex digits that change whenever the base image would."""
        # Without what a recipe has not: a new kind of guest does not make the others anew.
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        contents = {
            "version": RECIPE_VERSION,
            "recipe": fields,
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

# The same machine with storage on storage. What nothing here needs at boot is masked: each costs emulated seconds, and
# this guest boots more often than any other.
DEBIAN12_STORAGE = dataclasses.replace(
    DEBIAN12_SYSTEMD,
    name="debian12-storage",
    packages=(
        *DEBIAN12_SYSTEMD.packages,
        "cryptsetup", "cryptsetup-initramfs", "lvm2", "mdadm", "xfsprogs", "btrfs-progs", "nfs-kernel-server",
    ),
    masked_units=(
        *DEBIAN12_SYSTEMD.masked_units,
        "lvm2-monitor.service", "lvm2-lvmpolld.socket", "dm-event.socket",
        "mdmonitor.service", "mdmonitor-oneshot.timer", "mdcheck_start.timer", "mdcheck_continue.timer",
        "xfs_scrub_all.timer",
        *(f"modprobe@{module}.service" for module in ("configfs", "drm", "efi_pstore", "fuse")),
        "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
        "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount",
        "systemd-binfmt.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
        "systemd-fsckd.socket",
        "nfs-server.service", "nfs-mountd.service", "nfs-idmapd.service", "nfsdcld.service", "nfs-blkmap.service",
        "rpcbind.service", "rpcbind.socket", "rpc-statd.service", "rpc-statd-notify.service",
        "auth-rpcgss-module.service", "proc-fs-nfsd.mount", "run-rpc_pipefs.mount", "nfs-client.target",
    ),
    storage=LAYERED,
    root_mib=1600,
)  # fmt: skip

RECIPES = {
    recipe.name: recipe for recipe in (DEBIAN12_SYSTEMD, DEBIAN12_GRUB, DEBIAN12_SYSTEMD_BOOT, DEBIAN12_STORAGE)
}
