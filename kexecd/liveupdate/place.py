# SPDX-License-Identifier: MIT
"""Where the holder is found, and whether one is missed: for whoever only wants to know whether there is anything to do.

A restart of a machine on which nobody hands anything over imports this, and nothing else of the room.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from kexecd.kernel import files, sysfs

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

NAME = "state"  # the socket, in the run directory
RECORD = "held.json"  # what is held, beside it


def exists(run_dir: str) -> bool:
    """Whether there is a holder, or was one that has ended without a word."""
    return os.path.exists(os.path.join(run_dir, NAME)) or bool(held(run_dir))


def is_there(path: str) -> bool:
    """Whether somebody listens."""
    import socket  # late: who only wants to know whether there is anything to do does not ask

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        try:
            caller.connect(path)
        except OSError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Summary:
    """How far the whole has come, as the holder last wrote it: kexecd.liveupdate.store.Store has the words."""

    state: str = "normal"
    carrier: str = ""
    why: str = ""
    count: int = 0
    lost: int = 0


def write_record(run_dir: str, told: Mapping[str, object] | None) -> None:
    """None: nothing is held, and nobody has to look. Raises OSError."""
    path = os.path.join(run_dir, RECORD)
    if told is None:
        files.remove(path)
    else:
        # Without the spaces for people: it is written on the way to the jump, and Python's own C leaves them out.
        files.write_atomic(path, json.dumps({"boot_id": sysfs.boot_id(), **told}).encode() + b"\n", mode=0o600)


def summary(run_dir: str) -> Summary:
    """Of this boot; the defaults where nothing is held."""
    try:
        told = _record(run_dir)
        return Summary(**{field.name: told[field.name] for field in fields(Summary)}) if told else Summary()
    except (TypeError, KeyError):
        return Summary()


def held(run_dir: str) -> tuple[tuple[int, str], ...]:
    """The user and the name of each memfd that is held, or was when its holder ended, in this boot."""
    try:
        told = _record(run_dir) or {"held": ()}
        return tuple((int(uid), str(name)) for uid, name in told["held"])
    except (ValueError, TypeError, KeyError):
        return ()


def _record(run_dir: str) -> dict[str, Any] | None:
    """None: there is none of this boot."""
    try:
        told: dict[str, Any] = json.loads(files.read_text(os.path.join(run_dir, RECORD)) or "null")
        return told if told["boot_id"] == sysfs.boot_id() else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
