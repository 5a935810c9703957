# SPDX-License-Identifier: MIT
"""What was frozen, as the next kernel reads it: the same document in live update's session and on the disk.

In the session it is a sealed memfd of its own, number 0, and the entries follow in their order as 1, 2, ...; on the
disk it is index.json (kexecd.liveupdate.filestore), which the files of the entries lie beside or, where memory carries
them, do not: then it is there so that the next boot can tell what was lost if memory did not arrive.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from kexecd.liveupdate.memory import Shape

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ID = re.compile(r"[0-9a-f]{16}")
SHA256 = re.compile(r"(?:[0-9a-f]{64})?")
MOST = 1 << 63


class Carrier(StrEnum):
    """What takes the content from one kernel to the next."""

    MEMORY = "memory"  # the kernel's live update: it stays where it is
    FILE = "file"  # it is written to the disk, and read again


class Unreadable(ValueError):
    """This is no index; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One memfd. sha256: of the content, empty where memory carries what could still be written."""

    uid: int
    name: str
    shape: Shape
    sha256: str = ""

    def as_json(self) -> dict[str, object]:
        shape = self.shape
        fields = {"bytes": shape.bytes, "seals": shape.seals, "position": shape.position, "mode": shape.mode}
        return {"uid": self.uid, "name": self.name, "shape": fields, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Index:
    """id: of this one freeze. frozen_at: seconds since the epoch."""

    id: str
    boot_id: str
    carrier: Carrier
    frozen_at: float
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all its entries."""
        return sum(entry.shape.bytes for entry in self.entries)

    def text(self) -> bytes:
        told = {
            "schema": SCHEMA,
            "id": self.id,
            "boot_id": self.boot_id,
            "carrier": self.carrier,
            "frozen_at": self.frozen_at,
            "entries": [entry.as_json() for entry in self.entries],
        }
        return json.dumps(told, sort_keys=True).encode() + b"\n"


def parse(data: bytes) -> Index:
    """Raises Unreadable for whatever is not wholly one of ours."""
    try:
        fields = json.loads(data)
        if fields["schema"] != SCHEMA:
            raise Unreadable(f"it is of another kexecd, schema {fields['schema']!r}")
        entries = tuple(_entry(told) for told in fields["entries"])
        index = Index(
            id=_match(ID, fields["id"]),
            boot_id=str(fields["boot_id"]),
            carrier=Carrier(fields["carrier"]),
            frozen_at=float(fields["frozen_at"]),
            entries=entries,
        )
    except Unreadable:
        raise
    except KeyError as error:
        raise Unreadable(f"it has no {error.args[0]}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable("it is damaged or cut short") from error
    if len({(entry.uid, entry.name) for entry in entries}) != len(entries):
        raise Unreadable("a name is in it twice")
    return index


def _entry(told: dict[str, Any]) -> Entry:
    shape = told["shape"]
    return Entry(
        uid=_number(told["uid"], 1 << 32),
        name=_match(NAME, told["name"]),
        shape=Shape(
            bytes=_number(shape["bytes"], MOST),
            seals=_number(shape["seals"], 1 << 16),
            position=_number(shape["position"], MOST),
            mode=_number(shape["mode"], 0o10000),
        ),
        sha256=_match(SHA256, told["sha256"]),
    )


def _number(value: object, end: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end:
        return value
    raise ValueError(value)


def _match(pattern: re.Pattern[str], value: object) -> str:
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    raise ValueError(value)
