# SPDX-License-Identifier: MIT
"""A real daemon in a process of its own, and real callers in theirs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kexecd.cli import resident
from kexecd.daemon import child, main
from kexecd.kernel import descriptors

SECONDS = 20.0
"""For whatever is waited for: much more than it takes."""


@dataclass
class Daemon:
    """pid: its process, also after its end."""

    pid: int
    run_dir: Path
    status: int | None = None

    @property
    def door(self) -> str:
        return str(self.run_dir / "request")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status; fails if it does not end."""
        if self.status is None:
            self.status = wait(self.pid)
        return self.status


@contextlib.contextmanager
def daemon(
    run_dir: Path, command: Callable[[list[str]], int] | None = None, *, idle: float = 600.0
) -> Iterator[Daemon]:
    """One that listens in `run_dir`. command: what its copies do in place of kexecctl."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        address = str(run_dir / "notify")
        Path(address).unlink(missing_ok=True)
        told.bind(address)
        told.settimeout(SECONDS)

        def work() -> int:
            told.close()
            os.environ["NOTIFY_SOCKET"] = address
            if command:
                vars(child)["main"] = command
            return main.serve(str(run_dir), idle=idle, bus=None)

        running = Daemon(forked(work), run_dir)
        try:
            assert told.recv(64) == b"READY=1"
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                if running.status is None:
                    running.signal(signal.SIGKILL)
            running.wait()
            while _heard:
                os.close(_heard.pop())


@dataclass
class Caller:
    """A kexecctl that asks. lines: what it, or whoever does it in its place, has printed."""

    pid: int
    _output: int

    def wait(self) -> int:
        return wait(self.pid)

    def line(self) -> str:
        """The next line; empty when nobody can say anything any more."""
        line = b""
        while not line.endswith(b"\n") and readable(self._output) and (part := os.read(self._output, 1)):
            line += part
        return line.decode().removesuffix("\n")

    def rest(self) -> str:
        text = b""
        while readable(self._output) and (part := os.read(self._output, 4096)):
            text += part
        return text.decode()


_heard: list[int] = []
"""What callers of a daemon were heard by, until that ends."""

NOBODY = 99
"""The exit status of a caller that has found nobody to do it."""


def call(
    door: str, *words: str, prepare: Callable[[], object] = lambda: None, patience: float = SECONDS
) -> Caller:
    """A caller; what is printed, by whomever and on both streams, comes by a pipe."""
    reader, writer = os.pipe()

    def work() -> int:
        prepare()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.closerange(3, 1 << 16)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        resident.PATIENCE = patience
        status = resident.ask(list(words), door)
        return NOBODY if status is None else status

    pid = forked(work)
    os.close(writer)
    _heard.append(reader)
    return Caller(pid, reader)


def forked(work: Callable[[], int]) -> int:
    """The pid of a child that does this, and exits with what it returns."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def wait(pid: int) -> int:
    """The end of our own child; negative if it was killed."""
    end = os.pidfd_open(pid)
    assert readable(end), f"process {pid} does not end"
    os.close(end)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def readable(fd: int) -> bool:
    return descriptors.readable(fd, SECONDS)
