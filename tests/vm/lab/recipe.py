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

from tests.vm.lab import provision, sysvinit
from tests.vm.lab.loaders import Loader
from tests.vm.lab.storage import BLACKLIST, LAYERED, Storage

# Raise it when something outside the recipe and its scripts changes what a base image holds (mke2fs options,
# for one).
RECIPE_VERSION = 1

APT_SETTINGS = "/etc/apt/apt.conf.d/lab"


class Init(enum.StrEnum):
    """Who is PID 1 in the guest, and who runs its runlevels."""

    SYSTEMD = "systemd"
    SYSV_RC = "sysv-rc"  # sysvinit, Debian's scripts by their numbers
    DEBIAN_OPENRC = "debian-openrc"  # sysvinit, OpenRC in runlevels of Debian's own
    OPENRC_INIT = "openrc-init"  # upstream's runlevels, as on Gentoo, and its own PID 1
    OPENRC_SYSVINIT = "openrc-sysvinit"  # the same runlevels, started by Gentoo's inittab

    @property
    def is_upstream_openrc(self) -> bool:
        return self in (Init.OPENRC_INIT, Init.OPENRC_SYSVINIT)

    @property
    def has_openrc(self) -> bool:
        return self.is_upstream_openrc or self is Init.DEBIAN_OPENRC

    @property
    def ready_probe(self) -> tuple[str, ...]:
        """The command whose output says that the boot is over."""
        match self:
            case Init.SYSTEMD:
                return ("systemctl", "is-system-running")
            case Init.SYSV_RC:
                return ("/bin/sh", "-c", "set -- $(runlevel); pgrep -x 'rc|startpar' || echo $2")
            case _:  # in this order: the one before may be over, and this one not begun
                return ("/bin/sh", "-c", "level=$(rc-status --runlevel); pgrep -x 'rc|openrc' || echo $level")

    @property
    def ready_answers(self) -> frozenset[str]:
        """Which of ready_probe's answers mean "up"; a degraded systemd is up, it only lost a unit."""
        match self:
            case Init.SYSTEMD:
                return frozenset({"running", "degraded"})
            case Init.SYSV_RC:
                return frozenset({"2"})
            case _:
                return frozenset({"default"})


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
    settings: tuple[tuple[str, str], ...] | None = None
    """Files that lie in the root before the packages are configured: (path, content)."""
    base: str | None = None
    """The name of the base image, where another recipe has the same; None: the recipe's own."""
    words: str | None = None
    """More for the kernel's command line."""
    programs: tuple[tuple[str, str], ...] | None = None
    """What lies over the base: (path, content)."""
    boots: str | None = None
    """The beginning of the version that the firmware boots, where it is another than the base was made for."""
    apt: str | None = None
    """Settings of apt's, there before it looks at the mirror."""

    @property
    def cmdline(self) -> str:
        """What QEMU gives to a kernel that it puts into memory itself."""
        words = ("root=" + self.root_device, "ro", "console=ttyS0,115200", self.words or "")
        return " ".join(words).strip()

    @property
    def root_device(self) -> str:
        """The block device of the root filesystem."""
        return self.storage.root_device if self.storage else self.loader.root_device

    def base_scripts(self) -> dict[str, str]:
        """The scripts that run in the new root while its packages are installed, by hook name."""
        if self.init is not Init.SYSTEMD:
            customize = sysvinit.gentoo_script() if self.init.is_upstream_openrc else sysvinit.debian_script()
            return {"essential": sysvinit.essential_script(self.root_device), "customize": customize}
        settings = (*(self.settings or ()), *(self.storage.settings if self.storage else ()))
        setup = {"setup": "set -eu\n" + provision.write(APT_SETTINGS, self.apt)} if self.apt else {}
        return {
            **setup,
            "essential": provision.essential_script(self.root_device, {**self.loader.settings, **dict(settings)}),
            "customize": provision.customize_script(self.masked_units, self.later_kernels)
            + (self.storage.customize if self.storage else ""),
        }

    @property
    def base_key(self) -> str:
        """Twelve hex digits that change whenever the base image would."""
        # Two that share a base differ in who is PID 1 there: that is up to the command line.
        init = Init.OPENRC_SYSVINIT if self.init.is_upstream_openrc else self.init
        base = dataclasses.replace(
            self, name=self.base_name, init=init, base=None, words=None, programs=None, boots=None
        )
        return base.key

    @property
    def base_name(self) -> str:
        return self.base or self.name

    @property
    def key(self) -> str:
        """Twelve hex digits that change whenever anything in the image would, but for what is installed on top."""
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


_DEBIAN = (
    "systemd-sysv", "libpam-systemd", "udev", "dbus", "cron", "passwd",
    "initramfs-tools", "zstd", "kmod", "e2fsprogs", "util-linux", "procps", "iproute2",
    "qemu-guest-agent",
    "python3", "python3-yaml", "python3-psutil",
)  # fmt: skip

# What runs at a random moment, or asks for a person at a terminal.
AT_RANDOM = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "systemd-tmpfiles-clean.timer",
    "getty@tty1.service", "serial-getty@ttyS0.service",
)  # fmt: skip

# What no test asks for, and costs emulated seconds in each boot. Modules are loaded all the same when they are used;
# debugfs stays, which the tests of live update read, and so does utmp: its unit, which comes after multi-user.target,
# has systemd itself remember what it has stopped, as on most machines of this age.
SLOW_TO_BOOT = (
    *(f"modprobe@{module}.service" for module in ("configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop")),
    "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service",
)  # fmt: skip

# A true Debian machine with everything that takes part in a shutdown (logind, journald, udevd, D-Bus, an
# ordinary daemon), and deliberately without kexec-tools: kexecd has to work where nobody installed them. Two
# kernels, so that "boot the newest" and "boot the one that the firmware boots" differ.
DEBIAN12_SYSTEMD = Recipe(
    name="debian12-systemd",
    suite="bookworm",
    init=Init.SYSTEMD,
    packages=(*_DEBIAN, "python3-jeepney"),
    kernels=("linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"),
    firmware_kernel="6.1.",
    masked_units=(*AT_RANDOM, *SLOW_TO_BOOT),
    enabled_units=("kexecd.service",),
    settings=(("/etc/modprobe.d/lab.conf", BLACKLIST),),
)

# The same machine, but what boots is up to a boot loader on its disk. The newer kernel is installed later, in the
# guest, so that the distribution's own hooks tell the boot loader about it.
DEBIAN12_GRUB = dataclasses.replace(
    DEBIAN12_SYSTEMD,
    name="debian12-grub",
    packages=(*_DEBIAN, "grub-pc"),
    kernels=("linux-image-cloud-amd64",),
    later_kernels=("linux-image-6.12-cloud-amd64",),
    loader=Loader.GRUB,
    settings=None,
)
DEBIAN12_SYSTEMD_BOOT = dataclasses.replace(
    DEBIAN12_GRUB,
    name="debian12-sdboot",  # not "-systemd-boot": the cache tells recipes apart by what their files' names begin with
    packages=(*_DEBIAN, "systemd-boot", "dosfstools"),
    loader=Loader.SYSTEMD_BOOT,
)

# The same machine with storage on storage. What nothing here needs at boot is masked: each costs emulated seconds, and
# this guest boots more often than any other.
DEBIAN12_STORAGE = dataclasses.replace(
    DEBIAN12_SYSTEMD,
    name="debian12-storage",
    packages=(
        *_DEBIAN,
        "cryptsetup", "cryptsetup-initramfs", "lvm2", "mdadm", "xfsprogs", "btrfs-progs", "nfs-kernel-server",
    ),
    masked_units=(
        *DEBIAN12_SYSTEMD.masked_units,
        "lvm2-monitor.service", "lvm2-lvmpolld.socket", "dm-event.socket",
        "mdmonitor.service", "mdmonitor-oneshot.timer", "mdcheck_start.timer", "mdcheck_continue.timer",
        "xfs_scrub_all.timer",
        "sys-kernel-debug.mount", "systemd-fsckd.socket",
        "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
        "nfs-server.service", "nfs-mountd.service", "nfs-idmapd.service", "nfsdcld.service", "nfs-blkmap.service",
        "rpcbind.service", "rpcbind.socket", "rpc-statd.service", "rpc-statd-notify.service",
        "auth-rpcgss-module.service", "proc-fs-nfsd.mount", "run-rpc_pipefs.mount", "nfs-client.target",
    ),
    storage=LAYERED,
    settings=None,
    root_mib=1600,
)  # fmt: skip

# The next systemd, whose reboot looks for a loaded image by itself. One kernel: which one is taken is not asked here.
DEBIAN13_SYSTEMD = dataclasses.replace(
    DEBIAN12_SYSTEMD,
    name="debian13-systemd",
    suite="trixie",
    kernels=("linux-image-cloud-amd64",),
    firmware_kernel="6.12.",
)

# The systemd that hands its units' descriptors to live update itself (261 and later). Debian's testing is signed for a
# week at a time, and a mirror that stands still, or a clock that runs ahead, is older than that.
DEBIAN14_SYSTEMD = dataclasses.replace(
    DEBIAN13_SYSTEMD,
    name="debian14-systemd",
    suite="forky",
    firmware_kernel="7.",
    apt='Acquire::Check-Valid-Until "false";\n',
)

# No systemd, no udev and no D-Bus: what a small server has that is kept so.
_SMALL = (
    "sysvinit-core", "initscripts", "cron", "passwd",
    "tiny-initramfs", "kmod", "e2fsprogs", "util-linux", "procps", "iproute2",
    "qemu-guest-agent",
    "python3", "python3-yaml", "python3-psutil",
)  # fmt: skip

DEBIAN12_SYSVINIT = Recipe(
    name="debian12-sysvinit",
    suite="bookworm",
    init=Init.SYSV_RC,
    packages=(*_SMALL, "sysv-rc"),
    kernels=("linux-image-cloud-amd64",),
    firmware_kernel="6.1.",
    root_mib=1024,
    data_mib=256,
)
DEBIAN12_OPENRC = dataclasses.replace(
    DEBIAN12_SYSVINIT, name="debian12-openrc", init=Init.DEBIAN_OPENRC, packages=(*_SMALL, "openrc")
)

# Gentoo's OpenRC, with either of its PID 1s, out of one base.
GENTOO_SYSVINIT = dataclasses.replace(
    DEBIAN12_OPENRC, name="gentoo-sysvinit", init=Init.OPENRC_SYSVINIT, base="gentoo"
)
GENTOO_OPENRC_INIT = dataclasses.replace(
    GENTOO_SYSVINIT,
    name="gentoo-openrc-init",
    init=Init.OPENRC_INIT,
    words="init=/sbin/openrc-init",
    programs=sysvinit.WRAPPERS,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        DEBIAN12_SYSTEMD, DEBIAN13_SYSTEMD, DEBIAN14_SYSTEMD, DEBIAN12_SYSVINIT, DEBIAN12_OPENRC, GENTOO_SYSVINIT,
        GENTOO_OPENRC_INIT, DEBIAN12_GRUB, DEBIAN12_SYSTEMD_BOOT, DEBIAN12_STORAGE,
    )
}  # fmt: skip
