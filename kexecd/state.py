# SPDX-License-Identifier: MIT
"""How far a restart has come: /run/kexecd/state.json. No file is the state normal, and so is one of another boot.

Beside it, of this boot too: armed (every restart of this machine is to be a kexec) and finished.json (what led to this
boot is over, its hooks have been called).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from kexecd.kernel import files, sysfs
from kexecd.model import Act, State, Way

NAME = "state.json"
ARMED = "armed"
FINISHED = "finished.json"


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


def arm(run_dir: str) -> None:
    """From now on every restart of this machine is to be a kexec. Raises OSError."""
    files.write_json(os.path.join(run_dir, ARMED), {"boot_id": sysfs.boot_id()})


def disarm(run_dir: str) -> None:
    """Raises OSError, but not where nothing is armed."""
    if os.path.isdir(run_dir):
        files.remove(os.path.join(run_dir, ARMED))


def is_armed(run_dir: str) -> bool:
    return _of_this_boot(os.path.join(run_dir, ARMED))


def finish(run_dir: str, failures: Iterable[str] = ()) -> None:
    """What led to this boot is over; once is enough, whatever came of it. Raises OSError."""
    fields = {"boot_id": sysfs.boot_id(), "failures": list(failures)}
    files.write_json(os.path.join(run_dir, FINISHED), fields)


def is_finished(run_dir: str) -> bool:
    return _of_this_boot(os.path.join(run_dir, FINISHED))


def now(run_dir: str, *, arrived: bool) -> State:
    """The state that this machine is in. arrived: whether a kexec of ours led to this boot."""
    if restart := read(run_dir):
        return restart.state
    return State.UPDATED if arrived and not is_finished(run_dir) else State.NORMAL


def _of_this_boot(path: str) -> bool:
    try:
        return bool(json.loads(files.read_text(path) or "null")["boot_id"] == sysfs.boot_id())
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
