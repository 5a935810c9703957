# SPDX-License-Identifier: MIT
"""The one way to start a program: given input or none, a rebuilt environment, its own process group, a pidfd, bounded
output.

Output goes to a file in memory and not to a pipe, so that a program that talks too much neither blocks nor blocks us.
Whoever does not know how much that will be listens instead: then it is a pipe, of which the last part is kept.

With our own fork and exec, because subprocess waits until the program is there, and one on a server that is gone never
is. Here the child alone waits; that it could not become the program shows when it is asked what it did.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from kexecd.kernel.guard import TEST_VARIABLES

OUTPUT_LIMIT = 1 << 20  # bytes that are kept
GRACE = 2.0  # seconds between TERM and KILL
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

PIECE = 1 << 16  # bytes; what a pipe holds (pipe(7))
TURN = 16  # pieces that are taken at a time: one that never stops talking must not keep us from the others
OOM_SCORE_ADJ = "/proc/self/oom_score_adj"  # proc(5)
MOST_FDS = 1 << 20  # beside 5,000 pidfds, say; it is one close_range(2)


@dataclass(frozen=True, slots=True)
class Finished:
    exit_code: int  # negative: ended by that signal, as in subprocess
    output: str  # stdout; both where somebody listened
    errors: str  # stderr

    @property
    def last_line(self) -> str:
        lines = self.errors.strip().splitlines() or self.output.strip().splitlines()
        return lines[-1].strip() if lines else ""


class Spawned:
    """A program at work. Whoever started it finishes or kills it, once.

    pidfd: readable when it has ended. fds: what to wait for, if one listens; hear() takes what there is.
    """

    def __init__(self, program: str, pid: int, trouble: int, output: int, errors: int | None) -> None:
        """trouble: why it could not begin; errors: None if `output` is a pipe that carries both."""
        self._program, self._pid, self._trouble = program, pid, trouble
        self._output, self._errors = output, errors
        self._heard, self._listening = bytearray(), errors is None
        self.pidfd = os.pidfd_open(pid)

    @property
    def fds(self) -> frozenset[int]:
        return frozenset((self.pidfd, self._output)) if self._listening else frozenset((self.pidfd,))

    def hear(self) -> None:
        """Take what it has said, or it would wait as soon as the pipe is full."""
        for _ in range(TURN if self._listening else 0):
            try:
                part = os.read(self._output, PIECE)
            except BlockingIOError:
                return
            if not part:  # nobody can say anything any more; the pipe would be readable for ever
                self._listening = False
                return
            self._heard += part
            if len(self._heard) > 2 * OUTPUT_LIMIT:
                del self._heard[:-OUTPUT_LIMIT]

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds; listens meanwhile."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            poll = select.poll()
            for fd in self.fds:
                poll.register(fd, select.POLLIN)
            readable = [fd for fd, _ in poll.poll(max(0, int(left * 1000)))]
            self.hear()
            if self.pidfd in readable:
                return True
            if left <= 0:
                return False

    def finish(self) -> Finished:
        """What it did; waits for its end, so ask only when the pidfd is readable. Raises OSError if it never began."""
        finished, trouble = self._collect()
        if trouble:
            raise OSError(trouble, os.strerror(trouble), self._program)
        return finished

    def kill(self, grace: float = GRACE) -> Finished:
        """End it with its whole group: TERM, a grace, KILL."""
        self.ask()
        self.wait(grace)
        self.end()
        return self._collect()[0] if self.wait(GRACE) else self.leave()

    def ask(self) -> None:
        """TERM to its whole group; a stopped one acts on it only once it goes on."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """KILL to its whole group, also when its first process has ended: until that is finished the number is its."""
        self._signal(signal.SIGKILL)

    def leave(self) -> Finished:
        """Leave behind what sleeps in the kernel and does not end."""
        self.hear()
        said = _text(self._heard)
        self._close()
        return Finished(-signal.SIGKILL, said, "it could not be killed")

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(self._pid, number)
            except ProcessLookupError:  # so young that it has no group of its own
                signal.pidfd_send_signal(self.pidfd, number)

    def _collect(self) -> tuple[Finished, int]:
        """What it did, and the errno if it could not begin."""
        _, status = os.waitpid(self._pid, 0)
        self.hear()
        if self._errors is None:
            output, errors = _text(self._heard), ""
        else:
            output, errors = (_text(os.pread(fd, OUTPUT_LIMIT, 0)) for fd in (self._output, self._errors))
        trouble = os.read(self._trouble, 16)
        self._close()
        return Finished(os.waitstatus_to_exitcode(status), output, errors), int(trouble or b"0")

    def _close(self) -> None:
        for fd in (self.pidfd, self._trouble, self._output, self._errors):
            if fd is not None:
                os.close(fd)


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: bytes | None = None,
    listen: bool = False,
) -> Spawned:
    """Start an absolute path with its arguments; never waits for it. Raises OSError if nothing can be started at all.

    stdin: what it may read; it lies ready, so that a program that never reads it does not matter.
    listen: for somebody who waits for Spawned.fds and hears each time; stdout and stderr then come as one.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        theirs.append(_input(stdin))
        if listen:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            ours, theirs = [reader], [*theirs, writer, writer]
        else:
            ours = [os.memfd_create(f"{os.path.basename(command[0])[:64]} {name}") for name in ("output", "errors")]
            theirs += [os.dup(fd) for fd in ours]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ours.append(reader)
        theirs.append(writer)
        os.set_blocking(reader, False)
        pid = _fork(command, ENVIRONMENT | _test_marks() | dict(environment or {}), theirs, pass_fds)
        try:
            return Spawned(command[0], pid, reader, ours[0], None if listen else ours[1])
        except BaseException:  # no descriptor left to hold it by
            os.kill(pid, signal.SIGKILL)
            raise
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in set(theirs):
            os.close(fd)


def run(
    command: Sequence[str],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: bytes | None = None,
) -> Finished:
    """Start and wait, at most `seconds`; then it is killed, which shows as a negative exit code.

    Raises OSError if it cannot be started.
    """
    spawned = start(command, environment=environment, pass_fds=pass_fds, stdin=stdin)
    if spawned.wait(seconds):
        return spawned.finish()
    killed = spawned.kill()
    code = killed.exit_code if killed.exit_code < 0 else -signal.SIGTERM  # it may have ended well, but too late
    return Finished(code, killed.output, f"{command[0]} did not end within {seconds:g} s")


def _fork(
    command: Sequence[str], environment: Mapping[str, str], theirs: Sequence[int], pass_fds: Sequence[int]
) -> int:
    # Nothing may reach the child before it has taken off our handlers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(command, environment, theirs, pass_fds)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(
    command: Sequence[str], environment: Mapping[str, str], theirs: Sequence[int], pass_fds: Sequence[int]
) -> NoReturn:
    """In the child: turn into the program, or say why not, and end."""
    trouble = -1
    try:
        os.setsid()
        os.chdir("/")
        # Duplicates above 2 first: where ours was started without them, one of these may be 0, 1 or 2 itself.
        *streams, trouble = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in theirs]
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        low = 3
        for fd in sorted((*pass_fds, trouble)):
            os.closerange(low, fd)
            low = fd + 1
        os.closerange(low, MOST_FDS)
        for fd in pass_fds:
            os.set_inheritable(fd, True)
        _forget_ourselves()
        os.execve(command[0], tuple(command), environment)
    except OSError as error:
        os.write(trouble, b"%d" % (error.errno or errno.EIO))
    except BaseException:
        os.write(trouble, b"%d" % errno.EINVAL)
    finally:
        os._exit(127)


def _forget_ourselves() -> None:
    """What a process of ours has and a program of somebody else must not inherit.

    Ignored signals: a shell cannot even set a trap for one. The protection of the way down from the OOM killer.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    with contextlib.suppress(OSError, ValueError):
        with open(OOM_SCORE_ADJ, encoding="ascii") as file:
            protected = int(file.read()) < 0
        if protected:
            with open(OOM_SCORE_ADJ, "w", encoding="ascii") as file:
                file.write("0")


def _input(data: bytes | None) -> int:
    """Something to read from: `data`, or nothing."""
    if data is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    fd = os.memfd_create("input")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _test_marks() -> dict[str, str]:
    """What a program that asks kexecd.kernel.guard has to know about us."""
    return {name: os.environ[name] for name in TEST_VARIABLES if name in os.environ}


def _text(data: bytes | bytearray) -> str:
    return bytes(data[-OUTPUT_LIMIT:]).decode(errors="replace")
