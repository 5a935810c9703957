# SPDX-License-Identifier: MIT
"""A connection that is made again after it has broken: a bus may be restarted, and its users with it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from kexecd.bus import wire
from kexecd.bus.connection import Connection
from kexecd.bus.wire import Incoming
from kexecd.loop import Loop, Timer

FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds to the next attempt to connect, doubled each time


class Link:
    """up: called with each new connection. down: when it is gone. fds: whether descriptors may come by it."""

    def __init__(
        self,
        loop: Loop,
        address: str,
        *,
        up: Callable[[Connection], None],
        heard: Callable[[Incoming], None],
        down: Callable[[], None],
        fds: bool = False,
    ) -> None:
        self._loop, self._address, self._fds = loop, address, fds
        self._up, self._heard, self._down = up, heard, down
        self._connection: Connection | None = None
        self._patience = FIRST_RETRY
        self._timer: Timer | None = None
        self._closed = False

    def open(self) -> None:
        """Raises OSError where there is no bus."""
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            line.connect(wire.address_of(self._address))
        except OSError:
            line.close()
            raise
        self._connection = Connection(
            self._loop, line, ready=self._ready, heard=self._heard, lost=self._lost, fds=self._fds
        )

    def close(self) -> None:
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._connection:
            self._connection.end()

    def _ready(self) -> None:
        self._patience = FIRST_RETRY
        assert self._connection
        self._up(self._connection)

    def _lost(self) -> None:
        self._connection = None
        self._down()
        self._retry_later()

    def _retry_later(self) -> None:
        """A bus that has gone comes back as another socket, or never: there is nothing to wait on but the clock."""
        if not self._closed:
            self._timer = self._loop.after(self._patience, self._retry)
            self._patience = min(self._patience * 2, LAST_RETRY)

    def _retry(self) -> None:
        try:
            self.open()
        except OSError:
            self._retry_later()
