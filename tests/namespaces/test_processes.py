# SPDX-License-Identifier: MIT
"""Quitting real processes, in a PID namespace of their own."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import signal
import struct
import time
from pathlib import Path

import psutil
import pytest

from kexecd.executor import RealClock
from kexecd.kernel import pidfd, proc
from kexecd.model import Context
from kexecd.teardown import leftover, processes
from kexecd.teardown.processes import QuitProcesses
from kexecd.teardown.spare import Spare
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import alive, application, crowd, disk, eventually, notes, walk

SAVES_FOR_A_WHILE = """
def save(*_):
    time.sleep(float(sys.argv[2]))
    open(sys.argv[1], "w").write("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save); ready()
while True: signal.pause()
"""
IGNORES_TERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready()\nwhile True: signal.pause()"
WAITS = "ready()\nwhile True: signal.pause()"
FORKS_WHEN_ASKED = """
def fork(*_):
    # Blocked over the fork, or the child would lose a TERM that comes while it is still in this handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        while True: signal.pause()
    os._exit(0)
signal.signal(signal.SIGTERM, fork); ready()
while True: signal.pause()
"""


@isolated
def test_an_application_gets_the_time_that_it_needs_to_save(tmp_path: Path) -> None:
    application(SAVES_FOR_A_WHILE, str(tmp_path / "state"), "1.5")
    _, _, seconds = walk(QuitProcesses(5.0))
    assert (tmp_path / "state").read_text(encoding="utf-8") == "saved"
    assert seconds < 4, "waited longer than the application needed"


@isolated
def test_one_that_ignores_term_is_killed_after_the_grace_and_named() -> None:
    pid = application(IGNORES_TERM)
    _, events, seconds = walk(QuitProcesses(1.0))
    assert not alive(pid)
    assert 0.9 < seconds < 3
    assert f"({pid})" in notes(events)


@isolated
def test_nobody_waits_for_a_grace_that_nobody_needs() -> None:
    for _ in range(20):
        application(WAITS)
    _, _, seconds = walk(QuitProcesses(30.0), within=60)
    assert seconds < 5


@isolated
def test_a_stopped_process_quits_too() -> None:
    pid = application(WAITS)
    os.kill(pid, signal.SIGSTOP)
    walk(QuitProcesses(5.0))
    assert not alive(pid)


@isolated
def test_one_that_forks_when_it_is_asked_does_not_get_away() -> None:
    application(FORKS_WHEN_ASKED)
    _, _, seconds = walk(QuitProcesses(5.0))
    assert not others()
    assert seconds < 4


@isolated
def test_whoever_was_asked_before_is_killed_at_once() -> None:
    pid = application(IGNORES_TERM)
    process = proc.read(pid)
    assert process
    context = Context(now=time.monotonic, deadline=time.monotonic() + 30, tell=lambda text: None)
    context.asked.add((process.pid, process.start))
    running = QuitProcesses(20.0).run(context)
    next(running)
    deadline = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.close()


@isolated
def test_the_deadline_holds_whatever_the_grace_is() -> None:
    pid = application(IGNORES_TERM)
    _, _, seconds = walk(QuitProcesses(60.0), within=2.0)
    assert seconds < 3.5
    assert not alive(pid)


@isolated
def test_ourselves_our_ancestors_and_storage_daemons_are_spared() -> None:
    reader, writer = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        os.setsid()
        os.write(writer, b"x")
        os.execv("/bin/sleep", ["@sleep", "60"])
    os.read(reader, 1)
    spare = Spare.ours()
    deadline = time.monotonic() + 5
    while not (seen := proc.read(daemon)) or not proc.argv0(seen).startswith("@"):
        assert time.monotonic() < deadline
    assert spare(seen)
    for pid in (1, os.getpid(), os.getppid()):
        process = proc.read(pid)
        assert process and spare(process)


BOMB = """
import ctypes, resource
fork = ctypes.CDLL(None).fork  # Python's own does more, and is slower for it
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready()
resource.setrlimit(resource.RLIMIT_NPROC, (150, 150))
os.setuid(54321)  # root may have any number of processes, whatever the limit
while True: fork()
"""
RUN_AWAY = """
import ctypes
fork, end = ctypes.CDLL(None).fork, ctypes.CDLL(None)._exit
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(30):
    if fork() == 0:
        while True:
            if fork(): end(0)
ready()
"""
WAITS_FOR_A_VFORK = """
ready()
os.posix_spawn("/bin/sh", ["sh", "-c", "kill -STOP $$"], {})  # returns when the child has become sh
import ctypes
libc = ctypes.CDLL(None)
if libc.vfork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
"""
WRITES = """
ready()
while True: os.pwrite(fd := os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), b"x" * 65536, 0); os.fsync(fd); os.close(fd)
"""

PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 0x4206, 0x40  # include/uapi/linux/ptrace.h
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # include/uapi/linux/fs.h
CAP_SYS_RESOURCE = 24  # include/uapi/linux/capability.h
LINUX_CAPABILITY_VERSION_3 = 0x20080522


def others() -> list[str]:
    """Who is left but for ourselves and PID 1."""
    spare = Spare.ours()
    return [f"{process.name} ({process.pid})" for process in proc.scan() if not spare(process)]


@isolated
def test_a_fork_bomb_does_not_outrun_the_killing() -> None:
    application(BOMB)
    eventually(lambda: len(others()) > 100)
    _, events, seconds = walk(QuitProcesses(0.3))
    time.sleep(0.2)  # they would be back by now
    assert not others() and "left behind" not in notes(events)
    assert seconds < 5


@isolated
def test_those_who_are_never_there_any_more_when_their_turn_comes_do_not_get_away() -> None:
    application(RUN_AWAY)
    _, events, seconds = walk(QuitProcesses(0.3))
    time.sleep(0.2)
    assert not others() and "left behind" not in notes(events)
    assert seconds < 5


@isolated
def test_whoever_is_spared_goes_on_after_everybody_was_stopped() -> None:
    processes.STOP_AFTER = 1
    beat, ours = os.pipe()
    if os.fork() == 0:
        while True:
            os.write(ours, b"x")
            time.sleep(0.01)
    application(RUN_AWAY)
    _, events, seconds = walk(QuitProcesses(0.2))
    assert "stopping everybody first" in notes(events) and not others()
    os.set_blocking(beat, False)
    os.read(beat, 1 << 16)
    eventually(lambda: bool(select.select([beat], [], [], 0)[0]), 2.0)
    assert seconds < 5


@isolated
def test_3000_processes_quit_within_a_limit_of_1024_files() -> None:
    crowd(3000)
    without_raising_limits(1024)
    _, events, _ = walk(QuitProcesses(50.0), within=60)
    assert not others() and notes(events) == ""
    assert len(os.listdir("/proc/self/fd")) < 20, "pidfds were left open"


@isolated
def test_more_stubborn_ones_than_there_are_files_are_all_killed() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    crowd(600)
    without_raising_limits(256)
    _, events, _ = walk(QuitProcesses(0.5), within=30)
    assert not others()
    assert "left behind" not in notes(events) and "stopping everybody" not in notes(events)


@isolated
def test_running_out_of_files_in_the_middle_leaves_nobody() -> None:
    crowd(300)
    without_raising_limits(256)
    step = QuitProcesses(20.0)
    context = Context(now=time.monotonic, deadline=time.monotonic() + 60, tell=lambda text: None)
    running = step.run(context)
    hoard = []
    try:
        while True:
            wait = next(running)
            while len(os.listdir("/proc/self/fd")) < 250:  # somebody else takes what was left
                hoard.append(os.open("/dev/null", os.O_RDONLY))
            readable = RealClock().wait(wait.fds, RealClock().now() + max(0.0, wait.until - time.monotonic()))
            assert readable or time.monotonic() >= wait.until
    except StopIteration:
        pass
    for fd in hoard:
        os.close(fd)
    assert not others()


@isolated
def test_many_cost_a_few_looks_at_each_and_no_more() -> None:
    crowd(2000)
    begin = time.process_time()
    for pid in proc.pids():
        fd = pidfd.open(pid)
        proc.read(pid)
        assert fd is not None
        os.close(fd)
    one_look = time.process_time() - begin
    begin = time.process_time()
    walk(QuitProcesses(30.0), within=60)
    spent = time.process_time() - begin
    assert not others()
    assert spent < 6 * one_look, f"{spent / 2000 * 1e6:.0f} us each, where a look takes {one_look / 2000 * 1e6:.0f} us"


@isolated
def test_one_that_sleeps_in_the_kernel_is_left_behind_and_named_with_where(tmp_path: Path) -> None:
    point = disk(tmp_path, "frozen")
    frozen = os.open(point, os.O_RDONLY)
    fcntl.ioctl(frozen, FIFREEZE, 0)
    try:
        pid = application(WRITES, str(point / "file"))
        eventually(lambda: (process := proc.read(pid)) is not None and process.state == "D")
        other = application(IGNORES_TERM)
        _, events, seconds = walk(QuitProcesses(0.3), within=2.0)
        assert not alive(other) and alive(pid)
        assert f"({pid}) cannot be killed, it sleeps in the kernel in " in notes(events)
        where = notes(events).rpartition("sleeps in the kernel in ")[2]
        assert where.replace("_", "").isalnum(), where
        assert seconds < 4
    finally:
        fcntl.ioctl(frozen, FITHAW, 0)
    eventually(lambda: not alive(pid))


@isolated
def test_the_parent_of_a_vfork_whose_child_is_stopped_is_killed_with_it() -> None:
    """It shows as uninterruptible, so nobody may read its command line, and TERM does not reach it; KILL does."""
    pid = application(WAITS_FOR_A_VFORK)
    eventually(lambda: (process := proc.read(pid)) is not None and process.state == "D")
    _, events, seconds = walk(QuitProcesses(5.0))
    assert not others() and "left behind" not in notes(events)
    assert seconds < 7


@isolated
def test_one_that_is_held_at_its_exit_is_left_behind_and_named_with_its_tracer() -> None:
    victim = application(WAITS)
    reader, writer = os.pipe()
    tracer = os.fork()  # our child, so it is spared
    if tracer == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long] * 4
        assert libc.ptrace(PTRACE_SEIZE, victim, 0, PTRACE_O_TRACEEXIT) == 0
        os.write(writer, b"x")
        while True:
            signal.pause()
    os.read(reader, 1)
    _, events, _ = walk(QuitProcesses(0.3), within=1.5)
    assert f"({victim}) cannot be killed, " in notes(events)
    assert f"({tracer}) traces it and holds it" in notes(events)
    os.kill(tracer, signal.SIGKILL)
    eventually(lambda: not alive(victim))


@isolated
def test_nobody_is_read_who_ends_meanwhile() -> None:
    """Every file of a process may be gone between two system calls; none of that may end the way down."""
    if os.fork() == 0:
        os.setsid()
        for _ in range(4000):
            if os.fork() == 0:
                os._exit(0)
            os.waitpid(-1, 0)
        os._exit(0)
    end = time.monotonic() + 1.0
    looks = 0
    while time.monotonic() < end:
        for process in proc.scan():
            proc.argv0(process), proc.cgroup(process.pid), proc.status(process.pid), leftover.why(process)
        looks += 1
    assert looks > 5


def without_raising_limits(most: int) -> None:
    """A limit of open files that this process cannot raise again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 512), most))
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; then the same for capabilities above 31
    assert libc.capget(header, data) == 0
    words = list(struct.unpack("6I", data.raw))
    words[0] &= ~(1 << CAP_SYS_RESOURCE)
    assert libc.capset(header, struct.pack("6I", *words)) == 0


@isolated
def test_the_scan_sees_whom_psutil_sees() -> None:
    """psutil is the oracle; but for a zombie, which is nobody any more."""
    crowd(20)
    zombie = os.fork()
    if zombie == 0:
        os._exit(0)
    eventually(lambda: psutil.Process(zombie).status() == psutil.STATUS_ZOMBIE)
    ours = {process.pid: process for process in proc.scan()}
    assert ours.keys() == set(psutil.pids()) - {zombie} and len(ours) == 22
    one = psutil.Process()
    assert ours[one.pid].name == one.name() and ours[one.pid].ppid == one.ppid()
    assert proc.uid(one.pid) == one.uids().effective
    assert ours[one.pid].session == os.getsid(0)
    assert ours[one.pid].threads == one.num_threads()


@isolated
def test_a_process_with_a_number_that_was_a_kernel_threads_in_another_namespace_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proc, "_kernel_threads", frozenset(range(2, 1000)))
    assert proc.kernel_threads() == frozenset()
