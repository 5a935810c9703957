# SPDX-License-Identifier: MIT
"""Giving a boot up: everything is tried, nothing that hangs holds it, and in the end the machine is reset."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.errors import NotRestarted
from kexecd.wayback import giveup
from kexecd.wayback.giveup import give_up, see_through


class Reset(Exception):
    """Where the machine would be gone."""


class Played:
    """Writes down what is done in a file: most is done in children. bad: what fails; hangs: what never ends."""

    def __init__(self, path: Path, *, bad: str = "", hangs: str = "", begins: bool = True) -> None:
        self.path, self.bad, self.hangs, self.begins = path, bad.split(), hangs.split(), begins

    def _do(self, name: str, text: str = "") -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{text or name}\n")
        if name in self.hangs:
            time.sleep(60)
        if name in self.bad:
            raise OSError(30, "read-only file system")

    def write_down(self, why: str) -> None:
        self._do("write", f"write {why}")

    def unload(self) -> None:
        self._do("unload")

    def want_firmware(self) -> None:
        self._do("wish")

    def ask(self) -> None:
        self._do("ask")
        if "refuse" in self.bad:
            raise NotRestarted("systemd did not accept it", "an inhibitor is in the way")

    def begun(self) -> bool:
        self._do("begun")
        return self.begins

    def sync(self) -> None:
        self._do("sync")

    def close(self) -> None:
        self._do("close")

    def reset(self, tell: giveup.Tell) -> None:
        del tell
        self._do("reset")
        raise Reset

    @property
    def done(self) -> list[str]:
        """Each deed, the same one in a row once."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [line for before, line in zip(["", *lines], lines, strict=False) if line != before]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Half a second for everything that takes minutes."""
    for name in ("WRITING", "UNLOADING", "ACCEPTING", "TAKING_DOWN", "SYNCING"):
        monkeypatch.setattr(giveup, name, 0.5)
    for name in ("LOOK", "CLOSING"):
        monkeypatch.setattr(giveup, name, 0.05)
    yield


def seen_through(deeds: Played) -> tuple[list[str], list[str]]:
    told: list[str] = []
    begin = time.monotonic()
    with pytest.raises(Reset):
        see_through(deeds, told.append)
    assert time.monotonic() - begin < 10
    return deeds.done, told


def test_a_pid_1_that_begins_gets_its_time_and_is_done_without_afterwards(tmp_path: Path) -> None:
    done, told = seen_through(Played(tmp_path / "log"))
    assert done == ["ask", "begun", "sync", "close", "reset"]
    assert told == [
        "PID 1 has begun, and come to no end within 0.5 s",
        "closing the disks without PID 1, and resetting the machine",
    ]


def test_a_pid_1_that_refuses_is_done_without_at_once(tmp_path: Path) -> None:
    begin = time.monotonic()
    done, told = seen_through(Played(tmp_path / "log", bad="refuse"))
    assert done == ["ask", "sync", "close", "reset"]
    assert "an inhibitor is in the way" in told[0]
    assert time.monotonic() - begin < 0.5


def test_a_pid_1_that_accepts_and_never_begins_is_done_without(tmp_path: Path) -> None:
    done, told = seen_through(Played(tmp_path / "log", begins=False))
    assert done == ["ask", "begun", "sync", "close", "reset"]
    assert told[0] == "PID 1 has not begun within 0.5 s"


@pytest.mark.parametrize("what", ["ask", "begun", "sync"])
def test_what_never_returns_is_left_behind(tmp_path: Path, what: str) -> None:
    done, _ = seen_through(Played(tmp_path / "log", hangs=what))
    assert done[-2:] == ["close", "reset"]


def test_disks_that_cannot_be_closed_keep_nobody_from_the_reset(tmp_path: Path) -> None:
    assert seen_through(Played(tmp_path / "log", bad="sync close"))[0][-1] == "reset"


def outlived(path: Path, line: str) -> None:
    """Wait until whoever outlives us has come that far."""
    end = time.monotonic() + 10
    while line not in path.read_text(encoding="utf-8").splitlines():
        assert time.monotonic() < end, path.read_text(encoding="utf-8")
        time.sleep(0.02)


@pytest.mark.parametrize("bad", ["", "write", "unload wish", "write unload wish"])
def test_the_reason_is_written_first_and_whatever_fails_the_machine_restarts(tmp_path: Path, bad: str) -> None:
    told: list[str] = []
    give_up("no network", Played(tmp_path / "log", bad=bad), told.append)
    outlived(tmp_path / "log", "reset")
    assert Played(tmp_path / "log").done == [
        "write no network", "unload", "wish", "ask", "begun", "sync", "close", "reset",
    ]  # fmt: skip
    assert told[0] == "this boot is given up: no network; this machine restarts through the firmware"
    assert len(told) == 1 + len(bad.split())


def test_a_disk_that_does_not_take_the_reason_is_not_waited_for(tmp_path: Path) -> None:
    told: list[str] = []
    begin = time.monotonic()
    give_up("no network", Played(tmp_path / "log", hangs="write"), told.append)
    assert "the reason could not be written down: it: no answer in time" in told[1]
    assert time.monotonic() - begin < 5
    outlived(tmp_path / "log", "reset")


def test_who_sees_it_through_is_apart_from_the_service_and_ends_when_pid_1_ends_everybody(tmp_path: Path) -> None:
    class Tells(Played):
        def ask(self) -> None:
            self._do("ask", f"ask {os.getppid()}")

    give_up("no network", Tells(tmp_path / "log"), lambda text: None)
    end = time.monotonic() + 10
    while not (asked := [line for line in Played(tmp_path / "log").done if line.startswith("ask ")]):
        assert time.monotonic() < end
        time.sleep(0.02)
    pid = int(asked[0].split()[1])
    assert os.getsid(pid) == pid, "it is in a session of its own"
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == signal.SIGTERM
    assert "reset" not in Played(tmp_path / "log").done


def test_the_watchdog_gets_more_time_than_all_of_it_takes() -> None:
    assert giveup.LAST >= 30 + 150 + 15 + 20 + 10
