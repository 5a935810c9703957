# SPDX-License-Identifier: MIT
"""The process that finishes the job: real processes, killed for real; only what they would do is written down."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kexecd import standby
from kexecd.standby import Standby

Walk = Callable[[Standby], None]


def walked(walk: Walk, *, committed: bool = False, seconds: float = 10.0) -> str:
    """Have a walker with a standby do `walk` in a process of its own; returns what the standby was called to do."""
    reader, writer = os.pipe()
    walker = os.fork()
    if walker == 0:
        os.close(reader)
        try:
            walk(
                Standby(
                    lambda begun: (os.write(writer, f"give back {begun}".encode()), None)[1],
                    lambda end: (os.write(writer, f"take over: {end}".encode()), None)[1],
                    committed=committed,
                )
            )
        finally:
            os._exit(0)
    os.close(writer)
    told, end = b"", time.monotonic() + seconds
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        if not (part := os.read(reader, 4096)):
            break
        told += part
    else:
        told += b" (still there)"
    os.close(reader)
    os.waitpid(walker, 0)
    return told.decode()


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_walker_killed_before_the_commit_point_has_its_steps_given_back() -> None:
    def walk(standby: Standby) -> None:
        for step in range(3):
            standby.begun(step)
        die()

    assert walked(walk) == "give back (0, 1, 2)"


def test_a_walker_killed_after_it_is_followed() -> None:
    def walk(standby: Standby) -> None:
        standby.begun(0)
        standby.committed()
        die()

    assert walked(walk) == "take over: the process that walked the plan was killed"


def test_a_walker_that_goes_on_where_another_was_is_past_the_commit_point_from_its_first_moment() -> None:
    assert walked(die, committed=True).startswith("take over")


def test_a_walk_that_ends_in_good_order_leaves_nothing_to_do() -> None:
    assert walked(Standby.over) == ""


def test_a_walker_that_says_nothing_any_more_is_killed_and_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "SILENCE", 0.2)

    def walk(standby: Standby) -> None:
        standby.committed()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()

    assert walked(walk) == "take over: the process that walked the plan has said nothing for 0.2 s"


def test_before_the_commit_point_silence_is_no_offence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "SILENCE", 0.05)

    def walk(standby: Standby) -> None:
        standby.begun(0)
        time.sleep(0.5)
        standby.over()

    assert walked(walk) == ""


def test_a_stopped_walker_is_followed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "SILENCE", 0.2)

    def walk(standby: Standby) -> None:
        standby.committed()
        os.kill(os.getpid(), signal.SIGSTOP)

    assert walked(walk).startswith("take over")


def test_a_standby_that_dies_is_replaced_by_one_that_knows_as_much() -> None:
    def walk(standby: Standby) -> None:
        standby.begun(0)
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)
        standby.begun(1)
        standby.alive()
        die()

    assert walked(walk) == "give back (0, 1)"
