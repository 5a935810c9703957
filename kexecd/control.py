# SPDX-License-Identifier: MIT
"""The way in to a restart that is under way: a socket in /run/kexecd, for root, a question and an answer each.

Local and without a message bus, since it has to work while that is being stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from typing import NamedTuple

from kexecd.executor import Control
from kexecd.model import Ask

NAME = "control"
LIMIT = 4096  # bytes of a question or an answer


class Answer(NamedTuple):
    done: bool
    text: str


class Question:
    """One demand, and the connection on which it is answered."""

    def __init__(self, ask: Ask, by: str, connection: socket.socket) -> None:
        self.ask, self.by, self._connection = ask, by, connection

    def answer(self, done: bool, text: str) -> None:
        with contextlib.suppress(OSError):  # who asked has left
            self._connection.send(json.dumps({"done": done, "text": text}).encode()[:LIMIT])
        self._connection.close()


class Door(Control):
    """The listening end. Anybody but root is turned away by the kernel and, once more, here."""

    def __init__(self, run_dir: str) -> None:
        self._path = os.path.join(run_dir, NAME)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # of a walker that was killed; ours is the lock
        self._listener = _socket()
        before = os.umask(0o177)
        try:
            self._listener.bind(self._path)
        finally:
            os.umask(before)
        self._listener.listen(8)
        self._callers: dict[int, tuple[socket.socket, str]] = {}

    @property
    def fds(self) -> frozenset[int]:
        return frozenset((self._listener.fileno(), *self._callers))

    def take(self, readable: frozenset[int]) -> list[Question]:
        questions = []
        for fd in readable:
            if fd == self._listener.fileno():
                self._accept()
            elif question := self._hear(fd):
                questions.append(question)
        return questions

    def close(self) -> None:
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            caller, _ = self._listener.accept()
            caller.setblocking(False)
            pid, uid, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid:
                caller.close()
            else:
                self._callers[caller.fileno()] = (caller, f"process {pid}")

    def _hear(self, fd: int) -> Question | None:
        caller, by = self._callers.pop(fd)
        with contextlib.suppress(OSError, ValueError):
            return Question(Ask(caller.recv(LIMIT).decode()), by, caller)
        caller.close()
        return None


def demand(run_dir: str, ask: Ask, *, seconds: float) -> Answer | None:
    """Ask the restart that is under way; None where there is none that listens."""
    caller = _socket()
    caller.settimeout(seconds)
    try:
        caller.connect(os.path.join(run_dir, NAME))
        caller.send(ask.encode())
        told = json.loads(caller.recv(LIMIT))
        return Answer(bool(told["done"]), str(told["text"]))
    except TimeoutError:
        return Answer(False, f"it has not answered within {seconds:g} s")
    except (OSError, ValueError, KeyError):
        return None
    finally:
        caller.close()


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
