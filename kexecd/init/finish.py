# SPDX-License-Identifier: MIT
"""The end of the way down: everything is closed, and somebody has to do the irreversible act.

A ladder, because here a failure has nobody left to read about it: PID 1; ourselves; the firmware through PID 1; the
firmware by ourselves.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from kexecd.errors import NotRestarted
from kexecd.init.base import Init
from kexecd.kernel import spawn
from kexecd.kernel.guard import forbid_in_tests
from kexecd.model import Act

TAKEOVER = 20.0
"""Seconds that PID 1 gets to end this process, after it was told to finish. An idle systemd needs two or three."""

JUMP = 15.0
"""Seconds for jump.py, its last sync included."""


def finish(init: Init, act: Act, *, alone: bool, force: bool, tell: Callable[[str], None]) -> None:
    """Restart the machine; returns only by raising NotRestarted.

    alone: without PID 1, whatever it is.
    force: jump even if a disk can still be written.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # PID 1 ends us with the others when it takes over
    rungs = [(act, True), (act, False), (Act.FIRMWARE, True), (Act.FIRMWARE, False)]
    for rung, with_init in rungs:
        if with_init and (alone and rung is act):
            continue
        if with_init:
            _through(init, rung, tell)
        else:
            _jump(rung, force, tell)
    raise NotRestarted("this machine could not be restarted", "neither PID 1 nor reboot(2) did it")


def _through(init: Init, act: Act, tell: Callable[[str], None]) -> None:
    try:
        told = init.finish(act)
    except OSError as error:
        tell(f"PID 1 could not be told: {error}, doing it without PID 1")
        return
    if told:
        tell(init.describe_finish(act))
        time.sleep(TAKEOVER)
        tell(f"PID 1 did not take over within {TAKEOVER:g} s, doing it without PID 1")


def _jump(act: Act, force: bool, tell: Callable[[str], None]) -> None:
    forbid_in_tests("restart the machine")
    tell(f"calling reboot(2): {act}")
    options = ["--jump"]
    if act is Act.FIRMWARE:
        # Whatever is still dirty: nobody is left who could do better than restart.
        options += ["--firmware", "--force"]
    elif force:
        options += ["--force"]
    try:
        ended = spawn.run([sys.executable, "-I", "-S", jump_file(), *options], seconds=JUMP)
    except OSError as error:
        tell(f"jump.py could not be started: {error}")
        return
    tell(ended.last_line or f"jump.py ended with {ended.exit_code}")


def jump_file() -> str:
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "jump.py")
