# SPDX-License-Identifier: MIT
"""Holding PID 1 still: the freezer of its control group (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze).

A frozen PID 1 starts nothing, stops nothing and collects no children, and the machine goes on without it. It is thawed
by whoever needs it again. Only where it is alone in its control group, as with systemd.
"""

from __future__ import annotations

import contextlib
import os

from kexecd.kernel.cgroup import ROOTS
from kexecd.kernel.files import read_text
from kexecd.kernel.guard import forbid_in_tests

SCOPE = "init.scope"
WATCHDOGS = "/dev/watchdog"


def why_not() -> str:
    """Why PID 1 cannot be held still here, for a sentence; empty if it can."""
    group = _group()
    if not group:
        return "its control group has no freezer"
    if (read_text(f"{group}/cgroup.procs") or "").split() != ["1"]:
        return "it is not alone in its control group"
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/1/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/1/fd/{name}").startswith(WATCHDOGS):
                    return "it keeps a watchdog quiet"
    return ""


def hold() -> None:
    """Begin to freeze PID 1; see is_held(). Raises OSError."""
    forbid_in_tests("freeze PID 1")
    _write("1")


def release() -> None:
    """Let PID 1 go on, if it is held. Raises OSError."""
    if _is("freeze", "1"):
        forbid_in_tests("thaw PID 1")
        _write("0")


def is_held() -> bool:
    """Whether it stands still by now."""
    return _is("events", "frozen 1")


def _is(name: str, line: str) -> bool:
    group = _group()
    try:
        return bool(group) and line in (read_text(f"{group}/cgroup.{name}") or "").splitlines()
    except OSError:
        return False


def _write(text: str) -> None:
    fd = os.open(f"{_group()}/cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _group() -> str:
    """The directory of PID 1's control group in the unified hierarchy; empty if it is in no such group of its own."""
    places = (f"{root}/{SCOPE}" for root in ROOTS)
    return next((place for place in places if os.access(f"{place}/cgroup.freeze", os.W_OK)), "")
