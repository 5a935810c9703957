# SPDX-License-Identifier: MIT
"""Calls that may never return, made in a child: what it returns, what it refuses, that it dies, that it stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from kexecd.cli.steps import in_child
from kexecd.errors import BadImage, NotRestarted, Refusal
from kexecd.executor import RealClock
from kexecd.model import Context


def done(work: Callable[[], list[str] | None], seconds: float = 10.0) -> list[str]:
    clock = RealClock()
    running = in_child(work, Context(clock.now, clock.now() + seconds, lambda text: None))
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
