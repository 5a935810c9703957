# SPDX-License-Identifier: MIT
"""The way down as the old boot leaves it for the new one: /var/lib/kexecd/down.json.

It is what events.jsonl says, with one moment by all clocks, written as late as the disk allows: after that the disk is
closed, and what happens then is part of the gap. It is only ever told, so it is taken as it is: an event that nobody
understands is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass

from kexecd.handoff import STATE_DIR
from kexecd.kernel import files, sysfs
from kexecd.model import Event, Way
from kexecd.report import clock
from kexecd.report.clock import Moment
from kexecd.report.events import EVENTS_FILE, as_json, parse

DOWN = "down.json"
SCHEMA = 1
MOST = 4000
"""Events: a way down has some hundred. Of more the last ones are kept."""

LIMIT = 4 << 20  # bytes that are read

PID_1 = "services"
"""The phase in which PID 1 stops what runs, where it takes the machine down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """What happened in the boot `boot_id` until `moment`. nonce: of the kexec that it was for, else empty."""

    nonce: str
    boot_id: str
    release: str
    way: Way
    moment: Moment
    events: tuple[Event, ...]


def write(down: Down, state_dir: str = STATE_DIR) -> None:
    """Raises OSError."""
    _write(down, [json.dumps(as_json(event)) for event in down.events], state_dir)


def keep(run_dir: str, nonce: str, way: Way, state_dir: str = STATE_DIR) -> None:
    """The same of this boot, with what its events say by now. Raises OSError."""
    down = Down(
        nonce=nonce,
        boot_id=sysfs.boot_id(),
        release=sysfs.kernel_release(),
        way=way,
        moment=clock.moment(),
        events=(),
    )
    # As they are: the way down waits for this, and to take each apart and put it together again takes most of it.
    lines = _lines(run_dir)
    try:
        json.loads(_listed(lines))
    except (ValueError, RecursionError):  # one is not whole, whatever cut it
        lines = [line for line in lines if told(line)]
    _write(down, lines, state_dir)


def _write(down: Down, lines: list[str], state_dir: str) -> None:
    record: dict[str, object] = {
        "schema": SCHEMA,
        "nonce": down.nonce,
        "boot_id": down.boot_id,
        "release": down.release,
        "way": down.way,
        "clock": down.moment.as_json(),
    }
    text = json.dumps(record).removesuffix("}") + f', "events": {_listed(lines[-MOST:])}' + "}\n"
    # Two barriers of a disk less: whoever goes down writes all of it back, and closes it, before the jump.
    files.write_atomic(os.path.join(state_dir, DOWN), text.encode(), mode=0o600, flush=False)


def _listed(lines: list[str]) -> str:
    return f"[{', '.join(lines)}]"


def read(state_dir: str = STATE_DIR) -> Down | None:
    """The last way down that was written; None where there is none that can be read."""
    try:
        text = files.read_text(os.path.join(state_dir, DOWN), limit=LIMIT)
        record = json.loads(text or "null")
        if record["schema"] != SCHEMA:
            return None
        known = []
        for fields in record["events"]:
            with contextlib.suppress(ValueError, KeyError):  # of another kexecd
                known.append(parse(fields))
        return Down(
            nonce=str(record["nonce"]),
            boot_id=str(record["boot_id"]),
            release=str(record["release"]),
            way=Way(record["way"]),
            moment=clock.parse(record["clock"]),
            events=tuple(known),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def events(run_dir: str) -> tuple[Event, ...]:
    """Those of this boot. Raises OSError."""
    return told("\n".join(_lines(run_dir)))


def _lines(run_dir: str) -> list[str]:
    """Each that is at its end; somebody may be writing the last."""
    text = files.read_text(os.path.join(run_dir, EVENTS_FILE), limit=LIMIT) or ""
    return text[: text.rfind("\n") + 1].splitlines()


def told(lines: str) -> tuple[Event, ...]:
    """The events in lines of JSON; one that is not whole is left out."""
    known = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            known.append(parse(json.loads(line)))
    return tuple(known)
