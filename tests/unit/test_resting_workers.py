# SPDX-License-Identifier: MIT
"""A worker that has done its work in one step does it in the next; one that nobody waits for ends by itself."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from kexecd.kernel import proc
from kexecd.kernel.descriptors import readable
from kexecd.model import Context, Running
from kexecd.teardown import sync
from kexecd.teardown.spare import Spare
from kexecd.teardown.sync import Sync
from kexecd.teardown.workers import Call, Outcome, Workers, hire_ahead, keep_workers, left_behind

NOTHING = Call("holders")  # of no place: it comes back at once
SECONDS = 20.0


def in_own_process(test: Callable[[], None]) -> Callable[[], None]:
    """Who keeps its workers keeps them to its end."""

    @wraps(test)
    def outside() -> None:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                test()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    return outside


def children() -> set[int]:
    pid = os.getpid()
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def walked(workers: Workers, *calls: Call) -> list[Outcome]:
    """What becomes of these, waited for as the executor does."""
    running = workers.run(calls, time.monotonic() + SECONDS)
    outcomes: list[Outcome] = []
    try:
        wait = next(running)
        while True:
            wait = running.send(frozenset(select.select(list(wait.fds), [], [], SECONDS)[0]))
    except StopIteration as end:
        outcomes = end.value
    workers.close()
    return outcomes


def two_steps() -> tuple[set[int], set[int]]:
    """The children after one step of three calls, and after another."""
    found = []
    for _ in range(2):
        workers = Workers(3, patience=SECONDS, now=time.monotonic)
        outcomes = walked(workers, *[Call("holders", tag=number) for number in range(3)])
        assert {outcome.errno for outcome in outcomes} == {0}
        found.append(children())
    return found[0], found[1]


@in_own_process
def test_who_has_nothing_more_to_do_is_there_for_the_next_step() -> None:
    keep_workers()
    first, second = two_steps()
    assert first == second
    assert 1 <= len(first) <= 3


@in_own_process
def test_where_none_is_kept_each_ends_with_its_step() -> None:
    assert two_steps() == (set(), set())


@in_own_process
def test_one_that_was_killed_while_it_had_nothing_to_do_is_replaced() -> None:
    keep_workers()
    walked(Workers(1, patience=SECONDS, now=time.monotonic), NOTHING)
    (pid,) = children()
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert readable(ended, SECONDS)
    outcomes = walked(Workers(1, patience=SECONDS, now=time.monotonic), NOTHING)
    assert [outcome.errno for outcome in outcomes] == [0]
    assert left_behind() == ()
    assert pid not in children()


@in_own_process
def test_one_that_does_not_answer_is_not_kept() -> None:
    keep_workers()
    outcomes = walked(Workers(1, patience=0.1, now=time.monotonic), Call("sleep"))
    assert [outcome.errno for outcome in outcomes] == [-1]
    outcomes = walked(Workers(1, patience=SECONDS, now=time.monotonic), NOTHING)
    assert [outcome.errno for outcome in outcomes] == [0]


@in_own_process
def test_those_who_will_be_needed_can_be_there_before() -> None:
    hire_ahead(3)
    assert children() == set(), "where none is kept, none is hired"
    keep_workers()
    hire_ahead(3)
    before = children()
    assert len(before) == 3
    assert two_steps() == (before, before)


def early() -> Running:
    context = Context(now=time.monotonic, deadline=time.monotonic() + SECONDS, tell=print)
    return Sync(early=True, unwritten=lambda: 1 << 30).run(context)


@in_own_process
def test_while_the_disks_are_at_it_nobody_has_them_begin_again() -> None:
    real, os.sync = os.sync, signal.pause
    sync.begin_ahead(lambda: sync.EARLY)
    (at_it,) = children()
    keep_workers()
    assert list(early()) == []
    assert len(children()) > 1, "some are hired for what comes next"
    os.sync = real
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    os.waitpid(at_it, 0)
    assert next(early()).fds, "when it has ended what is dirty since then begins"


@in_own_process
def test_the_disks_begin_before_there_is_a_plan_and_who_waits_for_them_is_not_asked_to_quit() -> None:
    real, os.sync = os.sync, signal.pause
    sync.begin_ahead(lambda: sync.EARLY)
    (pid,) = children()
    everyone = Spare.ours(mounts=())
    process = proc.read(pid)
    assert process and everyone(process)
    end = time.monotonic() + SECONDS
    while os.listdir(f"/proc/{pid}/fd") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.listdir(f"/proc/{pid}/fd"), "nobody waits for the end of a stream that it has"
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.sync = real


@in_own_process
def test_for_little_nobody_begins_before_there_is_a_plan() -> None:
    sync.begin_ahead(lambda: sync.EARLY - 1)
    assert children() == set()
