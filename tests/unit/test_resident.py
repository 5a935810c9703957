# SPDX-License-Identifier: MIT
"""A request is done once, by the daemon or by kexecctl itself, and a person cannot tell which of them it was."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd import __version__
from kexecd.cli import resident
from kexecd.cli.main import COMMANDS
from kexecd.daemon import requests
from kexecd.kernel import proc
from kexecd.record import RUN_DIR
from kexecd.teardown.spare import Spare
from tests.unit.resident import NOBODY, SECONDS, Caller, call, daemon, forked, readable, wait

TOP = Path(__file__).parents[2]
CLONE_NEWNS = 0x00020000  # include/uapi/linux/sched.h


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    both = os.pipe()
    yield both
    for fd in both:
        os.close(fd)


def echo(words: list[str]) -> int:
    print(*words, flush=True)
    return len(words)


def last(words: list[str]) -> int:
    """Say that it has begun, and then take very long."""
    del words
    try:
        print(f"{os.getpid()} begun", flush=True)
        time.sleep(SECONDS)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
    return 0


def test_the_door_is_where_everything_of_this_boot_is() -> None:
    assert os.path.join(RUN_DIR, requests.NAME) == resident.DOOR
    assert {command.name for command in COMMANDS} > set(resident.ALONE)


def test_words_come_in_and_the_exit_status_goes_out(tmp_path: Path) -> None:
    with daemon(tmp_path, echo) as there:
        caller = call(there.door, "plan", "", "--set", "a b\n=c")
        assert caller.wait() == 4
        assert caller.rest() == "plan  --set a b\n=c\n"


def test_many_callers_are_served_beside_each_other(tmp_path: Path) -> None:
    with daemon(tmp_path, echo) as there:
        callers = [call(there.door, "plan", str(number)) for number in range(20)]
        assert [caller.wait() for caller in callers] == [2] * 20
        assert [caller.rest() for caller in callers] == [f"plan {number}\n" for number in range(20)]


@pytest.mark.parametrize(
    "words",
    [
        ("config", "--root", "tree", "--json"),
        ("entries", "--root", "tree"),
        ("entries", "--root", "tree", "--json"),
        ("plan", "--fast", "--no-such-option"),
        ("plan", "--help"),
        ("plan", "--root", "tree", "--within", "-1"),
        ("no-such-command",),
    ],
    ids=" ".join,
)
def test_nobody_can_tell_whether_there_was_a_daemon(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/kexec.conf").write_text('KNAME="bzImage-ü"\n')
    code = (
        f"import sys; sys.path.insert(0, {str(TOP)!r}); from kexecd.cli.resident import ask; door = sys.argv.pop(1)\n"
        f"status = ask(sys.argv[1:], door)\n"
        f"if status is None: from kexecd.cli.main import main; status = main()\n"
        f"sys.exit(status)"
    )

    def run(door: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-I", "-c", code, door, *words]
        return subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)

    with daemon(tmp_path) as there:
        with_it = run(there.door)
    alone = run(str(tmp_path / "nobody"))
    assert (with_it.returncode, with_it.stdout, with_it.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert alone.stdout or alone.stderr


def test_it_is_done_in_the_callers_directory_with_little_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(words: list[str]) -> int:
        del words
        print(json.dumps({"cwd": os.getcwd(), "env": dict(os.environ)}))
        return 0

    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("TERM", "vt100")
    monkeypatch.setenv("LD_PRELOAD_NOT", "x")
    with daemon(tmp_path, tell) as there:
        caller = call(there.door, "plan", prepare=lambda: os.chdir(place))
        assert caller.wait() == 0
        told = json.loads(caller.rest())
    assert told["cwd"] == str(place)
    assert told["env"]["TERM"] == "vt100"
    assert set(told["env"]) <= {"PATH", "LC_ALL", *resident.ENVIRONMENT}


def test_where_nobody_listens_it_is_left_to_be_done(tmp_path: Path) -> None:
    assert resident.ask(["plan"], str(tmp_path / "request")) is None


def test_a_door_that_a_killed_daemon_has_left_keeps_nobody(tmp_path: Path) -> None:
    with daemon(tmp_path, echo) as there:
        there.signal(signal.SIGKILL)
        there.wait()
        assert resident.ask(["plan"], there.door) is None
    with daemon(tmp_path, echo) as there:
        assert call(there.door, "plan").wait() == 1


def test_what_an_init_calls_on_its_way_down_is_never_asked_of_a_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, echo) as there:
        for words in (["service", "stop"], ["finish"], ["--version"], []):
            assert resident.ask(words, there.door) is None


def test_one_who_hangs_up_before_it_has_begun_is_not_served_and_does_it_alone(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def leave_a_mark(words: list[str]) -> int:
        marker.write_text(" ".join(words))
        return 0

    with daemon(tmp_path, leave_a_mark) as there:
        there.signal(signal.SIGSTOP)
        caller = call(there.door, "plan", patience=0.2)
        assert caller.wait() == NOBODY
        there.signal(signal.SIGCONT)
        assert call(there.door, "plan", "second").wait() == 0
        assert marker.read_text() == "plan second"


def test_what_has_begun_goes_on_without_the_daemon(tmp_path: Path, pipe: tuple[int, int]) -> None:
    def wait_for_more(words: list[str]) -> int:
        print("begun", flush=True)
        return echo([os.read(0, 64).decode(), *words])

    with daemon(tmp_path, wait_for_more) as there:
        reader, writer = pipe
        caller = call(there.door, "plan", prepare=lambda: os.dup2(reader, 0))
        assert caller.line() == "begun"
        there.signal(signal.SIGKILL)
        there.wait()
        os.write(writer, b"go on")
        assert caller.wait() == 2
        assert caller.rest() == "go on plan\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_ends_the_caller_interrupts_what_is_done_for_it(tmp_path: Path, number: int) -> None:
    with daemon(tmp_path, last) as there:
        caller = call(there.door, "plan")
        assert caller.line().endswith("begun")
        os.kill(caller.pid, number)
        assert caller.line() == "interrupted"
        assert caller.wait() == (1 if number == signal.SIGINT else -number)
        assert caller.rest() == ""


def test_a_second_ctrl_c_ends_a_caller_whose_request_hears_of_none(tmp_path: Path) -> None:
    def deaf(words: list[str]) -> int:
        signal.signal(signal.SIGINT, lambda number, frame: os.write(1, b"heard\n") and None)
        return last(words)

    with daemon(tmp_path, deaf) as there:
        caller = call(there.door, "plan")
        worker = int(caller.line().split()[0])
        while os.readlink(f"/proc/{caller.pid}/cwd") != "/":  # from then on it waits for how it ends
            time.sleep(0.01)
        os.kill(caller.pid, signal.SIGINT)
        assert caller.line() == "heard"
        os.kill(caller.pid, signal.SIGINT)
        assert caller.wait() == 1
        os.kill(worker, signal.SIGKILL)


def test_a_caller_is_told_if_what_was_done_for_it_is_killed(tmp_path: Path) -> None:
    with daemon(tmp_path, last) as there:
        caller = call(there.door, "plan")
        os.kill(int(caller.line().split()[0]), signal.SIGKILL)
        assert caller.wait() == 1
        assert "was killed" in caller.rest()


def test_who_outlives_a_request_does_not_keep_its_caller_waiting(tmp_path: Path) -> None:
    """As the walker of a plan does; and what it opens afterwards is never closed in its own children."""

    def leave_one_behind(words: list[str]) -> int:
        fds = set(os.listdir("/proc/self/fd"))
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            opened = [os.open(os.devnull, os.O_RDONLY) for _ in fds]
            if os.fork() == 0:
                for fd in opened:
                    os.fstat(fd)
                time.sleep(SECONDS)
            os._exit(0)
        os._exit(len(words))

    with daemon(tmp_path, leave_one_behind) as there:
        caller = call(there.door, "plan")
        assert caller.wait() == 1
        assert "was killed" in caller.rest()


def test_a_caller_without_streams_does_it_itself(tmp_path: Path) -> None:
    with daemon(tmp_path, echo) as there:
        assert call(there.door, "plan", prepare=lambda: os.close(0)).wait() == NOBODY


def test_nobody_but_root_is_let_in(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    for directory in tmp_path.parents:
        if directory.stat().st_uid == 0 and len(directory.parts) > 2:
            os.chmod(directory, 0o755)
    with daemon(tmp_path, echo) as there:

        def connect() -> int:
            os.setuid(65534)
            assert resident.ask(["plan"], there.door) is None
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
                try:
                    caller.connect(there.door)
                except PermissionError:
                    return 13
                return len(caller.recv(64))

        assert wait(forked(connect)) == 13
        os.chmod(there.door, 0o666)
        assert wait(forked(connect)) == 0


def test_root_in_other_namespaces_or_below_another_root_is_not_let_in(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    outside = tmp_path / "outside"
    outside.mkdir()
    with daemon(tmp_path, echo) as there:
        assert call(there.door, "plan", prepare=lambda: libc.unshare(CLONE_NEWNS)).wait() == NOBODY

        def below() -> None:
            os.chdir(tmp_path)
            os.chroot(tmp_path)

        assert call("/request", "plan", prepare=below).wait() == NOBODY


def test_another_version_of_kexecctl_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tmp_path, echo) as there:
        monkeypatch.setattr(resident, "__version__", __version__ + "1")
        assert call(there.door, "plan").wait() == NOBODY


@pytest.mark.parametrize("message", [b"", b"nonsense", b"\0" * 9, b"\xff" * 200, b"\0".join([b"x"] * 100)])
def test_nonsense_is_not_answered_and_harms_nobody(tmp_path: Path, message: bytes) -> None:
    with daemon(tmp_path, echo) as there:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.settimeout(SECONDS)
            caller.connect(there.door)
            socket.send_fds(caller, [message], [0, 1, 2, 0, 1, 2])
            assert caller.recv(64) == b""
        assert call(there.door, "plan").wait() == 1


def test_one_who_says_nothing_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.1)
    with daemon(tmp_path, echo) as there, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.settimeout(SECONDS)
        caller.connect(there.door)
        assert caller.recv(64) == b""
        assert call(there.door, "plan").wait() == 1


def test_the_caller_and_its_ancestors_are_spared_as_if_they_had_done_it_themselves(tmp_path: Path) -> None:
    def who(words: list[str]) -> int:
        del words
        spared = Spare.ours()
        print(json.dumps(sorted(pid for pid in spared.pids)), flush=True)
        return 0

    def spared(caller: Caller) -> set[int]:
        assert caller.wait() == 0
        return set(json.loads(caller.rest()))

    with daemon(tmp_path, who) as there:
        caller = call(there.door, "plan")
        seen = spared(caller)
        assert {caller.pid, there.pid, *proc.ancestors(os.getpid())} <= seen


def test_two_requests_for_a_restart_are_one_restart(tmp_path: Path, pipe: tuple[int, int]) -> None:
    """The lock is the restart's own, whoever does it."""
    from kexecd.errors import Busy, ExitCode
    from kexecd.lock import hold

    def restart(words: list[str]) -> int:
        try:
            with hold(str(tmp_path), "restart this machine"):
                print("begun", flush=True)
                os.read(0, 1)
                return len(words)
        except Busy:
            return ExitCode.BUSY

    reader, writer = pipe
    with daemon(tmp_path, restart) as there:
        first = call(there.door, "reboot", prepare=lambda: os.dup2(reader, 0))
        assert first.line() == "begun"
        assert call(there.door, "reboot").wait() == ExitCode.BUSY
        os.write(writer, b"x")
        assert first.wait() == 1


def run_in_terminal(door: str, words: list[str]) -> tuple[int, bytes]:
    """Ask from a process whose streams are a terminal; returns its status, and what was seen there."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        status = 70
        try:
            sys.stdout = os.fdopen(1, "w", 1, closefd=False)
            status = resident.ask(words, door) or 0
        finally:
            os._exit(status)
    seen = b""
    while readable(terminal):
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            break
    return wait(pid), seen


def test_a_terminal_sees_each_line_at_once_and_knows_its_width(tmp_path: Path) -> None:
    def show(words: list[str]) -> int:
        del words
        print("a line")
        print(os.get_terminal_size(1).columns, sys.stdout.line_buffering, os.isatty(0))
        os._exit(0)  # what was not yet written is lost

    with daemon(tmp_path, show) as there:
        _, seen = run_in_terminal(there.door, ["plan"])
    assert b"a line\r\n" in seen
    assert b" True True" in seen


def test_no_descriptor_of_a_request_stays_open_in_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, echo) as there:
        before = len(os.listdir(f"/proc/{there.pid}/fd")) + 2  # by which it holds its hand
        for _ in range(10):
            assert call(there.door, "plan").wait() == 1
        end = time.monotonic() + SECONDS
        while len(os.listdir(f"/proc/{there.pid}/fd")) > before and time.monotonic() < end:
            select.select([], [], [], 0.01)
        assert len(os.listdir(f"/proc/{there.pid}/fd")) <= before
