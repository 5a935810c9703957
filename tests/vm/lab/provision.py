# SPDX-License-Identifier: MIT
"""The scripts that turn a fresh Debian root into our guest. Text only; image.py runs them.

Each script gets the root directory as $1 and runs on the host under `set -eu`. `essential` runs before the
kernels are configured, because that is when their initrds are made. `customize` runs when every package is in
place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from shlex import quote

# Nobody reads these in a guest, and a smaller root is unpacked, imaged and cached sooner.
PATH_EXCLUDES = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/share/bug/*",
    "/usr/share/lintian/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",
)

FSTAB = """\
{root} / ext4 errors=remount-ro 0 1
/dev/vdb /data ext4 defaults 0 2
"""

PACKAGE_STORE = "/srv/packages"
"""Where the packages of kernels lie that are to be installed later."""

INSTALL_LATER = f"DEBIAN_FRONTEND=noninteractive dpkg --install {PACKAGE_STORE}/*.deb"

# MODULES=list: the guest's disks are known, so the initrd need not carry every driver (it is unpacked twice a
# test, emulated).
INITRAMFS_CONF = """\
MODULES=list
COMPRESS=zstd
COMPRESSLEVEL=9
BUSYBOX=auto
"""

# ext4 names its checksum only in a soft dependency, which initramfs-tools does not follow.
INITRAMFS_MODULES = """\
virtio_pci
virtio_blk
ext4
crc32c_generic
crc32c_intel
"""

# The agent is how tests talk to the guest, so it need not wait for the services of multi-user.target. It
# still stops in the ordinary way at shutdown: an agent that survived would hold files open and hide what is
# tested.
AGENT_DROPIN = """\
[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service
Before=shutdown.target
Conflicts=shutdown.target
"""


def write(path: str, text: str, mode: int | None = None) -> str:
    """The lines that make a file; its mode is what umask gives unless it is named."""
    lines = f'mkdir -p "$1"{quote(path.rpartition("/")[0])}\nprintf %s {quote(text)} > "$1"{quote(path)}\n'
    return lines if mode is None else f'{lines}chmod {mode:o} "$1"{quote(path)}\n'


def guest_lines(*directories: str) -> tuple[str, ...]:
    """What every guest has, whoever its init is: a name, places for its data, a user, a root without a password."""
    places = " ".join(f'"$1"{quote(path)}' for path in ("/data", *directories))
    return (
        write("/etc/hostname", "guest\n"),
        write("/etc/hosts", "127.0.0.1 localhost guest\n"),
        f"mkdir -p {places}\n",
        'chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash guest\n',
        'chroot "$1" passwd --delete root\n',
    )


def essential_script(root_device: str, settings: Mapping[str, str]) -> str:
    """What must lie in the root before initramfs-tools, the kernels and the boot loader are configured.

    settings: more files, by path.
    """
    files = {
        "/etc/fstab": FSTAB.format(root=root_device),
        "/etc/initramfs-tools/conf.d/lab": INITRAMFS_CONF,
        "/usr/share/initramfs-tools/modules.d/lab": INITRAMFS_MODULES,
        **settings,
    }
    return "set -eu\n" + "".join(write(path, text) for path, text in files.items())


def customize_script(masked_units: Iterable[str], later: Iterable[str]) -> str:
    """What is set up when all packages are installed: a user, the agent, fewer units, packages for later."""
    lines = [
        "set -eu\n",
        write("/etc/systemd/system/qemu-guest-agent.service.d/early.conf", AGENT_DROPIN),
        *guest_lines("/etc/systemd/system"),
    ]
    lines += [f'ln -sf /dev/null "$1"/etc/systemd/system/{quote(unit)}\n' for unit in masked_units]
    if names := " ".join(quote(name) for name in later):
        lines += [
            f'mkdir -p "$1"{PACKAGE_STORE}/partial\n',
            f'chroot "$1" apt-get install --yes --download-only -o Dir::Cache::archives={PACKAGE_STORE} {names}\n',
        ]
    return "".join(lines)


def settle_script(machine_id: str, enabled_units: Iterable[str]) -> str:
    """What is done last, after the project is installed on top.

    Without a machine id systemd takes the boot for the machine's first and applies every preset; with /usr
    newer than /etc/.updated it rebuilds its databases. Both are seconds in each boot, and neither is what a
    running machine does.
    """
    lines = ["set -eu\n", write("/etc/machine-id", machine_id + "\n")]
    lines += [
        f'if chroot "$1" test -e /usr/lib/systemd/system/{quote(unit)}; then\n'
        f'    chroot "$1" systemctl enable {quote(unit)}\nfi\n'
        for unit in enabled_units
    ]
    lines.append('touch "$1"/usr\ntouch "$1"/etc/.updated "$1"/var/.updated\n')
    return "".join(lines)
