# SPDX-License-Identifier: MIT
"""Run a test's body in its own mount and PID namespace, where the way down can be walked for real.

Killing everything reaches nobody outside, unmounting changes nobody's view, and proc on /proc shows the inside only.
What is not private is a filesystem's own state: a read-only remount inside reaches the filesystem everywhere, so tests
remount only filesystems that they made, on loop devices. The kernel's own "remount everything" is out of reach: what
would trigger it is covered.
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import ParamSpec

CLONE_NEWNS = 0x00020000  # include/uapi/linux/sched.h
CLONE_NEWPID = 0x20000000
MS_BIND = 0x1000  # include/uapi/linux/mount.h
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h

SYSRQ = b"/proc/sysrq-trigger"

P = ParamSpec("P")

_libc = ctypes.CDLL(None, use_errno=True)


def isolated(test: Callable[P, None]) -> Callable[P, None]:
    """Decorate a test: its body runs inside, and what it raises is raised outside, with the traceback as text."""

    @functools.wraps(test)
    def outside(*arguments: P.args, **options: P.kwargs) -> None:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _unshare_and(lambda: test(*arguments, **options), writer)
        os.close(writer)
        report = _read_until_end(reader, child, seconds=90.0)
        _, status = os.waitpid(child, 0)
        assert not report, report
        assert status == 0, f"the namespace ended with status {status}"

    return outside


def _unshare_and(body: Callable[[], None], report: int) -> None:
    """In the first child: enter the namespaces; its child is their PID 1, whose child is the test."""
    try:
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWPID))
        _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
        first = os.fork()
        if first:
            _, status = os.waitpid(first, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))  # a test that takes too long ends with all that is in it
        _check(_libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None))
        if os.path.exists(SYSRQ):  # not every kernel has it
            _check(_libc.mount(b"/dev/null", SYSRQ, None, ctypes.c_ulong(MS_BIND), None))
        tester = os.fork()
        if tester:
            _reap_until(tester)
        body()
    except BaseException:
        os.write(report, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def _reap_until(tester: int) -> None:
    """What PID 1 is for: collect orphans; end with the test, and with it everything inside."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == tester:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _read_until_end(reader: int, child: int, *, seconds: float) -> str:
    end, report = time.monotonic() + seconds, b""
    while True:
        if not select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
            os.kill(child, signal.SIGKILL)
            return f"the test did not end within {seconds:g} s"
        part = os.read(reader, 1 << 16)
        if not part:
            os.close(reader)
            return report.decode(errors="replace")
        report += part


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if os.geteuid() != 0:
    sys.exit("tests/namespaces needs root: it mounts and kills for real, in namespaces of its own")
