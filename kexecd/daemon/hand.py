# SPDX-License-Identifier: MIT
"""The hand: the copy of the daemon that is there before there is a request.

It does the next one. If that is a restart it walks the plan itself, with all who help it: the workers, the clerk, and
the one who shows the caller what happens. They were made while nobody was in a hurry, and the plan was drawn up once
for practice, so that nothing is done for the first time when it counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import signal
import socket
import struct
from collections.abc import Sequence

from kexecd.cli import descent, practice, steps
from kexecd.cli.main import parser
from kexecd.cli.resident import BEGUN
from kexecd.daemon import child
from kexecd.daemon.child import Coding
from kexecd.daemon.request import Request, parse
from kexecd.errors import ExitCode
from kexecd.kernel import cgroup
from kexecd.kernel.descriptors import readable
from kexecd.kernel.resting import Resting
from kexecd.teardown import spare
from kexecd.teardown.workers import hire_ahead, keep_workers

F_SETSIG = 10  # include/uapi/asm-generic/fcntl.h
LAST = 19  # the lowest priority; setpriority(2)

WORKERS = 3
"""As many as a machine with one disk beside the root's has calls for at a time; others are started when needed."""


def make() -> Resting:
    """A hand, which takes one message of a caller with the connection and the descriptors of it. Raises OSError."""
    return Resting(_take, _get_ready)


def serve(connection: socket.socket, request: Request) -> int:
    """Be the kexecctl of a caller whose place has been taken, and say how it ended."""
    spare.on_behalf_of(request.pid)
    connection.setblocking(True)
    # Whoever walks the plan outlives us, and must not keep the caller waiting.
    os.register_at_fork(after_in_child=connection.close)
    try:
        connection.send(BEGUN)
    except OSError:  # it has given up, and does it by itself
        return ExitCode.FAILURE
    if not _be_interrupted_by(connection):
        return ExitCode.FAILURE
    return _say(connection, child.run(request.words, request.environment, request.coding))


def _get_ready() -> None:
    """In the hand. Away from the daemon's session and control group: PID 1 stops its service on the way down."""
    gc.disable()  # what the daemon's descriptors belonged to must not be finalised (kexecd.daemon.child)
    child.reset_signals()
    os.setsid()
    cgroup.leave()
    keep_workers()
    hire_ahead(WORKERS)
    steps.keep_clerk(practice.write_down)
    _shower.append(Resting(_show))
    os.setpriority(os.PRIO_PROCESS, 0, LAST)  # last of all: those who were made by now are not slower for it
    with contextlib.suppress(Exception):  # whoever asks for a restart is told
        practice.go_down(parser("reboot").parse_args(["reboot", "--fast"]), WORKERS)
    os.setpriority(os.PRIO_PROCESS, 0, 0)


_shower: list[Resting] = []
"""In the hand, the one who shows what happens."""


def _take(message: bytes, fds: Sequence[int]) -> None:
    """In the hand: one request, after which it ends."""
    status = 1
    try:
        connection = socket.socket(fileno=fds[0])
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        request = parse(message, fds[1:], pid)
        if request:
            request.take_place()
            for fd in request.fds:
                os.close(fd)
            descent.watched_by(lambda reader, as_json: _hand_over(reader, connection, request.coding, as_json=as_json))
            status = serve(connection, request)
    finally:
        os._exit(status)


def _hand_over(reader: int, connection: socket.socket, coding: Coding, *, as_json: bool) -> bool:
    """Have the caller shown what comes from this pipe, by somebody who then ends its request."""
    told = json.dumps([coding.encoding, coding.errors, as_json]).encode()
    sent = _shower[0].send(told, (1, 2, reader, connection.fileno()))
    if sent:
        connection.close()
    return sent


def _show(message: bytes, fds: Sequence[int]) -> None:
    """In the one who shows what happens."""
    encoding, errors, as_json = json.loads(message)
    out, err, reader, fd = fds
    os.dup2(out, 1)
    os.dup2(err, 2)
    connection = socket.socket(fileno=fd)
    status: int = ExitCode.FAILURE
    if _be_interrupted_by(connection):
        status = child.show(reader, Coding(encoding, errors), as_json=as_json)
    os._exit(_say(connection, status))


def _say(connection: socket.socket, status: int) -> int:
    with contextlib.suppress(OSError):  # it has left
        connection.send(b"%d" % status)
    return status


def _be_interrupted_by(connection: socket.socket) -> bool:
    """Take a Ctrl-C of the caller for one of ours, and its end too: whatever it says, and that it hangs up, is a SIGINT
    (fcntl(2), O_ASYNC). False if it has left by now."""
    fd = connection.fileno()
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, F_SETSIG, signal.SIGINT)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    return not readable(fd, 0.0)
