# SPDX-License-Identifier: MIT
"""What is arranged in a guest before somebody takes a door: an image in memory, or a fault, each a real one."""

from __future__ import annotations

from tests.vm.lab.guest import Guest
from tests.vm.lab.recipe import Init

KEXECCTL = "/usr/sbin/kexecctl"

VETO = "the database is being moved"

VETO_HOOK = f"""\
#!/bin/sh
[ "$KEXECD_CALL" != prepare ] || {{ echo "{VETO}"; exit 1; }}
"""

CUT_SHORT = 'for kernel in /boot/vmlinuz*; do truncate --size=3000000 "$kernel"; done'

# kexec_file_load(2) with KEXEC_FILE_UNLOAD, include/uapi/linux/kexec.h: what `kexec -u` does.
UNLOAD = "/usr/bin/python3 -I -S -c 'import ctypes; ctypes.CDLL(None).syscall(320, -1, -1, 0, None, 1)'"

# Somebody unloads the image when everything is closed, just before the jump: what systemd-shutdown calls last, and what
# makes the disks read-only elsewhere.
LATE_HOOK = "/usr/lib/systemd/system-shutdown/unload"
DEBIAN_LAST, OPENRC_LAST = "/etc/init.d/umountroot", "/etc/init.d/mount-ro"

# cgroups(7), "freezer": PID 1 does nothing any more, whatever it is asked.
HOLD = """\
set -e
root=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET) || {
    root=/sys/fs/cgroup
    mount -t cgroup2 cgroup2 $root
}
group=$root/init.scope
if [ ! -d $group ]; then
    mkdir $group
    echo 1 > $group/cgroup.procs
fi
grep -qx 1 $group/cgroup.procs
echo 1 > $group/cgroup.freeze
until grep -q 'frozen 1' $group/cgroup.events; do sleep 0.1; done
"""


def nothing(guest: Guest) -> None:
    """The machine as it stands."""


def image(guest: Guest) -> None:
    """Somebody has put a kernel into memory."""
    guest.run(KEXECCTL, "load", timeout=60)


def no_kernel(guest: Guest) -> None:
    guest.run("sh", "-c", "rm /boot/vmlinuz*")


def cut_kernel(guest: Guest) -> None:
    guest.run("sh", "-c", CUT_SHORT)


def forbidden(guest: Guest) -> None:
    guest.run("sysctl", "-w", "kernel.kexec_load_disabled=1")


def veto(guest: Guest) -> None:
    guest.put("/etc/kexecd/hooks.d/50-veto", VETO_HOOK.encode(), mode=0o755)


def unload_late(guest: Guest) -> None:
    init = guest.image.recipe.init
    if init is Init.SYSTEMD:
        guest.put(LATE_HOOK, f"#!/bin/sh\n{UNLOAD}\n".encode(), mode=0o755)
    elif init.is_upstream_openrc:
        text = guest.get(OPENRC_LAST).decode()
        guest.put(OPENRC_LAST, f"{text}\nstart_post()\n{{\n\t{UNLOAD}\n}}\n".encode(), mode=0o755)
    else:
        interpreter, _, rest = guest.get(DEBIAN_LAST).decode().partition("\n")
        text = f'{interpreter}\n[ "$1" != stop ] || {UNLOAD}\n{rest}'
        guest.put(DEBIAN_LAST, text.encode(), mode=0o755)


def silent_init(guest: Guest) -> None:
    """No D-Bus, and a PID 1 that does not answer."""
    if guest.image.recipe.init is Init.SYSTEMD:
        guest.run("systemctl", "stop", "dbus.socket", "dbus.service")
    guest.run("sh", "-c", HOLD)
