# SPDX-License-Identifier: MIT
"""Calls that may never return, made in a child: what it returns, what it refuses, that it dies, that it stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from kexecd.cli import steps
from kexecd.cli.steps import in_child, keep_clerk
from kexecd.errors import BadImage, NotRestarted, Refusal
from kexecd.executor import RealClock
from kexecd.model import Context


def done(work: Callable[[], list[str] | None], seconds: float = 10.0, *, by_clerk: bool = False) -> list[str]:
    clock = RealClock()
    running = in_child(work, Context(clock.now, clock.now() + seconds, lambda text: None), by_clerk=by_clerk)
    try:
        wait = next(running)
        while True:
            wait = running.send(clock.wait(wait.fds, wait.until))
    except StopIteration as end:
        return list(end.value)


def test_what_it_returns_comes_back() -> None:
    assert done(lambda: ["one", "two"]) == ["one", "two"]
    assert done(lambda: None) == []


def test_a_refusal_comes_back_as_it_was() -> None:
    def refuse() -> None:
        raise BadImage("cannot load it", "it is truncated", hint="copy it again", errno=8)

    with pytest.raises(Refusal) as caught:
        done(refuse)
    assert caught.value.sentence() == BadImage("cannot load it", "it is truncated", errno=8).sentence()
    assert (caught.value.hint, caught.value.exit_code) == ("copy it again", BadImage.exit_code)


def test_a_bug_comes_back_as_a_refusal_that_names_it() -> None:
    with pytest.raises(Refusal, match="ZeroDivisionError"):
        done(lambda: [str(1 // 0)])


def test_a_child_that_is_killed_is_told() -> None:
    with pytest.raises(NotRestarted, match="was killed"):
        done(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_child_that_stays_is_killed_at_the_deadline() -> None:
    reader, writer = os.pipe()

    def stay() -> None:
        time.sleep(60)

    with pytest.raises(TimeoutError):
        done(stay, seconds=0.2)
    os.close(writer)  # nobody else has it open: the child has closed it, and is gone
    assert os.read(reader, 1) == b""


def test_more_than_a_pipe_holds_comes_back_whole() -> None:
    lines = ["x" * 1000] * 500
    assert done(lambda: lines) == lines


@pytest.fixture
def clerk() -> Iterator[int]:
    """The pid of a clerk who is ready."""
    keep_clerk(lambda: None)
    assert steps._clerk
    end, nowhere = time.monotonic() + 10.0, os.open(os.devnull, os.O_WRONLY)
    while not steps._clerk.send(b"nonsense, to which nobody hears the answer", (nowhere,)):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.close(nowhere)
    pid = steps._clerk.pid
    yield pid
    if steps._clerk:
        steps._clerk.close()
        os.waitpid(pid, 0)
        steps._clerk = None


def who() -> list[str]:
    return [str(os.getpid())]


def refuse() -> list[str]:
    raise BadImage("cannot load it", "it is truncated", hint="copy it again", errno=8)


def stay() -> list[str]:
    time.sleep(60)
    return []


def test_the_clerk_does_what_only_has_to_be_written_one_after_the_other(clerk: int) -> None:
    assert done(who, by_clerk=True) == [str(clerk)]
    with pytest.raises(Refusal, match="truncated"):
        done(refuse, by_clerk=True)
    assert done(who, by_clerk=True) == [str(clerk)]
    assert done(who) != [str(clerk)], "and nothing else"


def test_a_clerk_who_stays_is_killed_at_the_deadline_and_a_child_does_the_next(clerk: int) -> None:
    with pytest.raises(TimeoutError):
        done(stay, seconds=0.2, by_clerk=True)
    with pytest.raises(ChildProcessError):
        os.waitpid(clerk, 0)  # it is gone, and was waited for
    assert done(who, by_clerk=True) not in ([str(clerk)], [str(os.getpid())])


def test_a_clerk_who_was_killed_is_done_without(clerk: int) -> None:
    os.kill(clerk, signal.SIGKILL)
    os.waitid(os.P_PID, clerk, os.WEXITED | os.WNOWAIT)
    assert done(who, by_clerk=True) != [str(clerk)]
