# SPDX-License-Identifier: MIT
"""The scripts that turn a fresh Debian root without systemd into our guest: with Debian's sysv-rc, with Debian's
OpenRC, or with OpenRC as its upstream, and Gentoo, set it up. Text only; see provision.py.

Nothing here runs udev: the kernel's devtmpfs has every device, and what would wait for udev costs emulated seconds.
Debian's tiny-initramfs mounts the root, for the same reason.

The Gentoo-like guests are Debian's binary package of OpenRC with service scripts of our own (gentoo/), since that
package has none of upstream's but savecache, cgroups and agetty.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from tests.vm.lab.provision import FSTAB, guest_lines, write

HERE = Path(__file__).parent / "gentoo"

MODULES = "virtio_console i8042 atkbd"
"""What nobody asks for: the agent's port, and a keyboard for Ctrl-Alt-Del."""

# Sourced by /usr/sbin/update-tirfs. The first three are what ext4 and virtio leave to be found by itself.
TINY_INITRAMFS = """\
AUTO_MODULES=no
MICROCODE=no
INCLUDE_MODULES=crc32c_generic,virtio_pci,virtio_blk,ext4
"""

# Sourced by the agent's own init script. The port's name comes from the host a moment after the driver is there.
AGENT_DEFAULTS = """\
until port=$(grep -l qemu.guest_agent /sys/class/virtio-ports/*/name); do sleep 0.1; done
port=${port%/name}
TRANSPORT=virtio-serial:/dev/${port##*/}
"""

NEEDLESS = "bootlogs brightness hwclock.sh mount-configfs procps rc.local rmnologin urandom"
"""Debian's services that have no part in what is tested: to OpenRC each LSB script costs an emulated second, up and
down."""

RUNLEVELS = {
    "sysinit": "devfs sysfs cgroups",
    "boot": "modules fsck root swap localmount qemu-guest-agent",
    "default": "local",
    "shutdown": "killprocs savecache mount-ro",
}
"""What upstream and Gentoo enable, as far as this machine has a use for it. The agent is in `boot`, and so lives on in
single-user mode."""

RC_CONF = """\
rc_logger="YES"
rc_cgroup_mode="unified"
"""

# USE=sysv-utils: where openrc-init is PID 1, sysvinit's programs have nobody to talk to.
WRAPPERS = (
    ("/usr/sbin/halt", "#!/bin/sh\nexec /sbin/openrc-shutdown --halt now\n"),
    ("/usr/sbin/poweroff", "#!/bin/sh\nexec /sbin/openrc-shutdown --poweroff now\n"),
    ("/usr/sbin/reboot", "#!/bin/sh\nexec /sbin/openrc-shutdown --reboot now\n"),
    ("/usr/sbin/shutdown", '#!/bin/sh\nexec /sbin/openrc-shutdown "$@"\n'),
)


def essential_script(root_device: str) -> str:
    """What must lie in the root before the kernel and its initrd are configured."""
    files = {
        "/etc/fstab": FSTAB.format(root=root_device),
        "/etc/tiny-initramfs/tiny-initramfs.conf": TINY_INITRAMFS,
    }
    return "set -eu\n" + "".join(write(path, text) for path, text in files.items())


def debian_script() -> str:
    """sysv-rc or OpenRC, set up by Debian's packages; nobody logs in on a screen."""
    return "".join(
        (
            "set -eu\n",
            *guest_lines(),
            write("/etc/default/qemu-guest-agent", AGENT_DEFAULTS),
            write("/etc/modules", MODULES.replace(" ", "\n") + "\n"),
            """sed -i '/getty/d' "$1"/etc/inittab\n""",
            f'for name in {NEEDLESS}; do chroot "$1" update-rc.d -f "$name" remove; done\n',
        )
    )


def gentoo_script() -> str:
    """OpenRC with upstream's runlevels, for openrc-init and for sysvinit alike: the command line says who is PID 1."""
    scripts = sorted((HERE / "init.d").iterdir())
    lines = [
        "set -eu\n",
        *guest_lines(),
        'cd "$1"/etc/init.d\n',
        "find . -type f ! -name savecache ! -name cgroups -delete\n",
        'rm -rf "$1"/etc/rc?.d "$1"/etc/runlevels/*\n',
        write("/etc/inittab", (HERE / "inittab").read_text()),
        write("/etc/rc.conf", RC_CONF),
        write("/etc/conf.d/modules", f'modules="{MODULES}"\n'),
        'for image in "$1"/boot/initrd.img-*; do mv "$image" "$1/boot/initramfs-${image##*/initrd.img-}.img"; done\n',
    ]
    lines += [write(f"/etc/init.d/{script.name}", script.read_text(), mode=0o755) for script in scripts]
    for level, services in RUNLEVELS.items():
        lines.append(f'mkdir "$1"/etc/runlevels/{level}\n')
        lines += [f'ln -s /etc/init.d/{name} "$1"/etc/runlevels/{level}/\n' for name in services.split()]
    return "".join(lines)


def put_script(files: tuple[tuple[str, str], ...]) -> str:
    """Programs that take the place of others, which may be links to a third."""
    return "set -eu\n" + "".join(f'rm -f "$1"{quote(path)}\n{write(path, text, mode=0o755)}' for path, text in files)
