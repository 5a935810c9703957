# SPDX-License-Identifier: MIT
"""fstab(5): what is to be mounted where. A pure parser; lines that it cannot take are passed over, as mount(8) does."""

from __future__ import annotations

from dataclasses import dataclass

from kexecd.kernel.files import read_text

FSTAB = "/etc/fstab"


@dataclass(frozen=True, slots=True)
class Row:
    source: str  # a device, UUID=..., LABEL=..., PARTUUID=...
    point: str
    fstype: str
    options: frozenset[str]

    @property
    def uuid(self) -> str:
        """The filesystem's UUID where it is mounted by that, else empty."""
        for prefix in ("UUID=", "/dev/disk/by-uuid/"):
            if self.source.startswith(prefix):
                return self.source.removeprefix(prefix).strip('"')
        return ""

    @property
    def subvolume(self) -> str:
        """The btrfs subvolume that is mounted, with a leading slash; empty for none."""
        for option in self.options:
            if option.startswith("subvol="):
                return "/" + option.removeprefix("subvol=").strip("/")
        return ""


def parse(text: str) -> tuple[Row, ...]:
    rows = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith("#"):
            point = "/" + _unescape(fields[1]).strip("/") if fields[1].startswith("/") else fields[1]
            options = frozenset(fields[3].split(",")) if len(fields) > 3 else frozenset(("defaults",))
            rows.append(Row(_unescape(fields[0]), point, fields[2], options))
    return tuple(rows)


def read(root: str = "/") -> tuple[Row, ...]:
    """The rows of /etc/fstab; none if it cannot be read, which is how a machine without one looks."""
    try:
        return parse(read_text(FSTAB, root=root) or "")
    except OSError:
        return ()


def mounted_at(rows: tuple[Row, ...], point: str) -> Row | None:
    """The row that mounts something exactly at `point`."""
    return next((row for row in rows if row.point == point), None)


def _unescape(field: str) -> str:
    """getmntent(3): blanks are written in octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
