# SPDX-License-Identifier: MIT
"""Newline-framed JSON over a stream socket: the wire format that QMP and the guest agent share.

A reader thread keeps the socket drained, so that QEMU never stalls on us and every record gets the time at
which it arrived. Nothing here knows what a record means.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.vm.lab.errors import LabTimeout, QemuGone

Json = dict[str, Any]

SEND_TIMEOUT = 5
"""Seconds that QEMU may leave our command unread in a full socket buffer."""


@dataclass(frozen=True)
class Received:
    """One record and the host's monotonic time, in seconds, when it arrived."""

    at: float
    record: Json


def decode(line: bytes) -> Json | None:
    """One line as a record, or None for what is no record.

    The guest agent sends a 0xFF byte before the answer to guest-sync-delimited, and a restart of the guest
    may cut an answer off in its middle; neither is an error.
    """
    try:
        record = json.loads(line.rpartition(b"\xff")[2])
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class Channel:
    """A socket that carries JSON records in both directions. Close it to end its thread."""

    def __init__(
        self, sock: socket.socket, name: str, divert: Callable[[Received], bool] | None = None
    ) -> None:
        """Own `sock`. A record for which `divert` (called in the reader thread) returns True is not queued
        for receive().
        """
        # Not settimeout(): that would make the descriptor non-blocking for the reader thread as well.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT, 0))
        self._sock = sock
        self._name = name
        self._divert = divert
        self._arrived = threading.Condition()
        self._queue: deque[Received] = deque()
        self._closed = False
        self._reader = threading.Thread(target=self._read, name=f"lab-{name}", daemon=True)
        self._reader.start()

    def send(self, record: Json, *, prefix: bytes = b"") -> None:
        """Write one record; QemuGone when the other side is closed, LabTimeout when it does not read."""
        try:
            self._sock.sendall(prefix + json.dumps(record).encode() + b"\n")
        except BlockingIOError as error:
            raise LabTimeout(
                f"{self._name}: QEMU did not read our command within {SEND_TIMEOUT} s"
            ) from error
        except OSError as error:
            raise QemuGone(f"{self._name}: {error}") from error

    def receive(self, deadline: float) -> Received:
        """The next record that arrives before `deadline` (monotonic seconds).

        Else LabTimeout, or QemuGone.
        """
        with self._arrived:
            while not self._queue:
                if self._closed:
                    raise QemuGone(f"{self._name}: QEMU closed the socket")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LabTimeout(f"{self._name}: no answer in time")
                self._arrived.wait(left)
            return self._queue.popleft()

    @property
    def closed(self) -> bool:
        """Whether the other side has hung up (records that came before may still be waiting)."""
        return self._closed

    def close(self) -> None:
        """Hang up and wait for the reader thread."""
        with suppress(OSError):  # the other side was faster
            self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._sock.close()

    def _read(self) -> None:
        pending = b""
        while chunk := self._chunk():
            now = time.monotonic()
            *lines, pending = (pending + chunk).split(b"\n")
            for record in map(decode, lines):
                if record is not None:
                    self._take(Received(now, record))
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()

    def _chunk(self) -> bytes:
        try:
            return self._sock.recv(65536)
        except OSError:
            return b""  # closed under us: the same as end of file

    def _take(self, received: Received) -> None:
        if self._divert is not None and self._divert(received):
            return
        with self._arrived:
            self._queue.append(received)
            self._arrived.notify_all()
