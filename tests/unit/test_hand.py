# SPDX-License-Identifier: MIT
"""The hand does the next request; without one, and beside one, each gets a copy of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from kexecd.daemon.requests import CALM
from kexecd.kernel import proc
from tests.unit.resident import SECONDS, Daemon, call, daemon, readable


def who(words: list[str]) -> int:
    """Say by whom it is done, and stay as long as one is asked to."""
    print(os.getpid(), os.getsid(0), os.environ.get("TERM"), os.getcwd(), *words, flush=True)
    time.sleep(float(words[1]) if len(words) > 1 else 0.0)
    return 0


def hand_of(running: Daemon, *, but: int = 0) -> int:
    """Its pid, when it is ready: it has made those who help it, and is back at an ordinary priority."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for pid in proc.descendants(running.pid) - {but}:
            helped = len(proc.descendants(pid)) == 5  # three workers, the clerk, and who shows what happens
            if helped and parent(pid) == running.pid and priority(pid) == 0:
                return pid
        time.sleep(0.02)
    raise AssertionError("there is no hand")


def priority(pid: int) -> int:
    try:
        return os.getpriority(os.PRIO_PROCESS, pid)
    except ProcessLookupError:
        return -1


def test_who_does_the_next_request_was_there_before_and_stands_where_the_caller_does(tmp_path: Path) -> None:
    with daemon(tmp_path, who) as running:
        hand = hand_of(running)
        caller = call(running.door, "status", prepare=lambda: os.chdir("/usr"))
        pid, session, _, place, *words = caller.line().split()
        assert (int(pid), int(session), place, words) == (hand, hand, "/usr", ["status"])
        assert caller.wait() == 0
        after = hand_of(running, but=hand)
        assert int(call(running.door, "status").line().split()[0]) == after


def test_two_at_once_are_served_beside_each_other(tmp_path: Path) -> None:
    with daemon(tmp_path, who) as running:
        hand = hand_of(running)
        slow, quick = call(running.door, "status", "3"), call(running.door, "status")
        assert {int(slow.line().split()[0]), int(quick.line().split()[0])} > {hand}
        assert quick.wait() == 0


def test_while_somebody_is_at_work_nobody_prepares(tmp_path: Path) -> None:
    with daemon(tmp_path, who) as running:
        hand_of(running)
        slow = call(running.door, "status", "2")
        slow.line()
        time.sleep(3 * CALM)
        assert len([pid for pid in proc.descendants(running.pid) if proc.read(pid) and parent(pid) == running.pid]) == 1
        assert slow.wait() == 0
        hand_of(running)


def parent(pid: int) -> int:
    process = proc.read(pid)
    return process.ppid if process else 0


def test_without_its_hand_a_request_is_done_all_the_same(tmp_path: Path) -> None:
    with daemon(tmp_path, who) as running:
        hand = hand_of(running)
        end = os.pidfd_open(hand)
        os.kill(hand, signal.SIGKILL)
        assert readable(end)  # one that is just dying would take the request with it, and kexecctl then does it alone
        os.close(end)
        assert int(call(running.door, "status").line().split()[0]) != hand


def test_a_hand_and_all_who_help_it_end_with_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, who) as running:
        hand = hand_of(running)
        ends = [os.pidfd_open(pid) for pid in {hand, *proc.descendants(hand)}]
        running.signal(signal.SIGKILL)
        assert all(readable(end) for end in ends)
        for end in ends:
            os.close(end)


def test_an_interrupt_of_the_caller_reaches_who_was_there_before(tmp_path: Path) -> None:
    def last(words: list[str]) -> int:
        del words
        try:
            print("begun", flush=True)
            time.sleep(SECONDS)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
        return 0

    with daemon(tmp_path, last) as running:
        hand_of(running)
        caller = call(running.door, "status")
        assert caller.line() == "begun"
        os.kill(caller.pid, signal.SIGINT)
        assert caller.line() == "interrupted"
        assert caller.wait() == 1
