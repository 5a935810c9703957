# SPDX-License-Identifier: MIT
"""The way up, as this boot leaves it for whoever asks later: /var/lib/kexecd/up.json.

Kept once the boot is over, since the kernel forgets its first messages, and clocks are set.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from kexecd.handoff import STATE_DIR
from kexecd.kernel import files
from kexecd.report import clock
from kexecd.report.clock import Moment

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

UP = "up.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Service:
    """A unit or a service that took its time: from when to when, in seconds since the kernel's start."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """When a boot came to what, in seconds since its kernel's start; None: there is none, or nobody can tell.

    initrd: the kernel has started it. userspace: the init that stays has begun. ready: that has reached its usual
    target or runlevel. services: the slowest, in the order in which they began. source: who told, in words.
    """

    initrd: float | None = None
    userspace: float | None = None
    ready: float | None = None
    services: tuple[Service, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """What is known of a boot. moment: when this was looked at.

    confirmed: when it was found healthy, in seconds since its kernel's start; None: it was not, or not yet.
    """

    boot_id: str
    release: str
    init: str
    moment: Moment
    marks: Marks
    confirmed: float | None = None


def write(up: Up, state_dir: str = STATE_DIR) -> None:
    """Atomic, and on the disk when it returns. Raises OSError."""
    fields = asdict(up)
    fields["clock"] = fields.pop("moment")
    files.write_json(os.path.join(state_dir, UP), {"schema": SCHEMA, **fields}, mode=0o600)


def read(boot_id: str, state_dir: str = STATE_DIR) -> Up | None:
    """What was kept of this boot; None where nothing was that can be read."""
    try:
        record = json.loads(files.read_text(os.path.join(state_dir, UP)) or "null")
        if record["schema"] != SCHEMA or record["boot_id"] != boot_id:
            return None
        return Up(
            boot_id=boot_id,
            release=str(record["release"]),
            init=str(record["init"]),
            moment=clock.parse(record["clock"]),
            marks=_marks(record["marks"]),
            confirmed=_seconds(record["confirmed"]),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _marks(fields: dict[str, Any]) -> Marks:
    return Marks(
        initrd=_seconds(fields["initrd"]),
        userspace=_seconds(fields["userspace"]),
        ready=_seconds(fields["ready"]),
        services=tuple(Service(str(row["name"]), float(row["begin"]), float(row["end"])) for row in fields["services"]),
        source=str(fields["source"]),
    )


def _seconds(value: object) -> float | None:
    return None if value is None else float(str(value))
