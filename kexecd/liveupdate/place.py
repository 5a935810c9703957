# SPDX-License-Identifier: MIT
"""Where the holder is found, and whether one is missed: for whoever only wants to know whether there is anything to do.

A restart of a machine on which nobody hands anything over imports this, and nothing else of the room.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping

from kexecd.kernel import files, sysfs

NAME = "state"  # the socket, in the run directory
RECORD = "held.json"  # what is held, beside it


def exists(run_dir: str) -> bool:
    """Whether there is a holder, or was one that has ended without a word."""
    return os.path.exists(os.path.join(run_dir, NAME)) or bool(held(run_dir))


def is_there(path: str) -> bool:
    """Whether somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        try:
            caller.connect(path)
        except OSError:
            return False
        return True


def write_record(run_dir: str, told: Mapping[str, object]) -> None:
    """Raises OSError."""
    files.write_json(os.path.join(run_dir, RECORD), {"boot_id": sysfs.boot_id(), **told}, mode=0o600)


def held(run_dir: str) -> tuple[tuple[int, str], ...]:
    """The user and the name of each memfd that is held, or was when its holder ended, in this boot."""
    try:
        told = json.loads(files.read_text(os.path.join(run_dir, RECORD)) or "null")
        if told["boot_id"] != sysfs.boot_id():
            return ()
        return tuple((int(uid), str(name)) for uid, name in told["held"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ()
