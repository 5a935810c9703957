# SPDX-License-Identifier: MIT
"""Asking systemd for its units over its private socket, without a program in between and without a message bus.

What systemctl does as root, in a tenth of the time on a slow machine: most of a systemctl is its own start. It is the
D-Bus protocol between two peers, of which one call is used, ListUnitsByPatterns (org.freedesktop.systemd1(5)).
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

SOCKET = "/run/systemd/private"
SYSTEMD = "org.freedesktop.systemd1"
MOST = 64 << 20
"""Bytes of an answer; the specification allows for twice as much."""

PART = 1 << 18  # bytes of one read
TRUNCATED = (struct.error, ValueError, AssertionError, IndexError, KeyError, TypeError, RecursionError)
"""What jeepney ends with on bytes that are not what they say."""


class Unit(NamedTuple):
    name: str
    active: str
    sub: str


class NotUnderstood(Exception):
    """It has answered something else, or there is nothing to ask it with; the message says what."""


def list_units(states: Sequence[str], patterns: Sequence[str], *, seconds: float, path: str = SOCKET) -> list[Unit]:
    """The units in one of these states whose names match one of these patterns.

    Raises OSError, for one TimeoutError if it takes too long, and NotUnderstood.
    """
    end = time.monotonic() + seconds
    try:
        from jeepney.auth import BEGIN, AuthenticationError, Authenticator  # type: ignore[import-untyped] # late, as all three: of use to a daemon that has them, and to nobody else as fast
        from jeepney.low_level import MessageType, Parser  # type: ignore[import-untyped]
        from jeepney.wrappers import DBusAddress, new_method_call  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:  # systemctl does it then
        raise NotUnderstood(f"there is no {error.name}") from error
    who = DBusAddress("/org/freedesktop/systemd1", SYSTEMD, f"{SYSTEMD}.Manager")
    call = new_method_call(who, "ListUnitsByPatterns", "asas", (list(states), list(patterns)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        there.settimeout(seconds)
        there.connect(path)
        authenticator, parser = Authenticator(), Parser()
        try:
            there.sendall(authenticator.data_to_send() + BEGIN)
            while not authenticator.authenticated:
                authenticator.feed(_read(there, end))
            # Only now: what it has read together with BEGIN it looks at when more comes, and nothing does.
            there.sendall(call.serialise(serial=1))
            got = 0
            while True:
                if answer := parser.get_next_message():
                    kind = answer.header.message_type
                    if kind is MessageType.method_return:
                        return [Unit(row[0], row[3], row[4]) for row in answer.body[0]]
                    if kind is MessageType.error:
                        raise NotUnderstood(_text(answer.body))
                    continue  # signals come unasked
                got += len(part := _read(there, end))
                if got > MOST:
                    raise NotUnderstood("an answer without end")
                parser.add_data(part)
        except (*TRUNCATED, AuthenticationError) as error:
            raise NotUnderstood(f"no answer of the D-Bus protocol: {error}") from error


def _read(there: socket.socket, end: float) -> bytes:
    """What comes next, until the clock is at `end`."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    there.settimeout(left)
    part = there.recv(PART)
    if not part:
        raise NotUnderstood("it has hung up")
    return part


def _text(body: tuple[Any, ...]) -> str:
    return str(body[0]) if body else "an error"
