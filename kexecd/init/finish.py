# SPDX-License-Identifier: MIT
"""The end of the way down: everything is closed, and somebody has to do the irreversible act.

A ladder, because here a failure has nobody left to read about it. A jump is ours to do: nothing is left for PID 1 to
close, and asking it costs a second. A restart through the firmware is PID 1's, who may still close what we could not.
The last rung is the kernel's own reset.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from kexecd.errors import NotRestarted
from kexecd.init.base import Init
from kexecd.kernel import syscalls, sysfs, sysrq
from kexecd.kernel.guard import forbid_in_tests
from kexecd.model import Act

TAKEOVER = 20.0
"""Seconds that PID 1 gets to end this process, after it was told to finish. An idle systemd needs two or three."""

RESET = 10.0
"""Seconds that a reset may take to come about."""

Tell = Callable[[str], None]

_COMMANDS = {Act.KEXEC: syscalls.LINUX_REBOOT_CMD_KEXEC, Act.FIRMWARE: syscalls.LINUX_REBOOT_CMD_RESTART}


def describe(init: Init, act: Act, *, alone: bool) -> str:
    """What finish() tries first, for the plan."""
    if alone or (act is Act.KEXEC and not init.has_last_word()):
        return f"call reboot(2): {act}"
    return init.describe_finish(act)


def finish(init: Init, act: Act, *, alone: bool, tell: Tell, fallen: Callable[[], None] = lambda: None) -> None:
    """Restart the machine; returns only by raising NotRestarted.

    alone: without PID 1, whatever it is, for as long as that works. fallen: called when a jump has not come about, and
    the machine is about to restart through the firmware instead.
    """
    word = "" if alone else init.has_last_word()
    if word and act is Act.KEXEC:
        tell(f"{word}, so {init.name} does the rest")
    ours_first = alone or (act is Act.KEXEC and not word)
    rungs = [(act, not ours_first), (act, ours_first), (Act.FIRMWARE, True), (Act.FIRMWARE, False)]
    jumping = act is Act.KEXEC
    for rung, with_init in dict.fromkeys(rungs):
        empty = rung is Act.KEXEC and _nothing_is_loaded()
        if empty and jumping:
            tell("there is no image in memory, so no kexec")
        if jumping and (empty or rung is Act.FIRMWARE):
            jumping = False
            fallen()
        if empty:
            continue  # PID 1 would restart through the firmware by itself, but its way there takes longer
        if with_init:
            _through(init, rung, tell)
        else:
            _by_ourselves(rung, tell)
    tell("nothing else has worked: resetting the machine")
    sysrq.reset()
    time.sleep(RESET)
    raise NotRestarted("this machine could not be restarted", "neither PID 1 nor the kernel did it", instead="nothing")


def _nothing_is_loaded() -> bool:
    """Without sysfs nobody can tell."""
    return os.path.isdir("/sys/kernel") and not sysfs.kexec_loaded()


def _through(init: Init, act: Act, tell: Tell) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # PID 1 ends us with the others when it takes over
    try:
        told = init.finish(act)
    except OSError as error:
        tell(f"PID 1 could not be told: {error}, doing it without PID 1")
        return
    if told:
        tell(init.describe_finish(act))
        time.sleep(TAKEOVER)
        tell(f"PID 1 did not take over within {TAKEOVER:g} s, doing it without PID 1")


def _by_ourselves(act: Act, tell: Tell) -> None:
    forbid_in_tests("restart the machine")
    tell(f"calling reboot(2): {act}")
    try:
        syscalls.reboot(_COMMANDS[act])
    except OSError as error:
        tell(f"reboot(2) returned: {(error.strerror or '').lower()}")
