# SPDX-License-Identifier: MIT
"""Which program PID 1 is, where it is not systemd, and how it is asked for an ordinary restart.

Never by `reboot -k`: sysvinit takes that for an error, openrc-init hangs if no image is in memory, and busybox does not
know it. An ordinary restart is the same everywhere, and jumps from our own last hook.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum

from kexecd.errors import NotRestarted
from kexecd.kernel.spawn import run

ACCEPTING = 25.0
"""Seconds for it to take the request."""


class Pid1(StrEnum):
    SYSVINIT = "sysvinit"
    OPENRC_INIT = "openrc-init"
    BUSYBOX = "busybox"
    OTHER = "another PID 1"

    @property
    def words(self) -> tuple[str, ...]:
        """The command that asks for a restart, without the directory that it is in."""
        return _WORDS.get(self, ())


_WORDS = {
    Pid1.SYSVINIT: ("shutdown", "-r", "now"),
    Pid1.OPENRC_INIT: ("openrc-shutdown", "-r", "now"),
    Pid1.BUSYBOX: ("reboot",),
}
_PROGRAMS = {"init": Pid1.SYSVINIT, "openrc-init": Pid1.OPENRC_INIT, "busybox": Pid1.BUSYBOX}
INITCTL = ("run/initctl", "dev/initctl")
"""sysvinit's fifo (initctl(5)): others are called init too."""

DIRECTORIES = ("/sbin", "/usr/sbin", "/bin", "/usr/bin")


def which(root: str = "/") -> Pid1:
    """By its program; by its name where that cannot be seen."""
    try:
        name = os.path.basename(os.readlink(os.path.join(root, "proc/1/exe")))
    except OSError:
        name = comm(root)
    found = _PROGRAMS.get(name.partition(" (deleted)")[0].partition(".")[0], Pid1.OTHER)
    if found is Pid1.SYSVINIT and not any(os.path.exists(os.path.join(root, path)) for path in INITCTL):
        return Pid1.OTHER
    return found


def comm(root: str = "/") -> str:
    """Its name; empty if it cannot be seen."""
    try:
        with open(os.path.join(root, "proc/1/comm"), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def runlevel(root: str = "/") -> str:
    """The runlevel that sysvinit is in or enters, which it shows in its own command line, "init [6]"; else empty."""
    try:
        with open(os.path.join(root, "proc/1/cmdline"), encoding="utf-8", errors="replace") as file:
            found = re.match(r"\S*init \[(\w)\]", file.read(64))
    except OSError:
        return ""
    return found[1] if found else ""


def program(name: str) -> str:
    """As an absolute path, since PATH may be anybody's; empty if it is not there."""
    return next((path for path in (f"{place}/{name}" for place in DIRECTORIES) if os.access(path, os.X_OK)), "")


def ask(pid1: Pid1) -> None:
    """For an ordinary restart. Raises NotRestarted."""
    hint = "kexecctl reboot --fast does it without PID 1"
    name, *options = pid1.words or ("",)
    if not name or not (path := program(name)):
        why = f"there is no {name}" if name else "nobody knows how"
        raise NotRestarted(f"{pid1} cannot be asked for a restart", why, hint=hint)
    finished = run([path, *options], seconds=ACCEPTING)
    if finished.exit_code:
        why = finished.last_line or f"exit status {finished.exit_code}"
        raise NotRestarted(f"{pid1} did not accept `{' '.join(pid1.words)}`", why, hint=hint)
