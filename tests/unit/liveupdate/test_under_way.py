# SPDX-License-Identifier: MIT
"""Who asks while everything is being handed over, written or removed: one thing at a time, and a cancel ends it."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from kexecd import client
from kexecd.liveupdate import restart
from kexecd.liveupdate.beside import LastAct
from kexecd.liveupdate.child import Child
from kexecd.liveupdate.filestore import INDEX, FileStore
from kexecd.liveupdate.index import Carrier, Index
from kexecd.liveupdate.protocol import LIMIT, refused
from tests.unit.liveupdate.fake_kernel import FakeKernel
from tests.unit.liveupdate.holding import PATIENCE, Holder, comes_to, content, holding, memfd
from tests.unit.liveupdate.test_by_memory import MEMORY, boot

FREEZE = b'{"do": "freeze", "carrier": "file", "why": "a test"}'
CANCELLED = refused("it was cancelled meanwhile", errno.ECANCELED)


class Halted:
    """A holder whose child comes to one place and stays there until it is let go."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        (self._come, self._comes), (self._go, self._goes) = os.pipe(), os.pipe()
        self.table = memfd(b"old")

    def start(self, patch: Callable[[pytest.MonkeyPatch, Callable[[], None]], None]) -> None:
        """patch: is given what is to be called at that place, and has it be called in the holder that is started."""
        self.holder.end()
        with pytest.MonkeyPatch.context() as monkeypatch:
            patch(monkeypatch, self._halt)
            self.holder.start()
        client.put("table", self.table, path=self.holder.socket)

    def come(self) -> None:
        assert os.read(self._come, 1) == b"."

    def let_go(self) -> None:
        os.write(self._goes, b".")

    def close(self) -> None:
        for fd in (self._come, self._comes, self._go, self._goes, self.table):
            os.close(fd)

    def _halt(self) -> None:
        os.close(self._goes)  # so that it ends with the test, however that does
        os.write(self._comes, b".")
        os.read(self._go, 1)


def before_it_counts(patch: pytest.MonkeyPatch, halt: Callable[[], None]) -> None:
    note = FileStore.note

    def halted(disk: FileStore, index: Index) -> None:
        halt()
        note(disk, index)

    patch.setattr(FileStore, "note", halted)


def when_it_counts(patch: pytest.MonkeyPatch, halt: Callable[[], None]) -> None:
    note = FileStore.note

    def halted(disk: FileStore, index: Index) -> None:
        note(disk, index)
        halt()

    patch.setattr(FileStore, "note", halted)


def before_it_is_removed(patch: pytest.MonkeyPatch, halt: Callable[[], None]) -> None:
    forget = FileStore.forget

    def halted(disk: FileStore) -> None:
        if os.path.isdir(disk.directory):  # but not when it starts
            halt()
        forget(disk)

    patch.setattr(FileStore, "forget", halted)


@pytest.fixture
def halted() -> Iterator[Halted]:
    with holding() as holder:
        one = Halted(holder)
        yield one
        one.close()


def nothing_comes_back(holder: Holder) -> None:
    """Neither what was written nor that it would be lost."""
    holder.end()
    holder.boot()
    with holder.ask() as state:
        assert (state.list(), state.status()["lost"], state.status()["state"]) == ([], [], "normal")


@pytest.mark.parametrize("do", ["freeze", "prepare", "finish"])
def test_while_it_is_written_it_is_neither_frozen_once_more_nor_prepared_nor_finished(halted: Halted, do: str) -> None:
    halted.start(before_it_counts)
    with halted.holder.ask() as first, halted.holder.ask() as second:
        first._socket.send(FREEZE)
        halted.come()
        with pytest.raises(client.NotDone) as no:
            second.ask({"do": do} | ({"carrier": "file"} if do == "prepare" else {}))
        assert (no.value.errno, no.value.strerror) == (errno.EBUSY, "everything is being written just now")
        halted.let_go()
        assert json.loads(first._socket.recv(LIMIT))["carrier"] == "file"
        assert second.ask({"do": "freeze"})[0]["count"] == 1


@pytest.mark.parametrize("place", [before_it_counts, when_it_counts])
def test_a_cancel_ends_who_writes_and_nothing_is_left(
    halted: Halted, place: Callable[[pytest.MonkeyPatch, Callable[[], None]], None]
) -> None:
    halted.start(place)
    with halted.holder.ask() as first, halted.holder.ask() as second:
        first._socket.send(FREEZE)
        halted.come()
        second.ask({"do": "cancel"})
        assert first._socket.recv(LIMIT) == CANCELLED
        assert first.status()["state"] == "normal"
        halted.let_go()  # nobody is there any more
        assert os.listdir(halted.holder.live) == []
        second.put("more", memfd())
    nothing_comes_back(halted.holder)


@pytest.mark.parametrize("do", ["freeze", "prepare", "finish"])
def test_while_it_is_removed_nothing_is_begun(halted: Halted, do: str) -> None:
    halted.start(before_it_is_removed)
    with halted.holder.ask() as first, halted.holder.ask() as second:
        first.ask({"do": "freeze", "carrier": "file"})
        first._socket.send(b'{"do": "cancel"}')
        halted.come()
        with pytest.raises(client.NotDone) as no:
            second.ask({"do": do} | ({"carrier": "file"} if do == "prepare" else {}))
        assert (no.value.errno, no.value.strerror) == (errno.EBUSY, "what was written is being removed just now")
        halted.let_go()
        assert first._socket.recv(LIMIT) == b'{"done": true}'
        assert second.ask({"do": "freeze", "carrier": "file"})[0]["count"] == 1
        assert len(os.listdir(halted.holder.live)) == 2


def test_two_cancels_at_once_are_both_answered_and_no_freeze_comes_between(halted: Halted) -> None:
    halted.start(before_it_is_removed)
    with halted.holder.ask() as first, halted.holder.ask() as second, halted.holder.ask() as third:
        first.ask({"do": "freeze", "carrier": "file"})
        for one in (first, second):
            one._socket.send(b'{"do": "cancel"}')
            halted.come()
        halted.let_go()
        assert comes_to(lambda: len(os.listdir(halted.holder.live)), 0)
        with pytest.raises(client.NotDone, match="is being removed just now"):
            third.ask({"do": "freeze"})
        halted.let_go()
        assert first._socket.recv(LIMIT) == second._socket.recv(LIMIT) == b'{"done": true}'
        assert third.ask({"do": "freeze", "carrier": "file"})[0]["count"] == 1


def test_who_writes_and_cannot_be_ended_is_told_and_what_it_leaves_is_removed_when_it_ends(halted: Halted) -> None:
    """It sleeps in the kernel: here, nobody sends it the signal."""

    def place(patch: pytest.MonkeyPatch, halt: Callable[[], None]) -> None:
        before_it_counts(patch, halt)
        patch.setattr(Child, "end", lambda child: None)
        patch.setattr(restart, "ENDING", 0.1)

    halted.start(place)
    with halted.holder.ask() as first, halted.holder.ask() as second:
        first._socket.send(FREEZE)
        halted.come()
        with pytest.raises(client.NotDone) as no:
            second.ask({"do": "cancel"})
        assert (no.value.errno, no.value.strerror) == (
            errno.ETIMEDOUT,
            "the process that writes has been killed and has not ended within 0.1 s: what it leaves is removed when"
            " it ends, or by the next cancel",
        )
        assert first._socket.recv(LIMIT) == CANCELLED
        assert second.status()["state"] == "normal"
        second.put("more", memfd())
        with pytest.raises(client.NotDone, match="was killed, and has not ended yet") as busy:
            second.ask({"do": "freeze", "carrier": "file"})
        assert busy.value.errno == errno.EBUSY
        halted.let_go()
        assert first.status()["state"] == "normal"  # heard again, since it has ended and all is removed
        assert os.listdir(halted.holder.live) == []
    nothing_comes_back(halted.holder)


def test_what_a_writer_that_was_killed_for_its_slowness_has_left_a_cancel_removes(halted: Halted) -> None:
    def place(patch: pytest.MonkeyPatch, halt: Callable[[], None]) -> None:
        when_it_counts(patch, halt)
        patch.setattr(restart, "FREEZING", 0.3)

    halted.start(place)
    with halted.holder.ask() as state:
        with pytest.raises(client.NotDone, match="it did not end within 0.3 s"):
            state.ask({"do": "freeze", "carrier": "file"})
        assert INDEX in os.listdir(halted.holder.live)
        state.ask({"do": "cancel"})
        assert os.listdir(halted.holder.live) == []
    nothing_comes_back(halted.holder)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return FakeKernel(monkeypatch)


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event, threading.Event]]:
    """A disk that takes its time for memory's index. Set: the first when that has come; the second to let it go on; the
    third when it has been dealt with."""
    come, go_on, done = threading.Event(), threading.Event(), threading.Event()
    note = FileStore.note

    def waits(disk: FileStore, index: Index, *turn: Callable[[], AbstractContextManager[None]]) -> None:
        if index.carrier is Carrier.FILE:
            note(disk, index, *turn)
            return
        come.set()
        try:
            assert go_on.wait(PATIENCE)
            note(disk, index, *turn)
        finally:
            done.set()

    monkeypatch.setattr(FileStore, "note", waits)
    yield come, go_on, done
    go_on.set()


def test_a_thread_that_was_given_up_puts_no_index_over_the_one_of_the_files(
    tmp_path: Path,
    kernel: FakeKernel,
    noting: tuple[threading.Event, threading.Event, threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restart, "HANDING", 0.1)
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        assert state.ask({"do": "freeze", **MEMORY})[0]["carrier"] == "file"
        assert noting[0].is_set()
        noting[1].set()
        assert noting[2].wait(PATIENCE)
        assert json.loads((tmp_path / "live" / INDEX).read_text())["carrier"] == "file"
        assert len(os.listdir(tmp_path / "live")) == 2
    with boot(tmp_path) as (state, _):
        assert content(state.get("table") or -1) == b"x"


def test_a_thread_that_was_cancelled_leaves_nothing_on_the_disk_and_the_next_attempts_index_as_it_is(
    tmp_path: Path, kernel: FakeKernel, noting: tuple[threading.Event, threading.Event, threading.Event]
) -> None:
    with boot(tmp_path) as (state, here), client.Connection(here.socket, seconds=PATIENCE) as other:
        state.put("table", memfd(b"x"))
        state._socket.send(json.dumps({"do": "freeze", **MEMORY}).encode())
        assert noting[0].wait(PATIENCE)
        with pytest.raises(client.NotDone) as no:
            other.ask({"do": "freeze"})
        assert (no.value.errno, no.value.strerror) == (
            errno.EBUSY,
            "everything is being handed to the kernel just now",
        )
        other.ask({"do": "cancel"})
        assert state._socket.recv(LIMIT) == CANCELLED
        assert not (tmp_path / "live" / INDEX).exists()
        other.ask({"do": "freeze", "carrier": "file"})  # although the thread is still there
        noting[1].set()
        assert noting[2].wait(PATIENCE)
        assert json.loads((tmp_path / "live" / INDEX).read_text())["carrier"] == "file"
        other.ask({"do": "cancel"})
        assert os.listdir(tmp_path / "live") == []


def test_a_last_act_that_has_begun_is_waited_for_and_one_that_was_given_up_does_not_begin() -> None:
    last, inside, go_on, said = LastAct(), threading.Event(), threading.Event(), list[str]()

    def act() -> None:
        with last.turn(lambda: True):
            inside.set()
            assert go_on.wait(PATIENCE)
            said.append("acted")

    thread = threading.Thread(target=act)
    thread.start()
    assert inside.wait(PATIENCE)
    assert not last.is_over(0.05)
    go_on.set()
    assert last.is_over(PATIENCE)
    assert said == ["acted"]
    thread.join()
    with pytest.raises(OSError, match=os.strerror(errno.ECANCELED)), last.turn(lambda: False):
        said.append("acted again")
    assert said == ["acted"]
    assert last.is_over(0.0)


def test_a_child_is_ended_once_and_whoever_has_no_number_is_nobody() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)  # who is killed by mistake is this one alone
            sleeper = os.fork()
            if sleeper == 0:
                threading.Event().wait(PATIENCE)
                os._exit(0)
            child = Child(sleeper)
            before = child.has_ended()
            child.end()
            ended = child.has_ended(PATIENCE)
            os.waitpid(sleeper, 0)
            child.end()  # its number may be anybody's by now
            for number in (0, -1):
                nobody = Child(number)
                nobody.end()
                ended = ended and nobody.has_ended()
            os._exit(0 if ended and not before else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
