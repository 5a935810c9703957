# SPDX-License-Identifier: MIT
"""The boot partition, mounted read-only for a look if it is not mounted, and unmounted again.

Many machines keep /boot or the EFI system partition unmounted (`noauto`). What lies in the directory below then belongs
to nobody's boot: it is a leftover, and the newest kernel is on the partition.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kexecd.discover import fstab
from kexecd.kernel import mountinfo, spawn, syscalls
from kexecd.kernel.files import join_root

ESP_POINTS = ("/efi", "/boot/efi")

MOUNT = ("/usr/bin/mount", "/bin/mount")
PATIENCE = 30.0  # seconds: a disk may have to spin up, and a filesystem to be checked


def unmounted(root: str, boot_dir: str) -> tuple[str, ...]:
    """The boot partitions that the fstab below `root` knows and that are not mounted there, outermost first."""
    mounted_now = {mount.point for mount in mountinfo.read()}
    wanted = {row.point for row in fstab.read(root) if row.point in (boot_dir, *ESP_POINTS)}
    return tuple(sorted((point for point in wanted if join_root(root, point) not in mounted_now), key=len))


@contextlib.contextmanager
def mounted(boot_dir: str) -> Iterator[None]:
    """This machine's boot partitions mounted, read-only and otherwise as fstab says, as long as this is open.

    Whoever opens a file on one closes it before the end. One that cannot be mounted is passed over: what lies below
    its mount point is then still known to be a leftover (see `unmounted`).
    """
    done: list[str] = []
    try:
        if os.geteuid() == 0:
            done += [point for point in unmounted("/", boot_dir) if _mount(point)]
        yield
    finally:
        for point in reversed(done):
            # Held by somebody who looked at the same time: a mount that stays, read-only, harms nobody.
            with contextlib.suppress(OSError):
                syscalls.umount(point)


def _mount(point: str) -> bool:
    command = next((path for path in MOUNT if os.access(path, os.X_OK)), MOUNT[0])
    try:
        return spawn.run([command, "-o", "ro", point], seconds=PATIENCE).exit_code == 0
    except OSError:
        return False
