# SPDX-License-Identifier: MIT
"""One thread, many waits: none delays another, and no child outlives its time."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kexecd.loop import FEW, Changes, Ended, Loop


def ended(*works: Callable[[int], int], seconds: float = 10.0, limit: int = 1 << 20) -> list[Ended]:
    """What becomes of these, run beside each other."""
    loop = Loop()
    seen: list[Ended] = []

    def done(end: Ended) -> None:
        seen.append(end)
        if len(seen) == len(works):
            loop.stop()

    for work in works:
        loop.child(work, done, seconds=seconds, limit=limit)
    loop.run()
    assert loop.children == 0
    return seen


def test_a_child_answers_with_its_output_and_its_exit_status() -> None:
    assert ended(lambda writer: os.write(writer, b"done")) == [Ended(4, b"done")]


def test_a_child_that_raises_ends_with_status_1() -> None:
    def work(writer: int) -> int:
        del writer
        os.close(2)  # its traceback is of no interest
        raise ValueError

    assert ended(work) == [Ended(1, b"")]


def test_a_child_that_was_killed_says_by_which_signal() -> None:
    def work(writer: int) -> int:
        signal.raise_signal(signal.SIGTERM)
        return writer

    assert ended(work) == [Ended(128 + 15, b"")]


def test_a_child_that_takes_too_long_is_killed_although_somebody_else_holds_its_pipe() -> None:
    def work(writer: int) -> int:
        os.write(writer, b"begun")
        if os.fork() == 0:
            time.sleep(2)
            os._exit(0)
        time.sleep(60)
        return 0

    begin = time.monotonic()
    (end,) = ended(work, seconds=0.2)
    assert end.late and end.output == b"begun"
    assert time.monotonic() - begin < 1.5


def test_what_a_child_tells_is_cut_at_the_limit_and_it_is_not_held_up() -> None:
    (end,) = ended(lambda writer: os.write(writer, b"x" * 4000) and 0, limit=1000)
    assert end == Ended(0, b"x" * 1000)


def test_a_slow_child_does_not_delay_a_quick_one() -> None:
    def slow(writer: int) -> int:
        del writer
        time.sleep(0.3)
        return 2

    assert [end.code for end in ended(slow, lambda writer: 3)] == [3, 2]


def test_timers_come_in_their_order_and_a_cancelled_one_does_not() -> None:
    loop = Loop()
    seen: list[str] = []
    loop.after(0.03, loop.stop)
    loop.after(0.03, lambda: seen.append("late"))
    loop.after(0.01, lambda: seen.append("early"))
    loop.after(0.02, lambda: seen.append("never")).cancel()
    loop.run()
    assert seen == ["early", "late"]


def test_a_descriptor_is_heard_until_it_is_forgotten() -> None:
    loop = Loop()
    seen: list[bytes] = []
    reader, writer = os.pipe()

    def ready() -> None:
        seen.append(os.read(reader, 1))
        if len(seen) == 2:
            loop.forget(reader)
            loop.after(0.02, loop.stop)

    loop.watch(reader, ready)
    os.write(writer, b"abc")
    loop.run()
    assert seen == [b"a", b"b"]


def test_timers_that_are_set_and_cancelled_again_and_again_take_no_memory() -> None:
    loop = Loop()
    loop.after(60.0, loop.stop)  # the oldest of all, behind which cancelled ones would lie
    for _ in range(100 * FEW):
        loop.after(70.0, loop.stop).cancel()
    assert len(loop._timers) <= 2 * FEW


def test_many_timers_of_which_one_is_cancelled_all_come() -> None:
    loop, seen = Loop(), list[int]()
    timers = [loop.after(0.0, functools.partial(seen.append, number)) for number in range(5 * FEW)]
    timers[3].cancel()
    loop.after(0.01, loop.stop)
    loop.run()
    assert seen == [number for number in range(5 * FEW) if number != 3]


def test_a_child_that_cannot_be_had_leaves_no_descriptor_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "no process to be had")

    loop, before = Loop(), os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(BlockingIOError):
        loop.child(lambda writer: writer, lambda end: None, seconds=1.0)
    assert os.listdir("/proc/self/fd") == before


def heard(directory: Path, *writes: str, seconds: float) -> int:
    """How often somebody is called while these files are written to, one after the other."""
    loop, calls = Loop(), list[float]()
    changes = Changes(loop, str(directory), frozenset(("state",)), lambda: calls.append(time.monotonic()), pause=0.1)
    for name in writes:
        (directory / name).write_text(name)
    loop.after(seconds, loop.stop)
    loop.run()
    changes.close()
    return len(calls)


def test_many_changes_at_once_are_looked_at_once(tmp_path: Path) -> None:
    assert heard(tmp_path, *["state"] * 50, seconds=0.35) == 1


def test_a_change_of_another_file_calls_nobody(tmp_path: Path) -> None:
    assert heard(tmp_path, "other", "another", seconds=0.35) == 0


def test_a_change_after_a_look_is_looked_at_too(tmp_path: Path) -> None:
    loop, calls = Loop(), list[int]()

    def look() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            (tmp_path / "state").write_text("again")
        else:
            changes.close()
            loop.stop()

    changes = Changes(loop, str(tmp_path), frozenset(("state",)), look, pause=0.01)
    (tmp_path / "state").write_text("once")
    loop.run()
    assert calls == [0, 1]
