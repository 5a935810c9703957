# SPDX-License-Identifier: MIT
"""So many at a time, each in a process of its own; and whatever becomes of the one who asks for it, nothing stays."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab.crew import each
from tests.vm.lab.errors import LabError
from tests.vm.lab.machine import UNTIL_WE_END, until_we_end

SECONDS = 30.0

# What a campaign is: workers with a directory and a process each, of which they let go when they leave in good order.
RUN = """\
import os, signal, subprocess, sys, tempfile, time
from tests.vm.lab.crew import each
from tests.vm.lab.machine import until_we_end

signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal, whatever the tests were started by

def work(number):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        qemu = subprocess.Popen(until_we_end(("sleep", "600")), start_new_session=True)
        os.write(1, f"{os.getpid()} {qemu.pid}\\n".encode())
        try:
            qemu.wait()
        finally:
            qemu.kill()
            qemu.wait()

for number, done in each(work, range(4), 2):
    pass
"""


def test_each_is_done_once_in_its_order_and_no_more_at_a_time_than_are_wanted(tmp_path: Path) -> None:
    def work(number: int) -> tuple[int, int]:
        mine = tmp_path / str(number)
        mine.touch()
        others = len(list(tmp_path.iterdir()))
        time.sleep(0.02)
        mine.unlink()
        return others, os.getpid()

    found = dict(each(work, range(12), 3))
    assert sorted(found) == list(range(12))
    assert max(others for others, _ in found.values()) <= 3
    assert len({worker for _, worker in found.values()}) <= 3 and os.getpid() not in {pid for _, pid in found.values()}


def test_who_is_done_first_is_told_first_and_gets_the_next() -> None:
    def work(number: int) -> int:
        time.sleep(1.0 if number == 0 else 0.0)
        return number * number

    assert list(each(work, range(4), 2)) == [(1, 1), (2, 4), (3, 9), (0, 0)]
    assert list(each(work, [], 2)) == []


def test_a_worker_that_fails_ends_all_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    def work(number: int) -> int:
        if number == 1:
            raise ValueError("a guest from nowhere")
        time.sleep(600)
        return number

    begin = time.monotonic()
    with pytest.raises(LabError, match="at number 1 has ended without an answer"):
        list(each(work, range(4), 2))
    assert time.monotonic() - begin < SECONDS
    assert "a guest from nowhere" in capfd.readouterr().err


@contextlib.contextmanager
def held(pids: list[int]) -> Iterator[list[int]]:
    """A descriptor of each; none is left behind."""
    fds = [os.pidfd_open(pid) for pid in pids]
    try:
        yield fds
    finally:
        for fd in fds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


def ended(fds: list[int]) -> bool:
    """Whether all of them do, in time."""
    end = time.monotonic() + SECONDS
    return all(select.select([fd], [], [], max(0.0, end - time.monotonic()))[0] for fd in fds)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_who_asked_for_it_is_the_end_of_every_worker_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN, tmp_path], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        pids = [int(pid) for _ in range(2) for pid in run.stdout.readline().split()]
        with held([run.pid, *pids]) as fds:
            run.send_signal(number)
            assert ended(fds)
    assert run.returncode in (-number, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_killed_takes_its_qemu_with_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN, tmp_path], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        pids = [int(pid) for _ in range(2) for pid in run.stdout.readline().split()]
        with held([run.pid, *pids]) as fds:
            os.kill(pids[0], signal.SIGKILL)
            assert ended(fds), "and the others end with the run, which cannot go on"
    assert run.returncode == 1


def test_qemu_runs_in_the_place_of_what_sees_to_its_end() -> None:
    with subprocess.Popen(until_we_end(("sleep", "600"))) as process:
        try:
            end = time.monotonic() + SECONDS
            while (name := Path(f"/proc/{process.pid}/comm").read_text()) != "sleep\n" and time.monotonic() < end:
                time.sleep(0.01)
            assert name == "sleep\n"
        finally:
            process.kill()


def test_qemu_does_not_begin_when_who_starts_it_has_ended_before_its_end_could_be_told(tmp_path: Path) -> None:
    begun, gone = tmp_path / "begun", str(os.getppid())
    assert subprocess.run((*UNTIL_WE_END, gone, "touch", begun), check=False).returncode == 1
    assert not begun.exists()
    assert subprocess.run(until_we_end(("touch", str(begun))), check=False).returncode == 0
    assert begun.exists()
