# SPDX-License-Identifier: MIT
"""Which machine this is: one short word that changes with the machine, with its firmware, and with the installation.

The firmware belongs to it because a kexec hands devices on as the firmware's last start has left them; DMI is in
Documentation/ABI/testing/sysfs-firmware-dmi-entries and drivers/firmware/dmi-id.c, machine-id in machine-id(5).
"""

from __future__ import annotations

from kexecd.kernel.files import read_text

_DMI = "/sys/class/dmi/id"

PARTS = (
    (f"{_DMI}/sys_vendor", "/sys/firmware/devicetree/base/compatible"),
    (f"{_DMI}/product_name", "/sys/firmware/devicetree/base/model"),
    (f"{_DMI}/bios_version",),
    ("/etc/machine-id", "/var/lib/dbus/machine-id"),
)
"""Of each the first that is there. Everyone may read them, so root and others come to the same word."""


def fingerprint(root: str = "/") -> str:
    """Sixteen hexadecimal digits, also where nothing of it is known."""
    told = "\n".join(_first(root, paths) for paths in PARTS)
    return _sha256(told.encode(errors="surrogateescape"))[:16]


def _sha256(data: bytes) -> str:
    """By Python's own: hashlib loads OpenSSL for it, which takes a slow machine longer than all else in a record."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found, unused-ignore]  # Python 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found, unused-ignore]
        except ImportError:  # a Python that was built without
            from hashlib import sha256
    return str(sha256(data).hexdigest())


def _first(root: str, paths: tuple[str, ...]) -> str:
    return next((text for path in paths if (text := _read(root, path))), "")


def _read(root: str, path: str) -> str:
    try:
        return (read_text(path, root=root) or "").strip(" \t\n\0")
    except OSError:
        return ""
