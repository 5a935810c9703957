# SPDX-License-Identifier: MIT
"""The guest's serial console: every line with the host's time, kept in memory and written to a log."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab.errors import LabTimeout, QemuGone

# Colours and cursor movements of systemd's status lines and of SeaBIOS.
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|\][^\x07]*\x07|[()][0-9A-Za-z]|[cDEHM78=>])")


@dataclass(frozen=True)
class Line:
    """One console line without colours, and the host's monotonic time in seconds when it was complete."""

    at: float
    text: str


def plain(raw: bytes) -> str:
    """A raw console line as text, without escape sequences and carriage returns."""
    return _ESCAPES.sub("", raw.decode(errors="replace")).replace("\r", "").rstrip()


class Console:
    """Reads the guest's serial port until QEMU closes it."""

    def __init__(self, sock: socket.socket, log: Path, earlier: tuple[str, ...] = ()) -> None:
        """Own `sock`; append to `log`.

        `earlier` are the lines that a snapshot's guest had printed before it was saved.
        """
        now = time.monotonic()
        self._sock = sock
        self._started = now
        self._lines = [Line(now, text) for text in earlier]
        self._changed = threading.Condition()
        self._closed = False
        self._log = log.open("a", encoding="utf-8")
        self._reader = threading.Thread(target=self._read, name="lab-console", daemon=True)
        self._reader.start()

    def lines(self, since: int = 0) -> tuple[Line, ...]:
        """Every complete line from number `since` on."""
        with self._changed:
            return tuple(self._lines[since:])

    @property
    def count(self) -> int:
        """How many lines came so far; a position for lines() and wait_for()."""
        return len(self._lines)

    def wait_for(self, wanted: Callable[[str], bool], since: int, timeout: float, what: str) -> Line:
        """The first line from number `since` on that is `wanted`.

        LabTimeout after `timeout` seconds, QemuGone at the end.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self._lines[since:]:
                    if wanted(line.text):
                        return line
                since = max(since, len(self._lines))
                left = deadline - time.monotonic()
                if self._closed:
                    raise QemuGone(f"the console closed before it showed {what}")
                if left <= 0:
                    raise LabTimeout(f"no console line showed {what} within {timeout} s")
                self._changed.wait(left)

    def type(self, text: str) -> None:
        """What somebody at the serial terminal would type."""
        self._sock.sendall(text.encode())

    def wait(self, seconds: float) -> None:
        """Return when a line arrives or the console closes, after `seconds` at the latest."""
        with self._changed:
            if not self._closed:
                self._changed.wait(seconds)

    def close(self) -> None:
        """Hang up, and finish the log."""
        with suppress(OSError):  # QEMU was faster
            self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._sock.close()
        self._log.close()

    def _read(self) -> None:
        pending = b""
        while chunk := self._chunk():
            *complete, pending = (pending + chunk).split(b"\n")
            self._keep(complete)
        self._keep([pending] if pending else [])
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _chunk(self) -> bytes:
        try:
            return self._sock.recv(65536)
        except OSError:
            return b""

    def _keep(self, raw: list[bytes]) -> None:
        now = time.monotonic()
        lines = [Line(now, plain(each)) for each in raw]
        for line in lines:
            self._log.write(f"{now - self._started:8.3f} {line.text}\n")
        self._log.flush()
        with self._changed:
            self._lines.extend(lines)
            self._changed.notify_all()
