# SPDX-License-Identifier: MIT
"""What Python itself takes to begin and to import a handful of its own modules: how fast this machine is just now.

User and system time of the child alone, as wait4(2) tells it. Budgets are shares of it, or are stretched by it, so
that a slow machine does not fail them; they were drawn on one where it is 30 ms.
"""

from __future__ import annotations

import os

PYTHON = "/usr/bin/python3"
RUNS = 15
USUAL = 30.0
"""Milliseconds."""

_PEER = (PYTHON, "-I", "-c", "import argparse, dataclasses, enum, json, logging, pathlib, selectors, socket, tempfile")


def milliseconds(command: tuple[str, ...] = _PEER) -> float:
    """CPU time of one run; stderr and stdout are not looked at, but it has to end well."""
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    child = os.posix_spawn(command[0], command, os.environ, file_actions=nowhere)
    _, status, usage = os.wait4(child, 0)
    assert status == 0, f"{command} ended with {os.waitstatus_to_exitcode(status)}"
    return (usage.ru_utime + usage.ru_stime) * 1000


def slowness() -> float:
    """By how much this machine is slower than the usual one, now; 1 if it is faster."""
    return max(1.0, min(milliseconds() for _ in range(RUNS)) / USUAL)
