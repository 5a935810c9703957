# SPDX-License-Identifier: MIT
"""Quitting real processes, in a PID namespace of their own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from kexecd.kernel import proc
from kexecd.teardown.processes import QuitProcesses, Spare
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import alive, application, notes, walk

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
    assert not [p for p in proc.scan() if not Spare.ours()(p)]
    assert seconds < 4


@isolated
def test_whoever_was_asked_before_is_killed_at_once() -> None:
    from kexecd.model import Context

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
    while not (seen := proc.read(daemon)) or not seen.argv0.startswith("@"):
        assert time.monotonic() < deadline
    assert spare(seen)
    for pid in (1, os.getpid(), os.getppid()):
        process = proc.read(pid)
        assert process and spare(process)


def test_the_scan_sees_whom_psutil_sees() -> None:
    """psutil is the oracle; whoever came or went meanwhile is in neither."""
    before, ours, after = set(psutil.pids()), {p.pid: p for p in proc.scan()}, set(psutil.pids())
    zombies = {p.pid for p in psutil.process_iter(["status"]) if p.info["status"] == psutil.STATUS_ZOMBIE}
    assert (before & after) - zombies <= ours.keys() <= before | after
    one = psutil.Process()
    assert ours[one.pid].name == one.name() and ours[one.pid].ppid == one.ppid()
    assert ours[one.pid].uid == one.uids().real
