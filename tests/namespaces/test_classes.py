# SPDX-License-Identifier: MIT
"""Guests, sessions and services that quit for real, in a PID namespace of their own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from kexecd.config.policy import Policy
from kexecd.init.by_class import by_class
from kexecd.kernel import proc
from kexecd.model import ProcessClass
from kexecd.teardown.classes import Classifier, QuitClass
from kexecd.teardown.processes import QuitProcesses
from kexecd.teardown.survey import occupants, running, terminals
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import alive, application, notes, walk

# What a container engine does: its monitor outside, a PID 1 inside, which has a child. arguments: how the PID 1 takes
# TERM, where it and its child write what they heard.
CONTAINER = """
import ctypes
ctypes.CDLL(None).prctl(15, b"conmon", 0, 0, 0)  # PR_SET_NAME
ctypes.CDLL(None).unshare(0x20000000)  # CLONE_NEWPID
def heard(what):
    def handler(number, frame):
        open(sys.argv[2], "a").write(f"{what} {number}\\n")
        os._exit(0)
    return handler
first = os.fork()
if first == 0:
    ctypes.CDLL(None).prctl(15, b"app", 0, 0, 0)
    if sys.argv[1] == "halt": signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 3])
    if sys.argv[1] in ("term", "halt"): signal.signal(signal.SIGTERM, heard("init"))
    if sys.argv[1] != "alone" and os.fork() == 0:
        signal.signal(signal.SIGTERM, heard("child"))
        ready()
        while True: signal.pause()
    if sys.argv[1] == "alone": ready()
    if sys.argv[1] == "halt":
        mask = (1 << signal.SIGRTMIN + 2).to_bytes(128, "little")
        os.read(ctypes.CDLL(None).signalfd(-1, mask, 0), 128)  # as systemd does it: blocked, and read
        heard("init")(signal.SIGRTMIN + 3, None)
    while True:
        try: os.wait()
        except ChildProcessError: signal.pause()
os.waitpid(first, 0)
if sys.argv[1] == "stays":
    while True: signal.pause()
"""
WAITS = "ready()\nwhile True: signal.pause()"
AS_USER = "os.setuid(1234)\nready()\nwhile True: signal.pause()"
NOTES_TERM = """
log = open(sys.argv[1], "a")
def note(*_):
    print(sys.argv[2], file=log, flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, note)
if sys.argv[2] == "session": os.setuid(1234)
ready()
while True: signal.pause()
"""
WRITES = """
files = [open(path, mode) for path, mode in zip(sys.argv[1::2], sys.argv[2::2])]
ready()
while True: signal.pause()
"""


def quit_container(kind: str, tmp_path: Path, grace: float = 5.0) -> tuple[list[str], str, float]:
    """Start one, quit all guests; returns who heard what, the notes, and the seconds that it took."""
    log = tmp_path / "heard"
    log.touch()
    application(CONTAINER, kind, str(log))
    guests = [process for process in running() if Classifier.here()(process) is ProcessClass.GUEST]
    assert len(guests) == (2 if kind == "alone" else 3), guests
    _, events, seconds = walk(QuitClass(ProcessClass.GUEST, grace))
    assert not running()
    return log.read_text(encoding="utf-8").splitlines(), notes(events), seconds


@isolated
def test_a_container_is_asked_through_its_own_first_process(tmp_path: Path) -> None:
    heard, told, seconds = quit_container("term", tmp_path)
    assert heard == [f"init {signal.SIGTERM}"], "its child is its own to end"
    assert "killing" not in told and seconds < 3


@isolated
def test_a_container_with_systemd_in_it_is_asked_to_halt(tmp_path: Path) -> None:
    heard, told, seconds = quit_container("halt", tmp_path)
    assert heard == [f"init {signal.SIGRTMIN + 3}"]
    assert "killing" not in told and seconds < 3


@isolated
def test_where_the_first_process_hears_nothing_the_others_are_asked(tmp_path: Path) -> None:
    heard, told, seconds = quit_container("deaf", tmp_path, grace=1.0)
    assert heard == [f"child {signal.SIGTERM}"]
    assert "killing app" in told and seconds < 4


@isolated
def test_nobody_waits_for_one_that_is_alone_and_hears_nothing(tmp_path: Path) -> None:
    _, told, seconds = quit_container("alone", tmp_path, grace=20.0)
    assert "killing" not in told and seconds < 3


@isolated
def test_a_monitor_that_stays_when_its_guest_has_gone_gets_a_second(tmp_path: Path) -> None:
    heard, told, seconds = quit_container("stays", tmp_path, grace=3.0)
    assert heard == [f"child {signal.SIGTERM}"]
    assert "killing conmon" in told and 1.0 < seconds < 6


@isolated
def test_without_an_init_that_helps_people_quit_before_services_and_nobody_is_asked_twice(tmp_path: Path) -> None:
    log = tmp_path / "heard"
    for kind in ("service", "session", "service", "session"):
        application(NOTES_TERM, str(log), kind)
    steps = by_class(Policy(), running())
    assert not steps.guests and not steps.basics
    assert len(steps.covered) == 4
    walk(*steps.sessions, *steps.services, QuitProcesses(5.0))
    assert log.read_text(encoding="utf-8").split() == ["session", "session", "service", "service"]
    assert not running()


@isolated
def test_a_class_with_nobody_in_it_has_no_step() -> None:
    application(AS_USER)
    steps = by_class(Policy(), running())
    assert len(steps.sessions) == 1 and not (steps.guests or steps.services)


@isolated
def test_a_class_leaves_the_others_alone_and_those_who_took_over_a_number() -> None:
    service, user = application(WAITS), application(AS_USER)
    step = QuitClass(ProcessClass.SESSION, 5.0)
    walk(step)
    assert alive(service) and not alive(user)


@isolated
def test_the_plan_tells_who_writes_what(tmp_path: Path) -> None:
    names = {mode: str(tmp_path / mode) for mode in ("w", "r", "a", "r+")}
    for path in names.values():
        Path(path).touch()
    pid = application(WRITES, *(word for mode, path in names.items() for word in (path, mode)), "/dev/null", "w")
    (seen,) = [each for each in occupants(running()) if each.process.pid == pid]
    assert set(seen.writing) == {names["w"], names["a"], names["r+"]}
    assert seen.user == "root" and seen.process_class is ProcessClass.SERVICE
    assert seen.memory > 1 << 20


@isolated
def test_reading_about_everybody_is_cut_when_it_takes_too_long() -> None:
    for _ in range(6):
        application(WAITS)
    everyone = running()
    assert occupants(everyone, seconds=0.0) == ()
    begin = time.process_time()
    assert len(occupants(everyone)) == 6
    assert time.process_time() - begin < 1.0


@isolated
def test_a_terminal_is_where_somebody_is_and_not_where_a_login_waits() -> None:
    import pty

    for name in (b"bash", b"agetty"):
        pid, _ = pty.fork()
        if pid == 0:
            Path("/proc/self/comm").write_bytes(name)
            while True:
                signal.pause()
        while (process := proc.read(pid)) is None or process.name != name.decode():
            time.sleep(0.01)
        expected = (os.readlink(f"/proc/{pid}/fd/0"),) if name == b"bash" else ()
        assert terminals([process]) == expected
        os.kill(pid, signal.SIGKILL)
