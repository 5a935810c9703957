# SPDX-License-Identifier: MIT
"""Answers of a PID 1 that is none, or not whole: each ends, in a sentence or in a time-out."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kexecd.init.systemd_bus import NotUnderstood, Unit, list_units

WELCOME = b"OK 0123\r\n"
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4  # D-Bus Specification, "Message Format"
ROWS = "a(ssssssouso)"


def message(kind: int, body: bytes, signature: str = "", *, order: str = "<") -> bytes:
    """One with no other header field than the signature of its body."""
    fields = struct.pack("BBBB", 8, 1, ord("g"), 0) + bytes((len(signature),)) + signature.encode() + b"\0"
    fields = fields if signature else b""
    head = struct.pack(order + "BBBBIII", ord("l" if order == "<" else "B"), kind, 0, 1, len(body), 1, len(fields))
    return head + fields + bytes(-len(fields) % 8) + body


def string(text: str, order: str) -> bytes:
    data = text.encode()
    return struct.pack(order + "I", len(data)) + data + b"\0"


def unit(name: str, order: str = "<") -> bytes:
    """The body of an answer with one unit, in which everything is aligned as the D-Bus specification has it."""
    row = b""
    for text in (name, "a description", "loaded", "active", "running", "", "/unit"):
        row += bytes(-len(row) % 4) + string(text, order)
    row += bytes(-len(row) % 4) + struct.pack(order + "I", 0)
    row += string("", order)
    row += bytes(-len(row) % 4) + string("/", order)
    return struct.pack(order + "I", len(row)) + bytes(4) + row


def answered(tmp_path: Path, answer: Callable[[socket.socket], object], seconds: float = 10.0) -> list[Unit]:
    """What comes of it if whoever listens says WELCOME and then answers so."""
    path = str(tmp_path / "private")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(10)

        def serve() -> None:
            there, _ = listener.accept()
            with there:
                there.settimeout(10)
                heard = b""
                while not heard.endswith(b"BEGIN\r\n"):
                    heard += there.recv(4096)
                assert heard.startswith(b"\0AUTH EXTERNAL ")
                there.sendall(WELCOME)
                assert there.recv(4096).startswith(b"l\1")
                answer(there)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return list_units(["active"], ["*.service"], seconds=seconds, path=path)
        finally:
            thread.join()


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_answer_is_understood_in_either_byte_order(tmp_path: Path, order: str) -> None:
    body = unit("cron.service", order)
    found = answered(tmp_path, lambda there: there.sendall(message(RETURN, body, ROWS, order=order)))
    assert found == [Unit("cron.service", "active", "running")]


def test_signals_that_come_before_the_answer_are_passed_over(tmp_path: Path) -> None:
    all_of_it = message(SIGNAL, b"") + message(CALL, b"") + message(RETURN, unit("cron.service"), ROWS)
    assert answered(tmp_path, lambda there: there.sendall(all_of_it)) == [Unit("cron.service", "active", "running")]


def test_an_answer_may_come_byte_by_byte(tmp_path: Path) -> None:
    def dribble(there: socket.socket) -> None:
        for byte in message(RETURN, unit("cron.service"), ROWS):
            there.sendall(bytes((byte,)))

    assert [found.name for found in answered(tmp_path, dribble)] == ["cron.service"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "it has hung up"),
        (message(RETURN, unit("cron.service"), ROWS)[:40], "it has hung up"),
        (message(ERROR, string("no such method", "<"), "s"), "no such method"),
        (message(ERROR, b""), "an error"),
        (message(RETURN, struct.pack("<II", 1000, 0), ROWS), "no answer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "no answer"),
    ],
    ids=["nothing", "cut off", "error", "nameless error", "too short", "nonsense"],
)
def test_what_is_no_answer_is_told(tmp_path: Path, answer: bytes, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        answered(tmp_path, lambda there: there.sendall(answer))


def test_one_who_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        answered(tmp_path, lambda there: time.sleep(1.0), seconds=0.3)
    assert time.monotonic() - begin < 5


def test_one_who_never_stops_talking_is_not_waited_for(tmp_path: Path) -> None:
    def talk(there: socket.socket) -> None:
        end = time.monotonic() + 5
        try:
            while time.monotonic() < end:
                there.sendall(message(SIGNAL, b""))
        except OSError:
            pass

    with pytest.raises(TimeoutError):
        answered(tmp_path, talk, seconds=0.5)


def test_where_nobody_listens_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_units(["active"], ["*"], seconds=1, path=str(tmp_path / "none"))
