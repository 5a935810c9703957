# SPDX-License-Identifier: MIT
"""Which hardware watchdog watches over a kexec, what is written down for the jump, and what the new boot does."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from kexecd.kernel.watchdog import CLASS, KEEPALIVE, LEAVING, SETTIMEOUT, Outlook, Watchdog, found, outlook
from kexecd.wayback import watchdog
from kexecd.wayback.watchdog import Watch, arm, armed, leave_running

VERSION = "6.12.9"


class Tree:
    def __init__(self, path: Path) -> None:
        self.path, self.root = path, str(path)

    def write(self, path: str, text: str) -> None:
        file = self.path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n", encoding="utf-8")

    def dog(self, number: int = 0, identity: str = "a watchdog", driver: str = "", **files: str) -> None:
        top = f"{CLASS}/watchdog{number}"
        usual = {"identity": identity, "state": "inactive", "nowayout": "0", "timeout": "30"}
        for name, text in {**usual, **files}.items():
            self.write(f"{top}/{name}", text)
        if driver:
            place = self.path / f"{top}/device/driver".lstrip("/")
            place.mkdir(parents=True)
            (place / "module").symlink_to(f"/sys/module/{driver}")

    def stop_on_reboot(self, value: int) -> None:
        self.write("/sys/module/watchdog/parameters/stop_on_reboot", str(value))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_watchdog_of_the_kernels_own_is_none(tree: Tree) -> None:
    tree.dog(identity="Software Watchdog")
    assert found(tree.root) == ()
    assert "there is no hardware watchdog" in outlook(VERSION, 300, tree.root).sentence()


def test_all_that_sysfs_tells_is_seen(tree: Tree) -> None:
    tree.dog(1, "second")
    tree.dog(0, "iTCO_wdt", "iTCO_wdt", state="active", nowayout="1", max_timeout="614")
    first, second = found(tree.root)
    assert first == Watchdog("watchdog0", "iTCO_wdt", "iTCO_wdt", True, True, 30, 614)
    assert second.name == "watchdog1" and second.driver == ""


@pytest.mark.parametrize(
    ("identity", "stop_on_reboot", "why"),
    [
        ("i6300ESB timer", -1, "its driver switches the watchdog i6300ESB timer off before the jump"),
        ("i6300ESB timer", 0, ""),
        ("a watchdog", 1, "watchdog.stop_on_reboot=1 has the kernel switch the watchdog a watchdog off"),
        ("a watchdog", -1, ""),
    ],
)
def test_one_that_the_jump_switches_off_is_told(tree: Tree, identity: str, stop_on_reboot: int, why: str) -> None:
    tree.dog(identity=identity)
    tree.stop_on_reboot(stop_on_reboot)
    ahead = outlook(VERSION, 300, tree.root)
    assert (why in ahead.why) if why else ahead.device == "/dev/watchdog0"
    assert bool(ahead.device) != bool(why)


def test_a_watchdog_that_nobody_could_switch_off_again_is_left_alone(tree: Tree) -> None:
    tree.dog(nowayout="1")
    assert "(nowayout)" in outlook(VERSION, 300, tree.root).why


@pytest.mark.parametrize("name", ["modules.dep", "modules.builtin"])
def test_the_new_kernel_has_to_have_its_driver(tree: Tree, name: str) -> None:
    tree.dog(driver="sp5100_tco")
    assert "no driver sp5100_tco" in outlook(VERSION, 300, tree.root).why
    tree.write(f"/usr/lib/modules/{VERSION}/{name}", "kernel/drivers/watchdog/sp5100-tco.ko.xz")
    assert outlook(VERSION, 300, tree.root).device == "/dev/watchdog0"
    assert "no driver" in outlook("", 300, tree.root).why, "of a kernel without a version nobody knows"


def test_it_waits_a_little_longer_than_the_limit_if_it_can(tree: Tree) -> None:
    tree.dog()
    assert outlook(VERSION, 300, tree.root).seconds == 300 + LEAVING
    tree.write(f"{CLASS}/watchdog0/max_timeout", "255")
    assert outlook(VERSION, 300, tree.root).seconds == 255


def test_the_first_that_will_do_is_taken(tree: Tree) -> None:
    tree.dog(0, "iTCO_wdt")
    tree.dog(1, "another")
    assert outlook(VERSION, 300, tree.root).device == "/dev/watchdog1"


@pytest.fixture(autouse=True)
def image(tmp_path: Path) -> Path:
    """Ours is in memory."""
    record = tmp_path / "image.json"
    record.touch()
    return record


def test_what_is_decided_is_written_down_and_taken_back(tmp_path: Path) -> None:
    arm(Outlook("/dev/watchdog0", 330, "a watchdog"), str(tmp_path))
    assert armed(str(tmp_path)) == ("/dev/watchdog0", 330)
    assert (tmp_path / watchdog.NAME).read_text() == "/dev/watchdog0 330\n", "as jump.py reads it"
    arm(Outlook(why="there is none"), str(tmp_path))
    assert armed(str(tmp_path)) is None
    arm(Outlook(), str(tmp_path / "nowhere"))


def test_for_an_image_that_is_gone_it_does_not_count(tmp_path: Path, image: Path) -> None:
    arm(Outlook("/dev/watchdog0", 330, "a watchdog"), str(tmp_path))
    image.unlink()
    assert armed(str(tmp_path)) is None


class Dog:
    """A descriptor of one. log: a file, since it may be set in a child."""

    def __init__(self, log: Path, most: int = 1 << 20, *, outlives: bool = True, busy: bool = False) -> None:
        if busy:
            raise OSError(errno.EBUSY, "device or resource busy")
        self.log, self.most, self.outlives_closing = log, most, outlives

    def _do(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{text}\n")

    def set(self, seconds: float) -> int:
        given = min(int(seconds), self.most)
        self._do(f"set {given}")
        return given

    def leave_running(self) -> None:
        self._do("leave")

    def stop(self) -> None:
        self._do("stop")


def test_the_last_thing_before_a_jump_sets_it_and_says_so(tmp_path: Path) -> None:
    arm(Outlook("/dev/watchdog0", 330, "a watchdog"), str(tmp_path))
    said = leave_running(str(tmp_path), held=lambda path: Dog(tmp_path / "log"))  # type: ignore[arg-type,return-value]
    assert said == "/dev/watchdog0 resets this machine if the new kernel hangs, after 330 s"
    assert (tmp_path / "log").read_text() == "set 330\nleave\n"


def test_without_a_word_from_the_load_nothing_is_touched(tmp_path: Path) -> None:
    assert leave_running(str(tmp_path), held=lambda path: Dog(tmp_path / "log")) == ""  # type: ignore[arg-type,return-value]
    assert not (tmp_path / "log").exists()


def test_a_watchdog_that_somebody_else_keeps_is_his(tmp_path: Path) -> None:
    arm(Outlook("/dev/watchdog0", 330, "a watchdog"), str(tmp_path))
    said = leave_running(str(tmp_path), held=lambda path: Dog(tmp_path / "log", busy=True))  # type: ignore[arg-type,return-value]
    assert said == "/dev/watchdog0 is not set to watch over the new kernel: somebody else keeps it"


def test_a_driver_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    def hangs(path: str) -> Dog:
        del path
        time.sleep(30)
        raise AssertionError

    arm(Outlook("/dev/watchdog0", 330, "a watchdog"), str(tmp_path))
    begin = time.monotonic()
    said = leave_running(str(tmp_path), held=hangs, seconds=0.3)  # type: ignore[arg-type]
    assert "going on without" in said and time.monotonic() - begin < 5


def test_a_device_that_is_none_is_told(tmp_path: Path) -> None:
    def opened(path: str) -> Dog:
        os.open(path, os.O_WRONLY)
        raise AssertionError

    arm(Outlook("/dev/nonexistent", 330, "a watchdog"), str(tmp_path))
    assert "no such file" in leave_running(str(tmp_path), held=opened)  # type: ignore[arg-type]


ONE = Watchdog("watchdog0", "a watchdog", "", active=False, nowayout=False, timeout=30, most=0)


def watched(tmp_path: Path, *dogs: Watchdog, most: int = 1 << 20, outlives: bool = True, wanted: bool = False) -> Watch:
    def held(path: str) -> Dog:
        assert path == "/dev/watchdog0"
        return Dog(tmp_path / "log", most, outlives=outlives)

    return Watch(lambda: wanted, lambda: dogs or (ONE,), held)  # type: ignore[arg-type]


def log(tmp_path: Path) -> list[str]:
    path = tmp_path / "log"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_in_the_new_boot_it_is_set_let_go_and_switched_off_in_the_end(tmp_path: Path) -> None:
    watch = watched(tmp_path)
    assert watch.renew(100) is None
    assert watch.renew(80) is None
    assert watch.give_back() == ()
    assert log(tmp_path) == ["set 100", "leave", "set 80", "leave", "stop"]


def test_one_that_cannot_wait_so_long_is_to_be_told_again(tmp_path: Path) -> None:
    assert watched(tmp_path, most=60).renew(300) == 30


def test_one_that_stops_when_it_is_closed_stays_open(tmp_path: Path) -> None:
    watch = watched(tmp_path, outlives=False)
    watch.renew(100)
    assert watch.ours["/dev/watchdog0"] is not None
    watch.give_back()
    assert log(tmp_path)[-1] == "stop"


def test_one_that_cannot_be_switched_off_again_is_not_started(tmp_path: Path) -> None:
    dog = Watchdog("watchdog0", "a watchdog", "", active=True, nowayout=True, timeout=30, most=0)
    watch = watched(tmp_path, dog)
    watch.renew(100)
    assert watch.give_back() == () and log(tmp_path) == []


def test_one_that_pid_1_is_to_have_is_not_touched(tmp_path: Path) -> None:
    watch = watched(tmp_path, wanted=True)
    watch.renew(100)
    assert watch.give_back() == () and log(tmp_path) == []


def test_one_that_somebody_took_over_is_not_switched_off(tmp_path: Path) -> None:
    busy = False

    def held(path: str) -> Dog:
        del path
        return Dog(tmp_path / "log", busy=busy)

    watch = Watch(lambda: False, lambda: (ONE,), held)  # type: ignore[arg-type]
    watch.renew(100)
    busy = True
    assert watch.renew(50) is None
    assert watch.give_back() == ()
    assert log(tmp_path) == ["set 100", "leave"]


def test_the_numbers_of_the_calls_are_those_of_the_header() -> None:
    if os.uname().machine == "x86_64":
        assert (KEEPALIVE, SETTIMEOUT) == (0x80045705, 0xC0045706)
