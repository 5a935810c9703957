# SPDX-License-Identifier: MIT
"""A process that must live until the jump: what it is called, and one that does nothing but have a session open."""

from __future__ import annotations

import ctypes
import os
import signal

from kexecd.kernel.files import read_text

TITLE = b"@kexecd-state"
"""https://systemd.io/ROOT_STORAGE_DAEMONS: spared by systemd and by us (kexecd.teardown.spare)."""

ARG_START, ARG_END = 48, 49  # fields of /proc/PID/stat, counted from 1 (proc(5))


def mark() -> None:
    """Have "@kexecd-state" for our command line, as everybody sees it: argv lies in our own memory."""
    fields = (read_text("/proc/self/stat") or "").rpartition(")")[2].split()
    start, end = (int(fields[number - 3]) for number in (ARG_START, ARG_END))
    if end - start > len(TITLE):
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, TITLE, len(TITLE))


def keep(session: int) -> int:
    """A process in our own session (setsid(2)) that does nothing but have `session` open; returns its number."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # a TERM to everybody is not for it
    try:
        if pid := os.fork():
            return pid
        _keep(session)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise AssertionError("the keeper has left")


def _keep(session: int) -> None:
    """In the child, with every signal blocked."""
    try:
        os.chdir("/")
        mark()
        null = os.open(os.devnull, os.O_RDWR)
        kept = os.dup(session)  # out of the way of the streams
        for stream in range(3):
            os.dup2(null, stream)
        os.dup2(kept, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        while True:
            signal.pause()
    finally:
        os._exit(1)
