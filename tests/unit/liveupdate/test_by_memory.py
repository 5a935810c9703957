# SPDX-License-Identifier: MIT
"""From one boot to the next in memory: the holder's own parts, with a stand-in for the kernel alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd import client
from kexecd.liveupdate import freezing, holder, luo
from kexecd.liveupdate.filestore import FileStore
from kexecd.liveupdate.server import Server
from kexecd.liveupdate.store import Store
from tests.unit.liveupdate.fake_kernel import FakeKernel, Inline
from tests.unit.liveupdate.holding import content, memfd

FINAL = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
MEMORY = {"carrier": "memory", "why": "both kernels speak it"}


class Boot:
    """One boot's holder, in a thread of ours."""

    def __init__(self, top: Path) -> None:
        self.store, self.disk, self.told = Store(), FileStore(str(top / "live")), list[str]()
        (top / "run").mkdir(exist_ok=True)
        self._loop = Inline()
        self._server = Server(self._loop, self.store, self.disk, str(top / "run"), tell=self.told.append)
        self.socket = str(top / "run" / "state")

    def run(self) -> None:
        holder.restore(self.store, self.disk)
        self._server.start()
        self._reader, self._writer = os.pipe()
        self._loop.watch(self._reader, self._loop.stop)
        self._thread = threading.Thread(target=self._loop.run)
        self._thread.start()

    def end(self) -> None:
        """As a jump does, but that our descriptors are closed as well."""
        os.write(self._writer, b".")
        self._thread.join()
        self._server.close()
        self.store.close()
        for fd in (self._reader, self._writer):
            os.close(fd)


@contextlib.contextmanager
def boot(top: Path) -> Iterator[tuple[client.Connection, Boot]]:
    one = Boot(top)
    one.run()
    try:
        with client.Connection(one.socket, seconds=20) as connection:
            yield connection, one
    finally:
        one.end()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return FakeKernel(monkeypatch)


def test_everything_comes_over_by_name_and_stays_for_the_next_time(tmp_path: Path, kernel: FakeKernel) -> None:
    final = memfd(b"final")
    fcntl.fcntl(final, fcntl.F_ADD_SEALS, FINAL)
    for number in range(3):
        with boot(tmp_path) as (state, _):
            if not number:
                state.put("final", final)
                state.put("table", memfd(b"0"))
            table = state.get("table") or -1
            assert content(table) == b"%d" % number
            os.pwrite(table, b"%d" % (number + 1), 0)
            told = state.ask({"do": "freeze", **MEMORY})[0]
            assert (told["carrier"], told["count"], told["note"]) == ("memory", 2, "")
            kernel.kexec()
    with boot(tmp_path) as (state, _):
        assert state.status()["state"] == "updated"
        back = state.get("final") or -1
        assert content(back) == b"final"
        assert fcntl.fcntl(back, fcntl.F_GET_SEALS) & FINAL == FINAL
        assert [held.frozen_at > 0 for held in state.list()] == [True, True]


def test_on_the_disk_there_is_only_what_tells_of_a_loss_and_then_nothing(tmp_path: Path, kernel: FakeKernel) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        state.ask({"do": "freeze", **MEMORY})
        assert os.listdir(tmp_path / "live") == ["index.json"]
        kernel.kexec()
    with boot(tmp_path):
        assert os.listdir(tmp_path / "live") == []


def test_through_the_firmware_after_all_it_is_told_as_lost(tmp_path: Path, kernel: FakeKernel) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        state.ask({"do": "freeze", **MEMORY})
        kernel.firmware()
    index = tmp_path / "live" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"boot_id": "the one before"}))
    with boot(tmp_path) as (state, _):
        (lost,) = state.status()["lost"]
        assert (lost["name"], lost["why"]) == ("table", "no kexec that carries memory led to this boot")


def test_a_memfd_that_the_kernel_does_not_take_is_refused_when_it_is_put(tmp_path: Path, kernel: FakeKernel) -> None:
    kernel.refuse = {3: errno.EOPNOTSUPP}
    with boot(tmp_path) as (state, _):
        with pytest.raises(client.NotDone) as no:
            state.put("table", memfd(b"123"))
        assert no.value.strerror == "it has seals that the kernel cannot carry"
        assert kernel.alive() == []
        state.put("other", memfd(b"1234"))


def test_putting_and_preparing_leave_nothing_preserved(tmp_path: Path, kernel: FakeKernel) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        state.ask({"do": "prepare", **MEMORY})
        assert kernel.alive() == []
        state.ask({"do": "cancel"})
        assert state.status()["state"] == "normal"


def test_cancel_closes_the_session(tmp_path: Path, kernel: FakeKernel) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        state.ask({"do": "freeze", **MEMORY})
        assert [session.name for session in kernel.alive()] == ["kexecd"]
        state.ask({"do": "cancel"})
        assert kernel.alive() == []
        state.put("table", memfd(b"y"))


def test_whoever_jumps_gets_the_session_and_it_outlives_the_holder(tmp_path: Path, kernel: FakeKernel) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        with pytest.raises(client.NotDone, match="memory carries nothing now"):
            state.ask({"do": "session"})
        state.ask({"do": "freeze", **MEMORY})
        session = state.ask({"do": "session"})[1] or -1
    assert [one.name for one in kernel.alive()] == ["kexecd"]  # the holder is gone
    kernel.kexec()
    os.close(session)
    with boot(tmp_path) as (state, _):
        assert content(state.get("table") or -1) == b"x"


def test_a_device_that_stays_held_makes_it_go_by_file(tmp_path: Path, kernel: FakeKernel) -> None:
    with boot(tmp_path) as (state, here):
        state.put("table", memfd(b"x"))
        kernel.held = True
        told = state.ask({"do": "freeze", **MEMORY})[0]
        assert told["carrier"] == "file"
        assert told["why"] == "another process holds /dev/liveupdate, which takes one at a time"
        assert here.told[-1].startswith("1 held, 1 bytes, go by file: another process holds")


def test_one_that_fails_in_the_freeze_makes_all_go_by_file(tmp_path: Path, kernel: FakeKernel) -> None:
    with boot(tmp_path) as (state, _):
        state.put("small", memfd(b"x"))
        state.put("table", memfd(b"12345"))
        kernel.refuse = {5: errno.ENOMEM}
        told = state.ask({"do": "freeze", **MEMORY})[0]
        assert (told["carrier"], told["why"]) == ("file", "there is no memory to keep it in place")
        assert kernel.alive() == []
    with boot(tmp_path) as (state, _):
        assert (content(state.get("small") or -1), content(state.get("table") or -1)) == (b"x", b"12345")


def test_a_device_that_is_held_when_something_is_put_is_no_reason_to_refuse_it(
    tmp_path: Path, kernel: FakeKernel
) -> None:
    with boot(tmp_path) as (state, _):
        kernel.held = True
        assert state.put("table", memfd(b"x")).bytes == 1


def test_a_device_that_is_held_at_the_start_leaves_it_for_the_next_holder(
    tmp_path: Path, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "BOOTING", 0.1)
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        state.ask({"do": "freeze", **MEMORY})
        kernel.kexec()
    kernel.held = True
    with boot(tmp_path) as (state, _):
        (lost,) = state.status()["lost"]
        assert lost["why"] == "another process holds /dev/liveupdate, which takes one at a time"
    kernel.held = False
    with boot(tmp_path) as (state, _):
        assert content(state.get("table") or -1) == b"x"
        assert state.status()["lost"] == []


def test_sessions_of_others_are_left_alone(tmp_path: Path, kernel: FakeKernel) -> None:
    theirs = luo.create("systemd")
    luo.preserve(theirs, memfd(b"theirs"), 1)
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        state.ask({"do": "freeze", **MEMORY})
        kernel.kexec()
    with boot(tmp_path):
        again = luo.retrieve("systemd") or -1
        assert content(luo.take(again, 1)) == b"theirs"


def test_what_came_over_otherwise_than_it_went_is_told_as_lost(tmp_path: Path, kernel: FakeKernel) -> None:
    fd = memfd(b"12345")
    with boot(tmp_path) as (state, _):
        state.put("table", fd)
        state.put("other", memfd(b"x"))
        state.ask({"do": "freeze", **MEMORY})
        os.ftruncate(fd, 3)  # which the kernel does not let anybody
        kernel.kexec()
    with boot(tmp_path) as (state, _):
        assert [held.name for held in state.list()] == ["other"]
        (lost,) = state.status()["lost"]
        assert lost["why"] == "it came with 3 bytes and seals 0x0, not 5 and 0x0"


def test_what_nobody_could_write_is_compared_with_what_it_was(tmp_path: Path, kernel: FakeKernel) -> None:
    final = memfd(b"\x01\x02\x03")
    fcntl.fcntl(final, fcntl.F_ADD_SEALS, FINAL)
    with boot(tmp_path) as (state, _):
        state.put("table", final)
        state.ask({"do": "freeze", **MEMORY})
        kernel.kexec((b"\x02", b"\x07"))
    with boot(tmp_path) as (state, _):
        (lost,) = state.status()["lost"]
        assert lost["why"] == "its content is not what was handed over: the checksum is another one"
