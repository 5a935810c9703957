# SPDX-License-Identifier: MIT
"""The one way to start a program: no input, a rebuilt environment, its own process group, a pidfd, bounded output.

Output goes to a file in memory and not to a pipe, so that a program that talks too much neither blocks nor blocks us.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kexecd.kernel.guard import TEST_VARIABLES

OUTPUT_LIMIT = 1 << 20  # bytes that are kept
GRACE = 2.0  # seconds between TERM and KILL
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Finished:
    exit_code: int  # negative: ended by that signal, as in subprocess
    output: str  # stdout
    errors: str  # stderr

    @property
    def last_line(self) -> str:
        lines = self.errors.strip().splitlines() or self.output.strip().splitlines()
        return lines[-1].strip() if lines else ""


class Spawned:
    """A program at work. Whoever started it finishes or kills it."""

    def __init__(self, process: subprocess.Popen[bytes], output: int, errors: int) -> None:
        self._process, self._output, self._errors = process, output, errors
        self.pidfd = os.pidfd_open(process.pid)

    def finish(self) -> Finished:
        """What it did; waits for its end, so ask only when the pidfd is readable."""
        code = self._process.wait()
        finished = Finished(code, _read(self._output), _read(self._errors))
        os.close(self.pidfd)
        return finished

    def kill(self) -> Finished:
        """End it with its whole group: TERM, a grace, KILL."""
        for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            if _readable(self.pidfd, seconds):
                break
        if not _readable(self.pidfd, 0):  # in uninterruptible sleep: left behind
            os.close(self.pidfd)
            return Finished(-signal.SIGKILL, "", "it could not be killed")
        return self.finish()


def start(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> Spawned:
    """Start an absolute path with its arguments. Raises OSError if it cannot be started."""
    output, errors = (os.memfd_create(f"{command[0]} {name}") for name in ("output", "errors"))
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=ENVIRONMENT | _test_marks() | dict(environment or {}),
            cwd="/",
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    except BaseException:
        os.close(output)
        os.close(errors)
        raise
    return Spawned(process, output, errors)


def run(
    command: Sequence[str],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Start and wait, at most `seconds`; then it is killed, which shows as a negative exit code."""
    spawned = start(command, environment=environment, pass_fds=pass_fds)
    if _readable(spawned.pidfd, seconds):
        return spawned.finish()
    killed = spawned.kill()
    return Finished(killed.exit_code, killed.output, f"{command[0]} did not end within {seconds:g} s")


def _test_marks() -> dict[str, str]:
    """What a program that asks kexecd.kernel.guard has to know about us."""
    return {name: os.environ[name] for name in TEST_VARIABLES if name in os.environ}


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if poll.poll(max(0, int(left * 1000))):
            return True
        if left <= 0:
            return False


def _read(fd: int) -> str:
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read(OUTPUT_LIMIT).decode(errors="replace")
