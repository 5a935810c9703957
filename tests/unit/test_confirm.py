# SPDX-License-Identifier: MIT
"""Waiting for a new boot to show that it is good: real records and descriptors, an init that is played."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kexecd import handoff
from kexecd.handoff import PendingHandoff
from kexecd.kernel.watchdog import Watchdog
from kexecd.model import NONCE_KEY, Way
from kexecd.wayback.confirm import End, Outcome, Wait
from kexecd.wayback.health import Wanted
from kexecd.wayback.usual import Reached
from kexecd.wayback.watchdog import Watch

PENDING = PendingHandoff(
    nonce="0123456789abcdef",
    from_boot_id="boot-one",
    from_release="6.1.0",
    to_entry_id="an-entry",
    to_version="6.12.9",
    way=Way.FAST,
    requested_at=1000.0,
    limit=1.5,
)
LINE = f"root=/dev/vda {NONCE_KEY}={PENDING.nonce} quiet"


class Init:
    """Starts in so many answers; that there is another one to be had, a pipe tells."""

    def __init__(self, answers: int = 0) -> None:
        self.left, self.asked, self.closed = answers, 0, False
        self._reader, self._writer = os.pipe()
        if answers:
            os.write(self._writer, b"." * (answers + 1))

    @property
    def fds(self) -> frozenset[int]:
        return frozenset((self._reader,))

    def reached(self) -> Reached:
        self.asked += 1
        if self.left:
            self.left -= 1
            os.read(self._reader, 1)
            return Reached(False, "runlevel boot is being started")
        return Reached(True, "runlevel default is reached")

    def active(self, names: tuple[str, ...]) -> dict[str, str]:
        del names
        return {}

    def close(self) -> None:
        self.closed = True


class Stuck(Init):
    """One that never gets there, and says nothing about it."""

    def reached(self) -> Reached:
        self.asked += 1
        return Reached(False, "systemd is in emergency.target, not in its default target")


@dataclass
class Played:
    """What comes of it, written down instead of done."""

    log: list[str] = field(default_factory=list)
    unwritable: int = 0  # how often the records cannot be written

    def confirmed(self, pending: PendingHandoff, why: str) -> str:
        self.unwritable -= 1
        if self.unwritable >= 0:
            return "this boot is good, and that could not be written down: read-only file system"
        self.log.append(f"confirmed {pending.nonce}: {why}")
        return ""

    def left(self, pending: PendingHandoff, *, leaving: bool) -> str:
        self.log.append(f"left {pending.nonce}, leaving: {leaving}")
        return ""

    def give_up(self, why: str) -> None:
        self.log.append(f"given up: {why}")


class Scene:
    """A machine with a new boot, in a directory; its clock starts with the test."""

    def __init__(self, tmp_path: Path) -> None:
        self.root, self.state_dir = tmp_path / "root", tmp_path / "state"
        self.write("proc/cmdline", LINE + "\n")
        self.write("proc/sys/kernel/random/boot_id", "boot-two\n")
        self.begin, self.deeds, self.told = time.monotonic(), Played(), list[str]()

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def record(self, pending: PendingHandoff = PENDING) -> None:
        handoff.write(pending, str(self.state_dir))

    def wait(self, init: Init | None = None, wanted: Wanted | None = None, **options: object) -> Outcome:
        return Wait(
            usual=init or Init(),
            wanted=wanted or Wanted(),
            deeds=self.deeds,
            limit=3.0,
            tell=self.told.append,
            state_dir=str(self.state_dir),
            root=str(self.root),
            release="6.12.9",
            now=lambda: time.monotonic() - self.begin,
            **options,  # type: ignore[arg-type] # what a test has others of
        ).run()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_boot_that_reaches_what_is_usual_is_confirmed(scene: Scene) -> None:
    scene.record()
    init = Init(3)
    outcome = scene.wait(init)
    assert outcome == Outcome(End.CONFIRMED, "runlevel default is reached")
    assert scene.deeds.log == [f"confirmed {PENDING.nonce}: runlevel default is reached"]
    assert init.asked == 4 and init.closed
    assert scene.seconds < 1, "it slept although somebody told it to look again"


def test_the_record_says_that_it_has_arrived(scene: Scene) -> None:
    scene.record()
    scene.wait()
    noted = handoff.read(str(scene.state_dir))
    assert noted and noted.arrived_in == "boot-two"


def test_a_boot_without_our_nonce_is_none_of_its_business(scene: Scene) -> None:
    scene.record()
    scene.write("proc/cmdline", "root=/dev/vda quiet\n")
    assert scene.wait(Stuck()).end is End.NOTHING
    assert not scene.deeds.log


def test_a_nonce_that_no_record_knows_is_not_ours_once_everything_is_mounted(scene: Scene) -> None:
    scene.record(replace(PENDING, nonce="another"))
    outcome = scene.wait(Init(2))
    assert outcome.end is End.NOTHING and "no record" in outcome.why
    assert not scene.deeds.log


def test_a_boot_that_never_mounts_its_record_is_given_up_all_the_same(scene: Scene) -> None:
    assert scene.wait(Stuck()).end is End.GIVEN_UP
    assert 2.9 < scene.seconds < 6, "the policy's limit counts where the record cannot be read"


def test_a_record_that_comes_late_is_seen_and_its_own_limit_counts(scene: Scene) -> None:
    threading.Timer(0.4, scene.record, [replace(PENDING, limit=1.0)]).start()
    init = Init(1)
    init.reached = lambda: Reached(False, "it starts")  # type: ignore[method-assign] # and tells all the time
    outcome = scene.wait(init)
    assert outcome.end is End.GIVEN_UP and scene.seconds < 2.5
    assert scene.deeds.log == ["given up: it was not confirmed within 1 s: it starts"]


def test_a_boot_that_ends_elsewhere_is_given_up_when_its_limit_is_over(scene: Scene) -> None:
    scene.record()
    outcome = scene.wait(Stuck())
    assert outcome.end is End.GIVEN_UP
    assert outcome.why == (
        "it was not confirmed within 1.5 s: systemd is in emergency.target, not in its default target"
    )
    assert 1.4 < scene.seconds < 4


def test_another_kernel_than_the_one_that_was_meant_is_given_up_at_once(scene: Scene) -> None:
    scene.record(replace(PENDING, to_version="6.99.0"))
    outcome = scene.wait()
    assert outcome == Outcome(End.GIVEN_UP, "Linux 6.12.9 came up, and 6.99.0 was to")
    assert scene.seconds < 1


def test_a_health_check_that_fails_is_made_again_until_it_is_good(scene: Scene, tmp_path: Path) -> None:
    scene.record(replace(PENDING, limit=20.0))
    counter = tmp_path / "counter"
    check = f"echo >> {counter}; [ $(wc -l < {counter}) -ge 2 ]"
    outcome = scene.wait(wanted=Wanted(commands=(("/bin/sh", "-c", check),)))
    assert outcome == Outcome(End.CONFIRMED, "runlevel default is reached, and all health checks are good")


def test_a_health_check_that_never_is_good_is_the_reason(scene: Scene) -> None:
    scene.record()
    outcome = scene.wait(wanted=Wanted(commands=(("/bin/sh", "-c", "echo no database >&2; exit 1"),)))
    assert outcome.end is End.GIVEN_UP
    assert "not confirmed within 1.5 s" in outcome.why and "said: no database" in outcome.why


def test_a_health_check_that_hangs_does_not_hold_the_limit(scene: Scene) -> None:
    scene.record()
    assert scene.wait(wanted=Wanted(commands=(("/bin/sleep", "60"),))).end is End.GIVEN_UP
    assert scene.seconds < 6


def test_whoever_stops_it_is_obeyed_at_once_and_the_record_hears_of_it(scene: Scene) -> None:
    scene.record(replace(PENDING, limit=60.0))
    reader, writer = os.pipe()
    threading.Timer(0.3, os.write, (writer, b"\x0f")).start()
    assert scene.wait(Stuck(), stop=reader).end is End.STOPPED
    assert scene.deeds.log == [f"left {PENDING.nonce}, leaving: False"] and scene.seconds < 5


def test_a_machine_that_goes_down_again_is_not_waited_for(scene: Scene) -> None:
    scene.record(replace(PENDING, limit=60.0))
    init = Init()
    init.reached = lambda: Reached(False, "OpenRC takes this machine down", leaving=True)  # type: ignore[method-assign]
    assert scene.wait(init).end is End.STOPPED
    assert scene.deeds.log == [f"left {PENDING.nonce}, leaving: True"]


def test_also_in_the_middle_of_a_health_check(scene: Scene) -> None:
    scene.record(replace(PENDING, limit=60.0))
    reader, writer = os.pipe()
    threading.Timer(0.3, os.write, (writer, b"\x0f")).start()
    assert scene.wait(wanted=Wanted(commands=(("/bin/sleep", "60"),)), stop=reader).end is End.STOPPED
    assert scene.seconds < 8


def test_what_somebody_has_settled_is_not_waited_for_any_more(scene: Scene) -> None:
    scene.record(replace(PENDING, seen_in="boot-two"))
    assert scene.wait(Stuck()).end is End.NOTHING
    assert not scene.deeds.log


def test_a_good_boot_whose_disk_becomes_writable_late_is_confirmed_then(scene: Scene) -> None:
    scene.record(replace(PENDING, limit=20.0))
    scene.deeds.unwritable = 2
    assert scene.wait().end is End.CONFIRMED
    assert len(scene.deeds.log) == 1 and scene.seconds > 2


def test_a_good_boot_whose_disk_stays_read_only_is_left_alone(scene: Scene) -> None:
    scene.record()
    scene.deeds.unwritable = 1000
    assert scene.wait().end is End.CONFIRMED
    assert scene.deeds.log == [] and "read-only file system" in scene.told[-1]
    assert scene.seconds > 1.4


def test_where_nobody_is_to_wait_nobody_does(scene: Scene) -> None:
    scene.record(replace(PENDING, limit=0.0))
    assert scene.wait(Stuck()) == Outcome(End.NOTHING, "nobody is to wait for this boot to be found good")


def test_waiting_costs_next_to_nothing(scene: Scene) -> None:
    scene.record(replace(PENDING, limit=3.0))
    init, before = Stuck(), time.process_time()
    scene.wait(init)
    assert init.asked <= 3
    assert time.process_time() - before < 0.2


class Dog:
    """A watchdog's descriptor, and what is done with it."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.outlives_closing = log, True

    def set(self, seconds: float) -> int:
        self.log.append(f"set {seconds:.0f}")
        return int(seconds)

    def leave_running(self) -> None:
        self.log.append("leave")

    def stop(self) -> None:
        self.log.append("stop")


def watched(log: list[str], wanted: Callable[[], bool] = lambda: False) -> Watch:
    dog = Watchdog("watchdog0", "i6300ESB timer", "i6300esb", active=False, nowayout=False, timeout=30, most=2046)
    return Watch(wanted, lambda: (dog,), lambda path: Dog(log))  # type: ignore[arg-type,return-value] # a played one


def test_the_watchdog_runs_a_little_longer_than_the_limit_and_is_given_back(scene: Scene) -> None:
    scene.record(replace(PENDING, limit=100.0))
    log: list[str] = []
    scene.wait(Init(2), watch=watched(log))
    assert log == ["set 130", "leave", "stop"]


def test_a_boot_that_is_given_up_leaves_the_watchdog_running_for_its_way_down(scene: Scene) -> None:
    scene.record(replace(PENDING, to_version="6.99.0"))
    log: list[str] = []
    scene.wait(watch=watched(log))
    assert len(log) == 2 and log[0].startswith("set 2") and log[1] == "leave"


def test_a_watchdog_that_pid_1_is_to_have_is_not_touched(scene: Scene) -> None:
    scene.record()
    log: list[str] = []
    scene.wait(Init(2), watch=watched(log, lambda: True))
    assert not log
