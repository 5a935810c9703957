# SPDX-License-Identifier: MIT
"""The system's log: journald with fields and message ids where it is, else syslog. It never holds anybody.

On the way down journald may stand still, be killed, or have a full disk below it, and its queue is soon full: then a
datagram that waits is a way down that hangs. So here each is sent or lost; what was lost is counted in the next one.
That is why systemd-python sends only where nothing goes down (`say`): its call waits.

Protocols: journald's native one (systemd.io/JOURNAL_NATIVE_PROTOCOL), and what syslog(3) of the C library sends to
/dev/log, which is RFC 3164 without a host name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import Protocol

from kexecd.model import Event
from kexecd.report.messages import ROWS, Message, of_event

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
KMSG = "/dev/kmsg"
NAME = "kexecd"
FACILITY = 3  # daemon; syslog(3)
LONGEST = 16 << 10
"""Bytes of one value: a datagram that is too long for the socket would be lost whole."""

LONGEST_LINE = 1024  # bytes of one to syslog: what RFC 3164 promises to take


class Log:
    """Where messages go. lost: how many of them did not get through, since one last did."""

    def __init__(self, path: str, form: Format) -> None:
        self._path, self._form = path, form
        self.lost = 0
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._socket = _connected(path)  # now, while there is a path to it

    def __call__(self, event: Event) -> None:
        if message := of_event(event):
            self.tell(message)

    def tell(self, message: Message) -> None:
        data = self._form(message, self.lost)
        for _ in range(2):  # the second time to one that was started again, with a new socket
            try:
                self._socket = self._socket or _connected(self._path)
                self._socket.send(data)
            except (ConnectionRefusedError, ConnectionResetError):
                if self._socket:
                    self._socket.close()
                self._socket = None
            except OSError:
                break
            else:
                self.lost = 0
                return
        self.lost += 1


def _connected(path: str) -> socket.socket:
    new = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        new.connect(path)
    except OSError:
        new.close()
        raise
    return new


class Format(Protocol):
    def __call__(self, message: Message, lost: int) -> bytes: ...


def open_log(journal: str = JOURNAL, syslog: str = SYSLOG) -> Log:
    """Nobody being there to listen is no reason for anything."""
    return Log(journal, as_fields) if os.path.exists(journal) else Log(syslog, as_line)


def say(message: Message) -> None:
    """One message of somebody who may wait for it a little; where nobody keeps a log the kernel gets it."""
    if os.path.exists(JOURNAL):
        with contextlib.suppress(ImportError, OSError):
            from systemd import journal  # type: ignore[import-not-found] # late: 12 ms, and on few machines

            fields = dict(pairs(message))
            journal.send(fields.pop("MESSAGE"), MESSAGE_ID=fields.pop("MESSAGE_ID"), **fields)
            return
    log = open_log()
    log.tell(message)
    if log.lost:
        tell_kernel(message)


def tell_kernel(message: Message) -> None:
    """It keeps what it is told until somebody reads it (Documentation/ABI/testing/dev-kmsg)."""
    with contextlib.suppress(OSError):
        fd = os.open(KMSG, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            os.write(fd, f"<{FACILITY << 3 | message.priority}>{NAME}: {' '.join(message.text.split())}\n".encode())
        finally:
            os.close(fd)


def pairs(message: Message, lost: int = 0) -> list[tuple[str, str]]:
    """The fields of a message, as journald names them; systemd.journal-fields(7)."""
    counted = [("KEXECD_LOST", str(lost))] if lost else []
    return [
        ("MESSAGE", message.text),
        ("MESSAGE_ID", ROWS[message.kind].id),
        ("PRIORITY", str(int(message.priority))),
        ("SYSLOG_IDENTIFIER", NAME),
        ("SYSLOG_FACILITY", str(FACILITY)),
        ("KEXECD_EVENT", str(message.kind)),
        *message.fields,
        *counted,
    ]


def as_fields(message: Message, lost: int) -> bytes:
    """A datagram to journald. What could be taken for the end of a field is sent with its length."""
    data = bytearray()
    for name, value in pairs(message, lost):
        raw = value.encode(errors="replace")[:LONGEST]
        if b"\n" in raw:
            data += name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n"
        else:
            data += name.encode() + b"=" + raw + b"\n"
    return bytes(data)


def as_line(message: Message, lost: int) -> bytes:
    """A datagram to syslogd: one line, whatever is in the text."""
    when = time.strftime("%b %e %H:%M:%S")
    text = " ".join(message.text.split()) + (f" ({lost} messages before this one were lost)" if lost else "")
    line = f"<{FACILITY << 3 | message.priority}>{when} {NAME}[{os.getpid()}]: {text}"
    return line.encode(errors="replace")[:LONGEST_LINE]
