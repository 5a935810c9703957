# SPDX-License-Identifier: MIT
"""How far a restart has come: /run/kexecd/state.json. No file is the state normal, and so is one of another boot."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass

from kexecd.kernel import files, sysfs
from kexecd.model import Act, State, Way

NAME = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A restart that is not over.

    loaded: whether the image was loaded for it, and goes with it when it is cancelled.
    since: seconds since the epoch.
    """

    state: State
    way: Way
    act: Act
    loaded: bool
    since: float


def write(restart: Restart, run_dir: str) -> None:
    """Raises OSError."""
    fields = {"schema": 1, "boot_id": sysfs.boot_id(), **asdict(restart)}
    files.write_json(os.path.join(run_dir, NAME), fields)


def read(run_dir: str) -> Restart | None:
    """None: the state is normal."""
    try:
        fields = json.loads(files.read_text(os.path.join(run_dir, NAME)) or "null")
        if fields["boot_id"] != sysfs.boot_id():
            return None
        return Restart(
            state=State(fields["state"]),
            way=Way(fields["way"]),
            act=Act(fields["act"]),
            loaded=bool(fields["loaded"]),
            since=float(fields["since"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def clear(run_dir: str) -> None:
    """Back to normal. Raises OSError."""
    files.remove(os.path.join(run_dir, NAME))


def reached(state: State, way: Way, act: Act, *, loaded: bool, run_dir: str) -> None:
    """Write down a state that has just been reached. Raises OSError."""
    if state is State.NORMAL:
        clear(run_dir)
    else:
        write(Restart(state=state, way=way, act=act, loaded=loaded, since=time.time()), run_dir)
