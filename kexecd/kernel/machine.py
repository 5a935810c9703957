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
    import hashlib  # late: it loads OpenSSL, and most commands do not ask

    told = "\n".join(_first(root, paths) for paths in PARTS)
    return hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:16]


def _first(root: str, paths: tuple[str, ...]) -> str:
    return next((text for path in paths if (text := _read(root, path))), "")


def _read(root: str, path: str) -> str:
    try:
        return (read_text(path, root=root) or "").strip(" \t\n\0")
    except OSError:
        return ""
