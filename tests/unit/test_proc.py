# SPDX-License-Identifier: MIT
"""What /proc says of a process, as the kernel writes it."""

from __future__ import annotations

import os

import pytest

from kexecd.kernel import proc

STAT = b"%d (%s) %s 1 812 700 34816 -1 %d 151 0 0 0 0 0 0 0 20 0 %d 0 4711 23011328 1024 18446744073709551615 1 1 0 0"


def stat(name: bytes = b"sshd", state: bytes = b"S", flags: int = 4194560, threads: int = 1) -> bytes:
    return STAT % (812, name, state, flags, threads)


def test_the_fields_are_those_of_the_manual() -> None:
    process = proc.parse(812, stat())
    assert process
    assert (process.pid, process.ppid, process.session, process.terminal) == (812, 1, 700, 34816)
    assert (process.start, process.state, process.name, process.threads) == (4711, "S", "sshd", 1)
    assert not process.kernel_thread


def test_a_name_may_hold_anything() -> None:
    process = proc.parse(812, stat(b") R 1 (x\n\xff"))
    assert process and process.name == ") R 1 (x\n\udcff" and process.state == "S"


def test_a_zombie_is_none_but_with_threads_left_it_still_is_one() -> None:
    assert proc.parse(812, stat(state=b"Z")) is None
    process = proc.parse(812, stat(state=b"Z", threads=3))
    assert process and process.threads == 3


def test_a_kernel_thread_is_known_by_its_flag() -> None:
    process = proc.parse(812, stat(b"kworker/0:1", flags=0x04208060))
    assert process and process.kernel_thread


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/sshd.service\n", "/system.slice/sshd.service"),
        ("0::/openrc.sshd\n", "/openrc.sshd"),
        ("12:pids:/\n1:name=openrc:/sshd\n0::/\n", "/openrc.sshd"),  # OpenRC's hybrid and legacy hierarchies
        ("9:memory:/system.slice/cron.service\n1:name=systemd:/system.slice/cron.service\n0::/system.slice/cron.service\n",
         "/system.slice/cron.service"),
        ("4:memory:/docker/5b1f\n1:name=systemd:/docker/5b1f\n", "/docker/5b1f"),
        ("4:memory:/docker/5b1f\n2:cpu:/\n", "/docker/5b1f"),
        ("1:name=elogind:/2\n0::/\n", "/2"),
        ("2:cpu:/\n0::/\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_the_most_telling_control_group_is_taken(text: str, path: str) -> None:
    assert proc.telling_cgroup(text) == path


def test_which_signals_are_heard() -> None:
    status = proc.Status((812, 1), blocked=1 << 36, caught=1 << 14, tracer=0)
    assert status.hears(15) and status.hears(37)
    assert not status.hears(1)


def test_kernel_threads_are_known_without_a_look_at_each() -> None:
    before = {process.pid for process in proc.scan() if process.kernel_thread}
    known = proc.kernel_threads()
    assert known <= before
    assert len(before - known) <= 5 or proc.KTHREADD not in before, "but for some that have ended meanwhile"


def test_a_process_with_the_number_of_a_kernel_thread_that_has_ended_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    proc.scan()
    monkeypatch.setattr(proc, "_kernel_threads", proc._kernel_threads | {os.getpid()})
    assert os.getpid() not in proc.kernel_threads()


def test_where_it_cannot_be_told_who_is_a_kernel_thread_nobody_is_taken_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proc, "_kernel_threads", frozenset((os.getpid(), 3)))  # nobody has seen kthreadd
    assert proc.kernel_threads() == frozenset()
