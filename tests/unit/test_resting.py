# SPDX-License-Identifier: MIT
"""Who is there before there is anything to do: real copies of this process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from kexecd.kernel.descriptors import readable
from kexecd.kernel.resting import Resting
from tests.unit.resident import forked, wait

SECONDS = 10.0


def answer(message: bytes, fds: tuple[int, ...]) -> None:
    os.write(fds[0], message + b" by %d\n" % os.getpid())
    os.close(fds[0])


@pytest.fixture
def one() -> Iterator[Resting]:
    resting = Resting(answer)
    yield resting
    resting.close()
    wait(resting.pid)


def told(resting: Resting, message: bytes) -> bytes:
    """What it answers; it may not be ready at once."""
    reader, writer = os.pipe()
    end = time.monotonic() + SECONDS
    while not resting.send(message, (writer,)):
        assert time.monotonic() < end, "it is never ready"
        time.sleep(0.01)
    os.close(writer)
    assert readable(reader, SECONDS)
    said = os.read(reader, 100)
    os.close(reader)
    return said


def test_it_does_one_thing_after_the_other(one: Resting) -> None:
    assert told(one, b"first") == b"first by %d\n" % one.pid
    assert told(one, b"second") == b"second by %d\n" % one.pid


def test_until_it_is_prepared_nobody_is_there() -> None:
    reader, writer = os.pipe()
    gate = f"/proc/self/fd/{reader}"

    def prepare() -> None:
        assert not os.path.exists(gate), "what was open in its maker is not open in it"
        time.sleep(0.3)

    resting = Resting(answer, prepare)
    assert not resting.send(b"too early", (writer,))
    assert told(resting, b"now") == b"now by %d\n" % resting.pid
    resting.close()
    wait(resting.pid)
    os.close(reader)
    os.close(writer)


def test_it_ends_with_who_has_made_it() -> None:
    reader, writer = os.pipe()

    def work() -> int:
        os.write(writer, b"%d\n" % Resting(answer).pid)
        return 0

    wait(forked(work))
    ended = os.pidfd_open(int(os.read(reader, 20)))
    assert readable(ended, SECONDS)
    for fd in (reader, writer, ended):
        os.close(fd)


def test_one_that_was_killed_does_nothing(one: Resting) -> None:
    told(one, b"it was there")
    os.kill(one.pid, signal.SIGKILL)
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
    assert not one.send(b"nobody hears it")


def test_a_copy_of_its_maker_has_none(one: Resting) -> None:
    told(one, b"it was there")
    assert wait(forked(lambda: int(one.send(b"from somebody else")))) == 0
