# SPDX-License-Identifier: MIT
"""What is done on the way to the jump, and what was done before so that it need not be."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd import client
from kexecd.liveupdate import beside, luo, restart
from kexecd.liveupdate.filestore import FileStore
from kexecd.loop import Ended, Loop
from tests.unit.liveupdate.fake_kernel import FakeKernel, Inline
from tests.unit.liveupdate.holding import comes_to, content, memfd, none_to_be_had
from tests.unit.liveupdate.test_by_memory import MEMORY, boot

PATIENCE = 10.0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return FakeKernel(monkeypatch)


@pytest.fixture
def taken(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what the kernel has been given, in order."""
    sizes: list[int] = []
    preserve = luo.preserve

    def seen(session: int, fd: int, token: int) -> None:
        sizes.append(os.fstat(fd).st_size)
        preserve(session, fd, token)

    monkeypatch.setattr(luo, "preserve", seen)
    return sizes


def test_what_was_tried_out_when_it_was_put_is_not_tried_again(tmp_path: Path, taken: list[int]) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"12345"))
        state.put("other", memfd(b"123"))
        assert taken == [5, 3]
        told = state.ask({"do": "prepare", **MEMORY})[0]
        assert (told["count"], told["bytes"]) == (2, 8)
        assert taken == [5, 3]


def test_only_what_has_grown_since_is_tried_again_and_only_once(tmp_path: Path, taken: list[int]) -> None:
    table = memfd(b"12345")
    with boot(tmp_path) as (state, _):
        state.put("table", table)
        state.put("other", memfd(b"123"))
        os.ftruncate(table, 7)
        for _ in range(2):
            state.ask({"do": "prepare", **MEMORY})
            state.ask({"do": "cancel"})
        assert taken == [5, 3, 7]


def test_what_has_grown_to_where_the_kernel_does_not_take_it_is_found_while_there_is_a_way_back(
    tmp_path: Path, kernel: FakeKernel
) -> None:
    table = memfd(b"12345")
    with boot(tmp_path) as (state, _):
        state.put("table", table)
        kernel.refuse = {7: errno.EFBIG}
        os.ftruncate(table, 7)
        with pytest.raises(client.NotDone, match="it is too large for the kernel to carry"):
            state.ask({"do": "prepare", **MEMORY})
        assert state.status()["state"] == "normal"


def test_a_device_that_stays_held_is_found_then_too(tmp_path: Path, kernel: FakeKernel) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"x"))
        kernel.held = True
        with pytest.raises(client.NotDone, match="another process holds /dev/liveupdate"):
            state.ask({"do": "prepare", **MEMORY})


def test_what_could_not_be_tried_out_when_it_was_put_is_tried_later(
    tmp_path: Path, kernel: FakeKernel, taken: list[int]
) -> None:
    with boot(tmp_path) as (state, _):
        kernel.held = True
        state.put("table", memfd(b"12345"))
        kernel.held = False
        assert taken == []
        state.ask({"do": "prepare", **MEMORY})
        assert taken == [5]


def test_more_than_every_kernel_has_room_for_are_tried_out_together(
    tmp_path: Path, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "EVERYWHERE", 2)
    with boot(tmp_path) as (state, _):
        for number in range(1, 4):
            state.put(f"table-{number}", memfd(bytes(number)))
        state.ask({"do": "prepare", **MEMORY})
        assert taken == [1, 2, 3, 1, 2, 3]


def test_what_memory_has_carried_is_known_to_go_and_what_files_have_is_not(
    tmp_path: Path, kernel: FakeKernel, taken: list[int]
) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"12345"))
        state.ask({"do": "freeze", **MEMORY})
        kernel.kexec()
    del taken[:]
    with boot(tmp_path) as (state, _):
        state.ask({"do": "prepare", **MEMORY})
        assert taken == []
        state.ask({"do": "freeze", "carrier": "file", "why": "a test"})
        kernel.firmware()
    with boot(tmp_path) as (state, _):
        state.ask({"do": "prepare", **MEMORY})
        assert taken == [5]


@pytest.fixture
def stuck(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A kernel that does not come to an end with a memfd of seven bytes. Set: the first when it has begun, by it; the
    second to let it go on."""
    begun, go_on = threading.Event(), threading.Event()
    preserve = luo.preserve

    def waits(session: int, fd: int, token: int) -> None:
        if os.fstat(fd).st_size == 7 and threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go_on.wait(PATIENCE)
        preserve(session, fd, token)

    monkeypatch.setattr(luo, "preserve", waits)
    yield begun, go_on
    go_on.set()


def _put_two(state: client.Connection, kernel: FakeKernel) -> None:
    kernel.held = True  # nothing is tried out
    state.put("a", memfd(b"1234567"))
    state.put("b", memfd(b"b"))
    kernel.held = False


def test_a_kernel_that_takes_too_long_is_given_up_and_all_goes_by_file(
    tmp_path: Path, kernel: FakeKernel, stuck: tuple[threading.Event, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "HANDING", 0.1)
    with boot(tmp_path) as (state, _):
        _put_two(state, kernel)
        told = state.ask({"do": "freeze", **MEMORY})[0]
        assert (told["carrier"], told["why"]) == ("file", "it did not end within 0.1 s")
        stuck[1].set()
        # Of the second memfd nothing is preserved any more, and the session ends with who was at it.
        assert comes_to(lambda: len(kernel.alive()), 0)
    with boot(tmp_path) as (state, _):
        assert content(state.get("a") or -1) == b"1234567"


def test_a_cancel_in_the_middle_ends_it(
    tmp_path: Path, kernel: FakeKernel, stuck: tuple[threading.Event, threading.Event]
) -> None:
    said: list[object] = []
    with boot(tmp_path) as (state, here), client.Connection(here.socket, seconds=PATIENCE) as other:
        _put_two(state, kernel)

        def freeze() -> None:
            with contextlib.suppress(client.NotDone):
                state.ask({"do": "freeze", **MEMORY})
                said.append("frozen")

        asking = threading.Thread(target=freeze)
        asking.start()
        assert stuck[0].wait(PATIENCE)
        other.ask({"do": "cancel"})
        stuck[1].set()
        asking.join()
        assert said == []
        assert comes_to(lambda: len(kernel.alive()), 0)
        assert other.status()["state"] == "normal"
        other.put("b", memfd(b"another"))


@pytest.mark.parametrize(
    ("carrier", "refuses"), [("file", "nobody"), ("memory", "device"), ("memory", "kernel"), ("memory", "thread")]
)
def test_where_no_child_is_to_be_had_to_write_it_that_is_said_and_everything_stays_usable(
    tmp_path: Path, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, carrier: str, refuses: str
) -> None:
    with boot(tmp_path) as (state, here):
        state.put("table", memfd(b"12345"))
        kernel.held = refuses == "device"
        kernel.refuse = {5: errno.ENOMEM} if refuses == "kernel" else {}
        with monkeypatch.context() as patch:
            patch.setattr(Inline, "child", none_to_be_had)
            if refuses == "thread":
                patch.setattr(beside, "thread", none_to_be_had)
            with pytest.raises(client.NotDone, match="resource temporarily unavailable") as no:
                state.ask({"do": "freeze", "carrier": carrier, "why": "a test"})
        assert no.value.errno == errno.EAGAIN
        assert here.told == ["what applications have handed over is not carried: resource temporarily unavailable"]
        assert (state.status()["state"], kernel.alive()) == ("normal", [])
        kernel.held = False
        state.put("other", memfd(b"123"))
        assert state.ask({"do": "freeze", "carrier": "file", "why": "a test"})[0]["count"] == 2


def test_what_could_not_be_removed_at_a_cancel_is_removed_by_the_next(
    tmp_path: Path, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with boot(tmp_path) as (state, _):
        state.put("table", memfd(b"12345"))
        state.ask({"do": "freeze", "carrier": "file", "why": "a test"})
        with monkeypatch.context() as patch:
            patch.setattr(Inline, "child", none_to_be_had)
            with pytest.raises(client.NotDone, match="resource temporarily unavailable"):
                state.ask({"do": "cancel"})
        assert state.status()["state"] == "normal"
        with monkeypatch.context() as patch:
            patch.setattr(FileStore, "forget", none_to_be_had)
            with pytest.raises(client.NotDone, match="resource temporarily unavailable"):
                state.ask({"do": "cancel"})
        state.ask({"do": "cancel"})
        assert os.listdir(tmp_path / "live") == []


def test_what_a_thread_says_comes_in_the_loop_and_that_it_has_said_nothing_as_well() -> None:
    loop, ended = Loop(), list[Ended]()

    def done(end: Ended) -> None:
        ended.append(end)
        loop.stop()

    beside.thread(loop, lambda writer: os.write(writer, b"answer"), done, seconds=PATIENCE)
    loop.run()
    assert ended == [Ended(0, b"answer")]

    loop = Loop()
    beside.thread(loop, lambda writer: 0, done, seconds=PATIENCE)
    loop.run()
    assert ended[1:] == [Ended(1, b"")]


def test_a_thread_that_takes_too_long_is_not_waited_for() -> None:
    loop, ended, go_on = Loop(), list[Ended](), threading.Event()

    def work(writer: int) -> int:
        assert go_on.wait(PATIENCE)
        os.write(writer, b"too late")
        return 0

    def done(end: Ended) -> None:
        ended.append(end)
        loop.stop()

    beside.thread(loop, work, done, seconds=0.05)
    loop.run()
    go_on.set()
    assert ended == [Ended(1, b"", late=True)]
