# SPDX-License-Identifier: MIT
"""Device-mapper, by its ioctls: closing a LUKS volume, an LVM volume or whatever else carries nothing any more.

include/uapi/linux/dm-ioctl.h. Not through dmsetup: it waits for udev, which has been stopped by then.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from kexecd.kernel.guard import forbid_in_tests

CONTROL = "/dev/mapper/control"

# struct dm_ioctl: version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding, dev,
# name[DM_NAME_LEN], uuid[DM_UUID_LEN], data[7]. 4.0.0 is the oldest interface that every kernel of today accepts.
HEADER = struct.Struct("=3I2I1I1i3I1Q128s129s7s")
VERSION = (4, 0, 0)
NAME_LENGTH = 128
DM_DEV_REMOVE = 0xC000FD04 | HEADER.size << 16  # _IOWR(0xfd, 4, struct dm_ioctl)


def remove_request(label: str) -> bytes:
    """The argument of DM_DEV_REMOVE for the device of this name; raises OSError, ENAMETOOLONG."""
    name = os.fsencode(label)
    if len(name) >= NAME_LENGTH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), label)
    return HEADER.pack(*VERSION, HEADER.size, HEADER.size, 0, 0, 0, 0, 0, 0, name, b"", b"")


def remove(label: str) -> None:
    """Close a device. One that is gone is no error; raises OSError, EBUSY while anybody has it open."""
    forbid_in_tests(f"close {label}")
    request = remove_request(label)
    fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, DM_DEV_REMOVE, request)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)
