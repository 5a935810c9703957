# SPDX-License-Identifier: MIT
"""A real holder in a process of its own, and real applications as other users."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from kexecd import client
from kexecd.liveupdate import holder
from kexecd.liveupdate.store import Limits

PATIENCE = 20.0  # seconds


class Holder:
    """One, with its directories below `top`. Started anew in them, it is what the next boot has."""

    def __init__(self, top: Path, limits: Limits | None = None) -> None:
        self.run_dir, self.live = top / "run", top / "live"
        self._limits = limits
        self.pid = 0

    @property
    def socket(self) -> str:
        return str(self.run_dir / "state")

    def start(self, before: Callable[[], object] = lambda: None) -> Holder:
        """before: called in its process, before anything else."""
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(reader)
                before()
                holder.serve(str(self.run_dir), str(self.live), self._limits, ready=lambda: os.write(writer, b"."))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writer)
        assert select.select([reader], [], [], PATIENCE)[0], "the holder has not started in time"
        assert os.read(reader, 1), "the holder could not start"
        os.close(reader)
        return self

    def boot(self) -> Holder:
        """In the next boot: /run is empty."""
        shutil.rmtree(self.run_dir)
        return self.start()

    def ask(self) -> client.Connection:
        return client.Connection(self.socket, seconds=PATIENCE)

    def end(self, number: int = signal.SIGKILL) -> int:
        """As the jump ends it, in the middle of whatever it does; returns its exit status."""
        pid, self.pid = self.pid, 0
        ended = os.pidfd_open(pid)
        os.kill(pid, number)
        in_time = bool(select.select([ended], [], [], PATIENCE)[0])
        os.kill(pid, signal.SIGKILL)  # our own child, not yet waited for
        os.close(ended)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert in_time, f"the holder has not ended after {signal.Signals(number).name}"
        return status


@contextmanager
def holding(limits: Limits | None = None) -> Iterator[Holder]:
    """In a directory that an application of another user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="kexecd-state-") as top:
        os.chmod(top, 0o755)
        one = Holder(Path(top), limits).start()
        try:
            yield one
        finally:
            if one.pid:
                one.end()


def as_user(uid: int, work: Callable[[], object]) -> object:
    """What `work` returns, or how it was refused as [errno, why], done by a process of that user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            try:
                said = work()
            except client.NotDone as no:
                said = [no.errno, no.strerror]
            os.write(writer, json.dumps(said).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as file:
        output = file.read()
    assert os.waitpid(pid, 0)[1] == 0, "the application broke"
    return json.loads(output)


def memfd(content: bytes = b"", name: str = "test") -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    return fd


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def comes_to(count: Callable[[], int], wanted: int) -> bool:
    """Whether it does so within two seconds."""
    until = time.monotonic() + 2
    while (now := count()) != wanted and time.monotonic() < until:
        time.sleep(0.01)
    return now == wanted


def none_to_be_had(*args: object, **named: object) -> NoReturn:
    """In place of whatever begins a child or a thread."""
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
