# SPDX-License-Identifier: MIT
"""The connection's other end may be anything: what it does wrong ends the connection and nothing else."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from jeepney.low_level import Endianness, HeaderFields, Message, Parser  # type: ignore[import-untyped]
from jeepney.wrappers import DBusAddress, new_method_call, new_method_return  # type: ignore[import-untyped]

from kexecd.bus.connection import UNSAID, Answer, Connection
from kexecd.bus.wire import Incoming
from kexecd.loop import Loop

US = DBusAddress("/org/kexecd", "org.kexecd", "org.kexecd.Manager1")


@dataclass
class Talk:
    """A connection, and the bus's end of it in the test's hands."""

    loop: Loop = field(default_factory=Loop)
    heard: list[Incoming] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    reply: str = ""  # what each call is answered with

    def __post_init__(self) -> None:
        ours, self.bus = socket.socketpair()
        self.bus.setblocking(False)
        self.parser = Parser()
        self.connection = Connection(
            self.loop, ours, ready=lambda: self.over.append("ready"), heard=self._hear, lost=lambda: self._end("lost")
        )

    def _hear(self, message: Incoming) -> None:
        self.heard.append(message)
        self.connection.reply(message, "s", (self.reply,))

    def _end(self, how: str) -> None:
        self.over.append(how)

    def turn(self, seconds: float = 0.05) -> None:
        """Let the connection do what there is to do."""
        self.loop._stopped = False
        self.loop.after(seconds, self.loop.stop)
        self.loop.run()

    def read(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return self.bus.recv(1 << 20)
        return b""

    def messages(self) -> list[Message]:
        return list(self.parser.feed(self.read()))

    def greet(self) -> None:
        self.turn()
        assert self.read().startswith(b"\0AUTH EXTERNAL ")
        self.bus.send(b"OK 1234\r\n")
        self.turn()
        begin, hello = self.read().split(b"\r\n", 1)
        assert begin == b"BEGIN"
        (message,) = self.parser.feed(hello)
        assert message.header.fields[HeaderFields.member] == "Hello"
        self.bus.send(new_method_return(message, "s", (":1.1",)).serialise(serial=1))
        self.turn()
        assert self.over == ["ready"]


@pytest.fixture
def talk() -> Iterator[Talk]:
    talking = Talk()
    yield talking
    talking.connection.end()
    talking.bus.close()


def call(serial: int) -> bytes:
    message = new_method_call(US, "Entries")
    message.header.fields[HeaderFields.sender] = ":1.7"
    return bytes(message.serialise(serial=serial))


def test_while_nobody_takes_its_answers_it_reads_no_more_questions(talk: Talk) -> None:
    talk.greet()
    talk.reply, sent = "x" * 1000, 0
    data = b""
    for _ in range(100_000):
        if not data:
            sent += 1
            data = call(sent)
        try:
            data = data[talk.bus.send(data) :]
        except BlockingIOError:
            before = len(talk.heard)
            talk.turn(0.02)
            if len(talk.heard) == before:
                break
    else:
        pytest.fail("it reads whatever is sent")
    assert len(talk.connection._out) < 3 * UNSAID
    answers = len(talk.messages())
    while data or answers < sent:
        with contextlib.suppress(BlockingIOError):
            data = data[talk.bus.send(data) :]
        talk.turn(0.005)
        answers += len(talk.messages())
    assert answers == sent == len(talk.heard)


@pytest.mark.parametrize(
    "said",
    [b"REJECTED EXTERNAL\r\n", b"OK 1234\r\nand more\r\n", b"x" * 9000, b"", b"\0\0\0\0\r\n"],
    ids=["rejected", "too much", "endless", "nothing", "zeros"],
)
def test_a_bus_that_does_not_let_it_in_is_left(talk: Talk, said: bytes) -> None:
    talk.turn()
    if said:
        talk.bus.send(said)
    else:
        talk.bus.close()
    talk.turn()
    assert talk.over == ["lost"]


@pytest.mark.parametrize(
    "said",
    [b"\0" * 16, b"l\1\0\1" + b"\xff" * 12, b"x\1\0\1" + b"\0" * 60, b"l\1\0\1\0\0\0\0\1\0\0\0\4\0\0\0zzzz\0\0\0\0"],
    ids=["zeros", "too long", "no byte order", "no header"],
)
def test_what_is_no_message_ends_the_connection_or_is_read_past(talk: Talk, said: bytes) -> None:
    talk.greet()
    talk.bus.send(said)
    talk.turn()
    assert talk.heard == []
    assert talk.over in (["ready", "lost"], ["ready"])
    assert len(talk.connection._in) <= 1 << 17


def test_a_header_field_that_is_not_known_is_passed_over(talk: Talk) -> None:
    """As the specification wants it; jeepney's own reader does not."""
    talk.greet()
    data = bytearray(call(1))
    extra = b"\x63\1s\0\3\0\0\0new\0"  # a field 99
    (length,) = data[12:13]
    end = 16 + length
    padded = bytes(data[16:end]) + b"\0" * (-length % 8) + extra
    message = bytes(data[:12]) + len(padded).to_bytes(4, "little") + padded
    talk.bus.send(message + b"\0" * (-len(message) % 8))
    talk.turn()
    assert [each.member for each in talk.heard] == ["Entries"]


def test_a_message_in_the_other_byte_order_is_understood(talk: Talk) -> None:
    talk.greet()
    message = new_method_call(US, "Load", "sa{sv}", ("\N{SNOWMAN}", {"within": ("d", 2.5)}))
    message.header.endianness = Endianness.big
    talk.bus.send(message.serialise(serial=7))
    talk.turn()
    (heard,) = talk.heard
    assert heard.serial == 7
    assert heard.values("sa{sv}") == ("\N{SNOWMAN}", {"within": ("d", 2.5)})


def test_a_question_that_is_never_answered_is_an_error_in_time(talk: Talk) -> None:
    talk.greet()
    answers: list[Answer] = []
    ask(talk, answers.append, 0.03)
    talk.turn(0.1)
    assert [answer.error for answer in answers] == ["org.freedesktop.DBus.Error.NoReply"]


def test_what_was_asked_is_answered_with_an_error_when_the_bus_goes(talk: Talk) -> None:
    talk.greet()
    answers: list[Answer] = []
    ask(talk, answers.append, 60.0)
    talk.bus.close()
    talk.turn()
    assert [answer.error for answer in answers] == ["org.freedesktop.DBus.Error.Disconnected"]
    assert talk.over == ["ready", "lost"]


def test_an_answer_of_another_kind_than_was_expected_is_an_error(talk: Talk) -> None:
    talk.greet()
    answers: list[Answer] = []
    ask(talk, answers.append, 60.0)
    talk.turn()
    (message,) = talk.messages()
    talk.bus.send(new_method_return(message, "u", (7,)).serialise(serial=2))
    talk.turn()
    assert [answer.error for answer in answers] == ["org.freedesktop.DBus.Error.InvalidSignature"]


def ask(talk: Talk, done: Callable[[Answer], None], seconds: float) -> None:
    talk.connection.call("org.x", "/x", "org.x.Y", "Z", gives="s", done=done, seconds=seconds)


def test_text_that_no_bus_would_take_is_made_one_that_it_does(talk: Talk) -> None:
    talk.greet()
    talk.reply = "a\0b\ud800c"
    talk.bus.send(call(1))
    talk.turn()
    (message,) = talk.messages()
    assert message.body == ("ab?c",)
