# SPDX-License-Identifier: MIT
"""Units that are stopped through a real systemd, in namespaces of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from kexecd.config.policy import Policy
from kexecd.init import systemd_units
from kexecd.init.systemd import Systemd
from kexecd.init.systemd_units import StopUnits
from kexecd.kernel import freezer, proc
from kexecd.model import Process, Step
from kexecd.plan import ServiceSteps
from kexecd.teardown.classes import QuitClass, unit_of
from kexecd.teardown.processes import QuitProcesses
from kexecd.teardown.survey import running
from tests.namespaces.little_systemd import beside_systemd
from tests.namespaces.stage import eventually, notes, walk

STARTED_AGAIN = "ExecStart=sleep 1000\nRestart=always\nRestartSec=0"
TAKES_ITS_TIME = "ExecStart=sleep 1000\nExecStop=sh -c 'sleep 0.7; echo stopped > /run/service'"
RUNS_NOTHING = (
    "Type=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=sh -c 'sleep 0.7; echo stopped > /run/oneshot'"
)


def says(name: str, signal: str = "TERM") -> str:
    """A shell's program that says when it is ready, and that it was asked; single-quoted, for a unit."""
    trap = f'trap "echo asked > /run/{name}; exit" {signal}'
    return f"{trap}; : > /run/up/{name}; while :; do sleep 0.1; done"


OWN_SIGNAL = f"ExecStart=sh -c '{says('signal', 'USR1')}'\nKillSignal=USR1"
STUBBORN = "ExecStart=sh -c 'trap \"\" TERM; : > /run/up/stubborn; while :; do sleep 1; done'\nTimeoutStopSec=90"
LEAVES_ONE = f"Type=forking\nKillMode=process\nExecStart=sh -c '({says('left')}) & sleep 1000 & exit 0'"
CONTAINER = f"ExecStart=unshare --pid --fork sh -c '{says('guest')}'\nSlice=machine.slice"


def are_up(*names: str) -> None:
    """systemd calls a service active before its shell has set a trap."""
    for name in names:
        eventually(partial(os.path.exists, f"/run/up/{name}"))


def services(grace: float = 5.0) -> ServiceSteps:
    return Systemd().services(Policy(grace_guests=grace, grace_sessions=grace, grace_services=grace), running())


def steps(grace: float) -> tuple[Step, ...]:
    parts = services(grace)
    return (*parts.guests, *parts.sessions, *parts.services, *parts.hold, *parts.applications, *parts.basics)


def sleep_is_up() -> None:
    """systemd calls a service active before its child has joined its control group and called exec(2)."""
    eventually(lambda: [process.name for process in running()] == ["sleep"])


def who(processes: Iterable[Process]) -> list[tuple[int, int]]:
    """Pid and start: what does not change when one wakes up and falls asleep."""
    return sorted((process.pid, process.start) for process in processes)


def keep_pid_1_company() -> None:
    """So that it cannot be held still, and has to stop everything by itself."""
    Path("/sys/fs/cgroup/init.scope/cgroup.procs").write_text("0", encoding="ascii")
    assert "alone" in freezer.why_not()


def said(path: str) -> str:
    return Path(path).read_text(encoding="ascii").strip() if os.path.exists(path) else ""


@beside_systemd(
    {
        "again.service": STARTED_AGAIN,
        "slow.service": TAKES_ITS_TIME,
        "oneshot.service": RUNS_NOTHING,
        "signal.service": OWN_SIGNAL,
    }
)
def test_each_unit_stops_in_its_own_way_all_at_once_and_none_comes_back() -> None:
    are_up("signal")
    keep_pid_1_company()
    result, events, seconds = walk(*steps(10.0), within=30)
    assert not result.failures and notes(events) == ""
    assert said("/run/service") == said("/run/oneshot") == "stopped"
    assert said("/run/signal") == "asked"
    assert [process.name for process in running()] == []
    assert 0.7 < seconds < 5


@beside_systemd(
    {
        "again.service": STARTED_AGAIN,
        "slow.service": TAKES_ITS_TIME,
        "oneshot.service": RUNS_NOTHING,
        "signal.service": OWN_SIGNAL,
    }
)
def test_held_still_pid_1_has_stopped_what_only_it_can_and_starts_nothing_again() -> None:
    are_up("signal")
    parts = services()
    assert isinstance(parts.services[0], StopUnits)
    assert set(parts.services[0].units) == {"slow.service", "oneshot.service", "signal.service"}
    result, events, _ = walk(*steps(5.0), within=30)
    assert freezer.is_held() and not result.failures and notes(events) == ""
    assert said("/run/service") == said("/run/oneshot") == "stopped"
    assert said("/run/signal") == "asked"
    left = [(p.name, proc.cgroup(p.pid)) for p in running()]
    assert left == [], left
    freezer.release()
    sleep_is_up()  # which it is free to start again now


GROUND = "[Unit]\nDefaultDependencies=no\n[Service]\n"
TAKES_DISKS_AWAY = f"{GROUND}Type=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=touch /run/taken-away"


@beside_systemd({"blk-availability.service": TAKES_DISKS_AWAY, "daemon.service": f"{GROUND}{STARTED_AGAIN}"})
def test_what_others_stand_on_is_not_stopped_and_its_daemons_go_last() -> None:
    """An ExecStop of LVM's unmounts what lies on md and dm: that is ours to do, when nobody writes any more."""
    sleep_is_up()
    (daemon,) = who(running())
    for company in (False, True):
        if company:
            keep_pid_1_company()
        parts = services()
        assert daemon not in who(parts.covered)
        if parts.hold:
            walk(*(step for step in parts.applications))
        else:
            walk(*(step for step in parts.services))
        left = who(running())
        assert left == [daemon], left  # an assert of another process's is not explained otherwise
    assert said("/run/taken-away") == "" and not os.path.exists("/run/taken-away")


@beside_systemd({"again.service": STARTED_AGAIN, "slow.service": TAKES_ITS_TIME})
def test_units_can_be_stopped_by_a_pid_1_that_somebody_held_and_left() -> None:
    freezer.hold()
    eventually(freezer.is_held)
    _, events, seconds = walk(StopUnits("services", ("slow.service",), 5.0))
    assert said("/run/service") == "stopped" and notes(events) == "" and seconds < 5


@beside_systemd({"stubborn.service": STUBBORN, "leaver.service": LEAVES_ONE, "slow.service": TAKES_ITS_TIME})
def test_one_that_does_not_stop_in_time_is_named_and_killed_and_one_that_was_never_asked_is_asked() -> None:
    are_up("stubborn", "left")
    keep_pid_1_company()
    (stubborn,) = [p for p in running() if unit_of(proc.cgroup(p.pid)) == "stubborn.service" and p.ppid == 1]
    _, events, seconds = walk(*steps(2.0), QuitProcesses(5.0), within=30)
    assert "services: still stopping after 2 s: stubborn.service" in notes(events)
    assert proc.read(stubborn.pid) is None and not running()
    assert said("/run/left") == "asked", "killed without having been asked"
    assert seconds < 6


@beside_systemd({"web.service": CONTAINER, "other.service": STARTED_AGAIN})
def test_guests_and_sessions_go_before_the_services() -> None:
    are_up("guest")
    keep_pid_1_company()
    # Detached, or it would be one of ours and spared.
    scope = "systemd-run -q --scope --unit=session-7 sleep 999"
    subprocess.run(["sh", "-c", f"{scope} &"], check=True, timeout=10)
    eventually(lambda: "session-7.scope" in {unit_of(proc.cgroup(process.pid)) for process in running()})
    parts = services()
    names = [step.name for step in (*parts.guests, *parts.sessions, *parts.services)]
    assert names == ["guests", "sessions", "services"]
    covered = {unit_of(proc.cgroup(process.pid)) for process in parts.covered}
    assert covered == {"web.service", "other.service", "session-7.scope"}
    walk(*parts.guests)
    assert said("/run/guest") == "asked"
    assert {unit_of(proc.cgroup(process.pid)) for process in running()} == {"session-7.scope", "other.service"}
    walk(*parts.sessions)
    assert {unit_of(proc.cgroup(process.pid)) for process in running()} == {"other.service"}
    _, events, _ = walk(*parts.services)
    assert not running() and notes(events) == ""


@beside_systemd({"again.service": STARTED_AGAIN})
def test_a_unit_that_has_gone_meanwhile_is_no_complaint() -> None:
    result, events, _ = walk(StopUnits("services", ("again.service", "gone.service"), 5.0))
    assert not running() and not result.failures
    assert notes(events) == ""


@beside_systemd({"web.service": STARTED_AGAIN})
def test_with_a_pid_1_that_does_not_answer_everybody_is_asked_directly() -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(systemd_units, "ANSWERING", 0.5)
    sleep_is_up()
    freezer.hold()
    try:
        parts = services()
        assert "systemd does not tell its units" in parts.remark
        assert [type(step) for step in parts.services] == [QuitClass]
        (web,) = (process for process in running() if unit_of(proc.cgroup(process.pid)) == "web.service")
        assert who([web]) == who(parts.covered)
        walk(*parts.services)
        eventually(lambda: (proc.read(web.pid) or web).state == "Z" or proc.read(web.pid) is None)
    finally:
        freezer.release()
        patch.undo()
