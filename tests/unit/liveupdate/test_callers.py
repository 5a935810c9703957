# SPDX-License-Identifier: MIT
"""Whoever asks is heard, answered and hung up on: a real holder and real users, real connections to a loop of ours."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from kexecd.errors import Busy, ExitCode
from kexecd.liveupdate import callers, protocol
from kexecd.liveupdate.callers import Asked, Caller, Callers
from kexecd.liveupdate.freezing import Report
from kexecd.liveupdate.holder import serve
from kexecd.loop import Loop
from tests.unit.liveupdate.holding import PATIENCE, Holder, as_user, comes_to, holding, memfd, none_to_be_had

ALICE, BOB = 4711, 4712
STATUS, LIST = b'{"do": "status"}', b'{"do": "list"}'


@pytest.fixture
def holder() -> Iterator[Holder]:
    with holding() as one:
        yield one


@pytest.mark.parametrize("do", ["prepare", "freeze", "session", "cancel", "finish"])
def test_only_root_decides_about_a_restart(holder: Holder, do: str) -> None:
    question = {"do": do} | ({"carrier": "file"} if do in ("prepare", "freeze") else {})
    assert as_user(ALICE, lambda: holder.ask().ask(question)[0]) == [errno.EPERM, f"only root may {do}"]


@pytest.mark.parametrize("message", [b"", b"x", b"{}", b"[]", b'{"do": "put"}', b'{"do": "get", "name": "/"}', b"\xff"])
def test_nonsense_is_answered_and_the_next_question_too(holder: Holder, message: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.settimeout(PATIENCE)
        caller.connect(holder.socket)
        caller.send(message)
        answer = caller.recv(protocol.LIMIT)
        if message:
            assert b'"done": false' in answer
            caller.send(b'{"do": "status"}')
            assert b'"done": true' in caller.recv(protocol.LIMIT)
        else:
            assert answer == b""  # nobody can tell it from hanging up
    with holder.ask() as state:
        assert state.status()["state"] == "normal"


def test_more_descriptors_than_one_are_refused_and_none_is_kept(holder: Holder) -> None:
    with holder.ask() as state:
        state.status()  # so that the connection is counted
        before = len(os.listdir(f"/proc/{holder.pid}/fd"))
        fds = [memfd() for _ in range(20)]
        message = b'{"do": "put", "name": "x"}'
        socket.send_fds(state._socket, [message], fds)
        assert b'"done": false' in state._socket.recv(protocol.LIMIT)
        assert comes_to(lambda: len(os.listdir(f"/proc/{holder.pid}/fd")), before)


def test_who_connects_without_end_is_refused_and_others_are_not(holder: Holder) -> None:
    def crowd() -> object:
        crowd = [holder.ask() for _ in range(40)]
        told = []
        for one in crowd:
            try:
                told.append(one.status()["state"])
            except OSError:
                told.append("refused")
        return told.count("refused")

    assert as_user(ALICE, crowd) == 24
    assert as_user(BOB, lambda: holder.ask().status()["state"]) == "normal"


def test_who_leaves_in_the_middle_of_an_answer_harms_nobody(holder: Holder) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.connect(holder.socket)
            caller.send(b'{"do": "prepare", "carrier": "file"}')
    with holder.ask() as state:
        assert state.status()["state"] in ("normal", "prepared")


def test_while_somebodys_large_one_is_looked_at_others_are_answered(holder: Holder) -> None:
    large = memfd()
    os.ftruncate(large, 512 << 20)
    fcntl.fcntl(large, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    with holder.ask() as slow, holder.ask() as quick:
        socket.send_fds(slow._socket, [b'{"do": "put", "name": "large"}'], [large])
        assert quick.status()["count"] == 0
        assert not select.select([slow._socket], [], [], 0)[0], "it was answered before the other one"
        assert b'"done": true' in slow._socket.recv(protocol.LIMIT)
        assert quick.status()["count"] == 1


def test_a_second_holder_does_not_take_the_place_of_the_first(holder: Holder) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            serve(str(holder.run_dir), str(holder.live))
        except Busy as busy:
            os._exit(busy.exit_code)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == ExitCode.BUSY
    with holder.ask() as state:
        assert state.status()["state"] == "normal"


class Desk(Loop):
    """Where somebody is heard, in this thread. asked: what is done about a question."""

    def __init__(self, path: Path, asked: Asked) -> None:
        super().__init__()
        self._path = str(path)
        self.callers = Callers(self, self._path, asked)
        self.callers.start()

    def connect(self) -> socket.socket:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        one.connect(self._path)
        return one

    @property
    def running(self) -> int:
        """Timers that have not been cancelled."""
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def answer(self, one: socket.socket) -> bytes:
        """What somebody who has connected is told next; empty if it is hung up on him."""
        self._stopped = False
        late = self.after(PATIENCE, self.stop)
        self.watch(one.fileno(), self.stop)
        self.run()
        self.forget(one.fileno())
        late.cancel()
        return one.recv(protocol.LIMIT, socket.MSG_DONTWAIT)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[[Asked], Desk]]:
    made: list[Desk] = []

    def make(asked: Asked) -> Desk:
        made.append(Desk(tmp_path / "state", asked))
        return made[-1]

    yield make
    for one in made:
        one.callers.close()


def beside(way: str, work: Callable[[], Report], seconds: float = PATIENCE) -> Asked:
    """A status takes a child or a thread, whose report is the answer; everything else is answered at once."""

    def asked(caller: Caller, question: protocol.Question, fd: int) -> bool:
        del fd

        def done(report: Report) -> None:
            caller.send(protocol.refused(report.why, report.errno) if report.why else protocol.done(note=report.note))

        if question.do is protocol.Do.STATUS:
            (caller.in_thread if way == "thread" else caller.in_child)(work, done, seconds=seconds)
        else:
            caller.send(protocol.done(do=question.do))
        return False

    return asked


@pytest.mark.parametrize("way", ["child", "thread"])
def test_who_waits_for_a_child_or_a_thread_is_told_its_report_and_only_then_heard_again(
    desk: Callable[[Asked], Desk], way: str
) -> None:
    one = desk(beside(way, lambda: Report(note="done beside")))
    with one.connect() as first:
        first.send(STATUS)
        first.send(LIST)
        assert one.answer(first) == protocol.done(note="done beside")
        assert one.answer(first) == protocol.done(do="list")


@pytest.mark.parametrize("way", ["child", "thread"])
def test_what_takes_too_long_is_said_and_who_asked_is_heard_again(desk: Callable[[Asked], Desk], way: str) -> None:
    reader, writer = os.pipe()

    def hangs() -> Report:
        os.read(reader, 1)
        return Report()

    one = desk(beside(way, hangs, seconds=0.1))
    with one.connect() as first:
        first.send(STATUS)
        assert one.answer(first) == protocol.refused("it did not end within 0.1 s", errno.ETIMEDOUT)
        first.send(LIST)
        assert one.answer(first) == protocol.done(do="list")
    os.close(writer)  # a thread is not killed
    os.close(reader)


def test_a_child_that_ends_without_a_word_is_told_by_how_it_ended(desk: Callable[[Asked], Desk]) -> None:
    def dies() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    one = desk(beside("child", dies))
    with one.connect() as first:
        first.send(STATUS)
        assert one.answer(first) == protocol.refused("the process that did it ended with 137", errno.EIO)


def test_where_no_process_is_to_be_had_that_is_the_answer_and_who_asked_is_heard_again(
    desk: Callable[[Asked], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loop, "child", none_to_be_had)
    one = desk(beside("child", Report))
    with one.connect() as first:
        first.send(STATUS)
        assert one.answer(first) == protocol.refused("resource temporarily unavailable", errno.EAGAIN)
        first.send(LIST)
        assert one.answer(first) == protocol.done(do="list")


def test_who_leaves_while_a_child_works_for_him_is_not_answered_and_others_are(desk: Callable[[Asked], Desk]) -> None:
    reader, writer = os.pipe()
    ended: list[Report] = []

    def asked(caller: Caller, question: protocol.Question, fd: int) -> bool:
        def done(report: Report) -> None:
            ended.append(report)
            caller.send(protocol.done())
            other.send(LIST)

        if question.do is protocol.Do.STATUS:
            caller.in_child(lambda: Report(note=os.read(reader, 1).decode()), done, seconds=PATIENCE)
            first.close()
            os.write(writer, b".")
        else:
            caller.send(protocol.done(do=question.do))
        return fd >= 0

    one = desk(asked)
    with one.connect() as first, one.connect() as other:
        first.send(STATUS)
        assert one.answer(other) == protocol.done(do="list")
        assert [report.note for report in ended] == ["."]
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_descriptor_is_closed_unless_it_is_kept(desk: Callable[[Asked], Desk], keeps: bool) -> None:
    came: list[int] = []

    def asked(caller: Caller, question: protocol.Question, fd: int) -> bool:
        came.append(fd)
        caller.send(protocol.done(do=question.do))
        return keeps

    def is_open() -> int:
        return int(os.path.exists(f"/proc/self/fd/{came[0]}"))

    one = desk(asked)
    with one.connect() as first:
        socket.send_fds(first, [b'{"do": "put", "name": "table"}'], [memfd(b"x")])
        assert one.answer(first) == protocol.done(do="put")
        first.send(LIST)
        assert one.answer(first) == protocol.done(do="list")
        assert comes_to(is_open, int(keeps))
    assert came[1:] == [-1], "a question that comes without a descriptor has one"


def test_who_says_nothing_is_hung_up_on_but_not_while_he_waits_for_us(
    desk: Callable[[Asked], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    def takes_longer() -> Report:
        time.sleep(0.5)
        return Report(note="done beside")

    monkeypatch.setattr(callers, "IDLE", 0.2)
    one = desk(beside("child", takes_longer))
    with one.connect() as silent, one.connect() as waiting:
        waiting.send(STATUS)
        assert one.answer(silent) == b""
        assert one.answer(waiting) == protocol.done(note="done beside")


@pytest.mark.parametrize("way", ["child", "thread", "neither"])
def test_who_says_nothing_after_an_answer_is_hung_up_on_however_it_was_come_by(
    desk: Callable[[Asked], Desk], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "neither":
        monkeypatch.setattr(Loop, "child", none_to_be_had)
    monkeypatch.setattr(callers, "IDLE", 0.2)
    one = desk(beside(way, Report))
    with one.connect() as first:
        first.send(STATUS)
        assert one.answer(first)
        assert one.running == 1, "for one silence there is one timer"
        assert one.answer(first) == b""
        assert one.running == 0


def test_where_no_thread_is_to_be_had_to_close_a_descriptor_it_stays_open_and_the_answer_comes(
    desk: Callable[[Asked], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    one = desk(beside("child", Report))
    reader, writer = os.pipe()
    with one.connect() as first:
        socket.send_fds(first, [LIST], [reader])
        assert one.answer(first) == protocol.refused("list comes without a descriptor")
        first.send(LIST)
        assert one.answer(first) == protocol.done(do="list")
    pipe = os.readlink(f"/proc/self/fd/{reader}")
    with os.scandir("/proc/self/fd") as found:
        same = [int(fd.name) for fd in found if os.path.islink(fd.path) and os.readlink(fd.path) == pipe]
    assert len(same) == 3, "both of ours, and the one that nobody could close"
    for fd in same:
        os.close(fd)
