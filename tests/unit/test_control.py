# SPDX-License-Identifier: MIT
"""The way in to a restart that is under way, over a real socket."""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.control import Answer, Door, demand
from kexecd.model import Ask


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(str(tmp_path))
    yield door
    door.close()


def serve(door: Door, answer: Answer, seen: list[tuple[Ask, str]]) -> threading.Thread:
    """Answer one question, as the executor does between its waits."""

    def run() -> None:
        while not seen:
            readable = frozenset(select.select(list(door.fds), [], [], 10)[0])
            assert readable, "nobody asked"
            for question in door.take(readable):
                seen.append((question.ask, question.by))
                question.answer(*answer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("ask", Ask)
def test_a_question_is_heard_and_its_answer_comes_back(door: Door, tmp_path: Path, ask: Ask) -> None:
    seen: list[tuple[Ask, str]] = []
    thread = serve(door, Answer(True, "as you wish"), seen)
    assert demand(str(tmp_path), ask, seconds=10) == (True, "as you wish")
    thread.join()
    assert seen == [(ask, f"process {os.getpid()}")]


def test_nobody_but_root_may_ask(door: Door, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o600


def test_where_nobody_listens_there_is_no_answer(tmp_path: Path) -> None:
    assert demand(str(tmp_path), Ask.CANCEL, seconds=1) is None


def test_a_socket_left_behind_by_a_killed_walker_is_no_obstacle(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(tmp_path / "control"))
    stale.close()
    assert demand(str(tmp_path), Ask.CANCEL, seconds=1) is None
    Door(str(tmp_path)).close()
    assert not (tmp_path / "control").exists()


def test_one_that_connects_and_says_nothing_holds_up_nobody(door: Door, tmp_path: Path) -> None:
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    silent.connect(str(tmp_path / "control"))
    seen: list[tuple[Ask, str]] = []
    thread = serve(door, Answer(False, "no"), seen)
    assert demand(str(tmp_path), Ask.NOW, seconds=10) == (False, "no")
    thread.join()
    silent.close()


@pytest.mark.parametrize("nonsense", [b"please", b"\xff\xfe", b"x" * 10000, b"cancel now"])
def test_nonsense_is_no_question(door: Door, tmp_path: Path, nonsense: bytes) -> None:
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    caller.connect(str(tmp_path / "control"))
    caller.send(nonsense)
    for _ in range(2):
        readable = frozenset(select.select(list(door.fds), [], [], 10)[0])
        assert door.take(readable) == []
    assert caller.recv(100) == b"", "it is hung up on"
    caller.close()
