# SPDX-License-Identifier: MIT
"""Units that are stopped through a real systemd, in namespaces of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kexecd.init.systemd import Systemd
from kexecd.init.systemd_units import StopUnits
from kexecd.kernel import proc
from kexecd.model import Step
from kexecd.teardown.classes import unit_of
from kexecd.teardown.processes import QuitProcesses
from kexecd.teardown.survey import running
from tests.namespaces.little_systemd import beside_systemd
from tests.namespaces.stage import eventually, notes, walk

STARTED_AGAIN = "ExecStart=sleep 1000\nRestart=always\nRestartSec=0"
TAKES_ITS_TIME = "ExecStart=sleep 1000\nExecStop=sh -c 'sleep 0.7; echo stopped > /run/service'"
RUNS_NOTHING = (
    "Type=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=sh -c 'sleep 0.7; echo stopped > /run/oneshot'"
)
OWN_SIGNAL = (
    "ExecStart=sh -c 'trap \"echo usr1 > /run/signal; exit\" USR1; while :; do sleep 0.1; done'\nKillSignal=USR1"
)
STUBBORN = "ExecStart=sh -c 'trap \"\" TERM; while :; do sleep 1; done'\nTimeoutStopSec=90"
LEAVES_ONE = (
    "Type=forking\nKillMode=process\n"
    "ExecStart=sh -c '(trap \"echo asked > /run/left; exit\" TERM; while :; do sleep 0.1; done) & sleep 1000 & exit 0'"
)
CONTAINER = (
    "ExecStart=unshare --pid --fork sh -c 'trap \"echo asked > /run/guest; exit\" TERM; while :; do sleep 0.1; done'\n"
    "Slice=machine.slice"
)


def steps(grace: float) -> tuple[Step, ...]:
    parts = Systemd().services(grace, running())
    return (*parts.guests, *parts.sessions, *parts.services, *parts.basics)


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
    result, events, seconds = walk(*steps(10.0), within=30)
    assert not result.failures and notes(events) == ""
    assert said("/run/service") == said("/run/oneshot") == "stopped"
    assert said("/run/signal") == "usr1"
    assert [process.name for process in running()] == []
    assert 0.7 < seconds < 5


@beside_systemd({"stubborn.service": STUBBORN, "leaver.service": LEAVES_ONE, "slow.service": TAKES_ITS_TIME})
def test_one_that_does_not_stop_in_time_is_named_and_killed_and_one_that_was_never_asked_is_asked() -> None:
    (stubborn,) = [p for p in running() if unit_of(proc.cgroup(p.pid)) == "stubborn.service" and p.ppid == 1]
    _, events, seconds = walk(*steps(2.0), QuitProcesses(5.0), within=30)
    assert "services: still stopping after 2 s: stubborn.service" in notes(events)
    assert proc.read(stubborn.pid) is None and not running()
    assert said("/run/left") == "asked", "killed without having been asked"
    assert seconds < 6


@beside_systemd({"web.service": CONTAINER, "other.service": STARTED_AGAIN})
def test_guests_and_sessions_go_before_the_services() -> None:
    # Detached, or it would be one of ours and spared.
    scope = "systemd-run -q --scope --unit=session-7 sleep 999"
    subprocess.run(["sh", "-c", f"{scope} &"], check=True, timeout=10)
    eventually(lambda: "session-7.scope" in {unit_of(proc.cgroup(process.pid)) for process in running()})
    parts = Systemd().services(5.0, running())
    names = [step.name for step in (*parts.guests, *parts.sessions, *parts.services)]
    assert names == ["guests", "sessions", "services"]
    assert {process.name for process in running()} - {process.name for process in parts.covered} == set()
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
