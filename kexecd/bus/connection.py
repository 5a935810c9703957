# SPDX-License-Identifier: MIT
"""One connection to a message bus, in the loop: nothing here waits, and nobody on the bus can make it grow.

- What is longer than LIMIT is read past, not kept; who sent it is told so.
- While the bus does not take what we say, nothing more is read from it: each question is answered or not read yet.
- Descriptors are taken only where that was asked for; the bus itself turns away who sends any to another connection.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from kexecd.bus import wire
from kexecd.bus.wire import BEGIN, AuthenticationError, Authenticator, Incoming, Kind, Malformed
from kexecd.loop import Loop, Timer

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

LIMIT = 1 << 16
"""Bytes of a message. What may be said to kexecd has some hundred; what is read from polkit and logind a few more."""

PART = 1 << 16  # bytes of one read
UNSAID = 1 << 18  # bytes that wait to be written, with which nothing more is read
DROPPED = 1 << 22  # bytes that wait to be written, with which signals are left out

GREETING = 10.0  # seconds for the bus to let us in
PATIENCE = 10.0  # seconds for an answer, unless more is said

BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"

NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
DISCONNECTED = "org.freedesktop.DBus.Error.Disconnected"
LIMITS_EXCEEDED = "org.freedesktop.DBus.Error.LimitsExceeded"


@dataclass(frozen=True, slots=True)
class Answer:
    """error: the name of the error that came instead of values, and its text; empty where it went well."""

    values: tuple[Any, ...] = ()
    error: str = ""
    text: str = ""


@dataclass(slots=True)
class _Call:
    gives: str
    done: Callable[[Answer], None]
    timer: Timer


class Connection:
    """ready: called when the bus has let us in. heard: gets calls and signals. lost: called once, when it is over."""

    def __init__(
        self,
        loop: Loop,
        line: socket.socket,
        *,
        ready: Callable[[], None],
        heard: Callable[[Incoming], None],
        lost: Callable[[], None],
        fds: bool = False,
    ) -> None:
        line.setblocking(False)
        self._loop, self._line = loop, line
        self._ready, self._heard, self._lost, self._fds = ready, heard, lost, fds
        self._serial = count(1)
        self._calls: dict[int, _Call] = {}
        self._in, self._out = bytearray(), bytearray()
        self._skip = 0  # bytes of a message that is too long, and not yet here
        self._passed: list[int] = []  # descriptors that have come, in order
        self._authentication: Authenticator | None = Authenticator(enable_fds=fds)
        self._over = False
        # The loop knows of reading only; an epoll is readable when there is something to read or room to write.
        self._poll = select.epoll()
        self._mask = select.EPOLLIN
        self._poll.register(line, self._mask)
        loop.watch(self._poll.fileno(), self._stir)
        self._greeting = loop.after(GREETING, self.end)
        self._send(self._authentication.data_to_send())

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        *,
        gives: str = "",
        done: Callable[[Answer], None] | None = None,
        seconds: float = PATIENCE,
    ) -> int:
        """Ask somebody; `done` gets the answer, or an error after `seconds`. Without it no answer is wanted.

        Returns what take_back() wants.
        """
        serial = next(self._serial)
        if done:
            timer = self._loop.after(seconds, lambda: self._answer(serial, Answer(error=NO_REPLY, text="no answer")))
            self._calls[serial] = _Call(gives, done, timer)
        flags = 0 if done else wire.NO_REPLY_EXPECTED
        self._send(wire.call(serial, destination, path, interface, member, signature, body, flags=flags))
        return serial

    def ask_bus(
        self,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        *,
        gives: str = "",
        done: Callable[[Answer], None] | None = None,
    ) -> None:
        self.call(BUS, BUS_PATH, BUS, member, signature, body, gives=gives, done=done)

    def take_back(self, serial: int) -> None:
        """Nobody wants that answer any more."""
        if call := self._calls.pop(serial, None):
            call.timer.cancel()

    def reply(self, to: Incoming, signature: str = "", body: tuple[Any, ...] = ()) -> None:
        if not to.flags & wire.NO_REPLY_EXPECTED:
            self._send(wire.reply(next(self._serial), to, signature, body))

    def refuse(self, to: Incoming, name: str, text: str) -> None:
        if not to.flags & wire.NO_REPLY_EXPECTED:
            self._send(wire.error(next(self._serial), to, name, text))

    def signal(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> None:
        """Tell everybody who listens; left out while the bus does not take anything."""
        if len(self._out) < DROPPED:
            self._send(wire.signal(next(self._serial), path, interface, member, signature, body))

    def end(self) -> None:
        """Leave the bus. Every call that waits is answered with an error; `lost` is called last."""
        if self._over:
            return
        self._over = True
        self._greeting.cancel()
        self._loop.forget(self._poll.fileno())
        self._poll.close()
        self._line.close()
        for fd in self._passed:
            os.close(fd)
        self._passed.clear()
        for serial in tuple(self._calls):
            self._answer(serial, Answer(error=DISCONNECTED, text="the bus is gone"))
        self._lost()

    def _stir(self) -> None:
        for _, mask in self._poll.poll(0):
            try:
                if mask & select.EPOLLOUT:
                    self._write()
                if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self._read()
            except (OSError, Malformed, AuthenticationError):
                self.end()  # a bus that says what it must not is no bus

    def _send(self, data: bytes) -> None:
        if self._over:
            return
        self._out += data
        try:
            self._write()
        except OSError:
            self._loop.after(0.0, self.end)  # not now: who says something does not expect to be called back

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: self._line.send(self._out, socket.MSG_NOSIGNAL)]
        mask = select.EPOLLOUT if self._out else 0
        if len(self._out) < UNSAID:
            mask |= select.EPOLLIN
        if mask != self._mask:
            self._mask = mask
            self._poll.modify(self._line, mask)

    def _read(self) -> None:
        """One part: whatever else is in the loop has its turn before the next. Raises OSError, Malformed."""
        try:
            data = self._receive()
        except BlockingIOError:
            return
        if not data:
            self.end()
        elif self._authentication:
            self._authenticate(self._authentication, data)
        else:
            self._in += data
            self._take()

    def _receive(self) -> bytes:
        if not self._fds:
            return self._line.recv(PART)
        numbers = array.array("i")
        room = socket.CMSG_SPACE(253 * numbers.itemsize)  # SCM_MAX_FD, include/net/scm.h
        data, extras, _, _ = self._line.recvmsg(PART, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, value in extras:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(value[: len(value) // numbers.itemsize * numbers.itemsize])
        self._passed += numbers
        return data

    def _authenticate(self, authentication: Authenticator, data: bytes) -> None:
        authentication.feed(data)
        if not authentication.authenticated:
            self._send(authentication.data_to_send())
            return
        self._send(BEGIN)
        self._authentication = None
        self.ask_bus("Hello", gives="s", done=self._greeted)

    def _greeted(self, answer: Answer) -> None:
        if answer.error:
            self.end()
        else:
            self._greeting.cancel()
            self._ready()

    def _take(self) -> None:
        """Every message that is complete. Raises Malformed."""
        while not self._over:
            if self._skip:
                gone = min(self._skip, len(self._in))
                del self._in[:gone]
                self._skip -= gone
            if len(self._in) < wire.PREFIX or self._skip:
                return
            prefix = bytes(self._in[: wire.PREFIX])
            size = wire.size(prefix)
            wanted = size if size <= LIMIT else wire.header_size(prefix)
            if wanted > LIMIT:
                if self._fds:
                    raise Malformed("has a header of which nobody can tell how many descriptors came with it")
                self._skip = size
                continue
            if len(self._in) < wanted:
                return
            message = wire.parse(bytes(self._in[:wanted]))
            del self._in[:wanted]
            self._skip = size - wanted
            self._sort(message, whole=not self._skip)

    def _sort(self, message: Incoming, *, whole: bool) -> None:
        fds, self._passed = self._passed[: message.fds], self._passed[message.fds :]
        call = self._calls.get(message.reply_to) if message.kind in (Kind.RETURN, Kind.ERROR) else None
        if call and whole:
            answer = _read_answer(message, call.gives, fds)
            fds = [fd for fd in fds if fd not in answer.values]  # the others are nobody's
            self._answer(message.reply_to, answer)
        elif call:
            self._answer(message.reply_to, Answer(error=LIMITS_EXCEEDED, text="the answer is too long"))
        elif message.kind in (Kind.CALL, Kind.SIGNAL) and whole:
            self._heard(message)
        elif message.kind == Kind.CALL:
            self.refuse(message, LIMITS_EXCEEDED, f"a message to kexecd has at most {LIMIT} bytes")
        for fd in fds:
            os.close(fd)

    def _answer(self, serial: int, answer: Answer) -> None:
        if call := self._calls.pop(serial, None):
            call.timer.cancel()
            call.done(answer)


def _read_answer(message: Incoming, gives: str, fds: list[int]) -> Answer:
    try:
        if message.kind == Kind.RETURN:
            return Answer(message.values(gives, fds))
        text = str(message.values("s")[0]) if message.signature == "s" else ""
        return Answer(error=message.error or NO_REPLY, text=text)
    except Malformed as malformed:
        return Answer(error="org.freedesktop.DBus.Error.InvalidSignature", text=f"the answer {malformed}")
