# SPDX-License-Identifier: MIT
"""A lock is waited for as long as it is worth, and had at once when it is free."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from kexecd.kernel import flocks
from kexecd.kernel.flocks import StillHeld
from tests.unit.locks import locked_by_a_stopped_process


@pytest.fixture
def place(tmp_path: Path) -> tuple[int, str]:
    return os.open(tmp_path, os.O_RDONLY), str(tmp_path)


def is_locked(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8")


def test_one_that_is_free_costs_no_process(place: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", None)
    flocks.take(*place, seconds=0)
    assert is_locked(place[1])


def test_one_that_becomes_free_is_had_then_and_not_later(place: tuple[int, str]) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        fcntl.flock(os.open(place[1], os.O_RDONLY), fcntl.LOCK_EX)
        os.write(writer, b"it is mine")
        time.sleep(0.3)
        os._exit(0)
    os.read(reader, 16)
    begin = time.monotonic()
    flocks.take(*place, seconds=30)
    assert 0.2 < time.monotonic() - begin < 3
    os.waitpid(child, 0)
    assert is_locked(place[1])


def test_one_that_stays_locked_is_an_error_after_that_time_and_leaves_no_process(place: tuple[int, str]) -> None:
    before = children()
    with locked_by_a_stopped_process(place[1]) as holder:
        begin = time.monotonic()
        with pytest.raises(StillHeld, match=rf"^process {holder} \(.*\) has {place[1]} locked"):
            flocks.take(*place, seconds=0.3)
        assert 0.25 < time.monotonic() - begin < 3
    assert children() == before


def test_a_holder_that_cannot_be_told_has_no_name(place: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flocks, "LOCKS", "/nonexistent/locks")
    with locked_by_a_stopped_process(place[1]), pytest.raises(StillHeld, match="^another process has "):
        flocks.take(*place, seconds=0)


def test_who_waits_ends_by_itself_when_whoever_it_waits_for_is_killed(
    place: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its open directory would keep a filesystem from being unmounted."""
    monkeypatch.setattr(flocks, "readable", lambda fd, seconds: os._exit(0))
    with locked_by_a_stopped_process(place[1]):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            flocks.take(*place, seconds=0.3)
        os.close(writer)
        os.waitpid(child, 0)
        begin = time.monotonic()
        assert os.read(reader, 1) == b"", "its copy of the pipe is closed"
        assert time.monotonic() - begin < 5
