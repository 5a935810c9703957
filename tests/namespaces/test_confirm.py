# SPDX-License-Identifier: MIT
"""Our unit beside a real systemd: it confirms a boot, or has that systemd take the machine down, wherever it is.

PID 1 says what it comes to instead of doing it. The kernel's own ways to restart are covered up before anything begins.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

from kexecd import handoff, history
from kexecd.cli import confirm
from kexecd.config.policy import Policy
from kexecd.handoff import PendingHandoff
from kexecd.history import Outcome
from kexecd.init.detect import detect
from kexecd.kernel import freezer, sysfs
from kexecd.model import NONCE_KEY, Way
from kexecd.wayback import giveup, usual
from tests.namespaces.little_systemd import beside_systemd
from tests.namespaces.stage import eventually
from tests.namespaces.test_usual import confirm_unit, lines, systemctl

TOP = Path(__file__).parents[2]
SYSTEM = Path("/etc/systemd/system")
SHUTDOWN = Path("/usr/lib/systemd/systemd-shutdown")
SYSRQ = "/proc/sysrq-trigger"
VERB, CHECK = Path("/run/verb"), Path("/var/lib/check")  # where nobody else may write
IDLE = {"idle.service": "ExecStart=sleep 1000"}
WATCH = "from tests.namespaces import test_confirm; test_confirm.watch()"


def watch() -> None:
    """What `kexecctl confirm` is, with a policy of ours, and less patience with a PID 1 that does nothing."""
    giveup.ACCEPTING, usual.ANSWERING = 4.0, 2.0
    policy = Policy(confirm_limit=300.0, confirm_commands=(str(CHECK),), confirm_watchdog=False)
    print(confirm._waited(policy, detect(), confirm._stop_requests()), flush=True)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, timeout=10)


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def put_in_place(*, good: bool, seconds: float) -> None:
    """A boot that a kexec led to, with `seconds` left; its only health check is good, or is not."""
    if os.path.exists(SYSRQ):  # not every kernel has it
        mount("--bind", "/dev/null", SYSRQ)
        assert stat.S_ISCHR(os.stat(SYSRQ).st_mode)
    for point in ("/var/lib", "/sys/kernel"):
        mount("-t", "tmpfs", "-o", "mode=755", "none", point)
    script(Path("/run/shutdown"), f'echo "$1" > {VERB}.new; mv {VERB}.new {VERB}; exec sleep 1000')
    mount("--bind", "/run/shutdown", str(SHUTDOWN))
    Path("/run/cmdline").write_text(f"root=/dev/vda {NONCE_KEY}=0123\n", encoding="ascii")
    mount("--bind", "/run/cmdline", "/proc/cmdline")
    script(CHECK, "exit 0" if good else "echo the database is down; exit 1")
    pending = PendingHandoff(
        nonce="0123",
        from_boot_id="another",
        from_release="6.1.0",
        to_entry_id="an-entry",
        to_version=sysfs.kernel_release(),
        way=Way.FAST,
        requested_at=1000.0,
        limit=sysfs.uptime() + seconds,
    )
    handoff.write(pending)
    for point in ("usr-lib-systemd-systemd\\x2dshutdown", "var-lib", "proc-cmdline", "proc-sysrq\\x2dtrigger"):
        stays = SYSTEM / f"{point}.mount.d/stays.conf"  # what is there in the place of something else stays to the end
        stays.parent.mkdir(parents=True)
        stays.write_text("[Unit]\nDefaultDependencies=no\n", encoding="utf-8")
    unit = confirm_unit().replace("ExecStart=sleep 1000", f"ExecStart={sys.executable} -c '{WATCH}'")
    unit = unit.replace("[Service]", f"[Service]\nWorkingDirectory={TOP}\nStandardOutput=append:/run/said\n", 1)
    (SYSTEM / "kexecd-confirm.service").write_text(unit, encoding="utf-8")
    (SYSTEM / "default.target").write_text(lines("AllowIsolate=yes"), encoding="utf-8")
    (SYSTEM / "emergency.target").write_text(lines("AllowIsolate=yes"), encoding="utf-8")
    systemctl("daemon-reload")


def comes_to() -> str:
    """What PID 1 does when everything is stopped: the word that it gives to systemd-shutdown(8)."""
    eventually(VERB.exists, 40)
    return VERB.read_text(encoding="utf-8").strip()


def failure() -> str:
    pending = handoff.read()
    assert pending
    return pending.failure


@beside_systemd(IDLE)
def test_a_boot_that_becomes_good_is_confirmed_and_the_unit_ends() -> None:
    put_in_place(good=False, seconds=60)
    systemctl("start", "kexecd-confirm.service")
    systemctl("start", "--no-block", "default.target")
    eventually(lambda: (pending := handoff.read()) is not None and pending.arrived_in == sysfs.boot_id(), 20)
    assert systemctl("is-active", "kexecd-confirm.service") == "active"
    script(CHECK, "exit 0")
    eventually(lambda: systemctl("is-active", "kexecd-confirm.service") == "inactive", 30)
    (attempt,) = history.attempts()
    assert attempt.outcome is Outcome.CONFIRMED and attempt.boot_id == sysfs.boot_id(), attempt
    assert attempt.reason == "default.target is reached, and all health checks are good"
    assert not VERB.exists()


@beside_systemd(IDLE)
def test_a_boot_that_is_not_good_in_time_goes_down_through_systemd() -> None:
    put_in_place(good=False, seconds=4)
    systemctl("start", "kexecd-confirm.service")
    systemctl("start", "--no-block", "default.target")
    assert comes_to() == "reboot"
    assert "was not confirmed within" in failure() and "the database is down" in failure(), failure()
    assert '"act": "firmware"' in Path("/run/kexecd/state.json").read_text(encoding="utf-8")


@beside_systemd(IDLE)
def test_so_does_one_that_ends_in_emergency_mode() -> None:
    put_in_place(good=True, seconds=6)
    systemctl("start", "kexecd-confirm.service")
    systemctl("isolate", "emergency.target")
    assert comes_to() == "reboot"
    assert "systemd is in emergency.target, not in its default target" in failure(), failure()


@beside_systemd(IDLE)
def test_with_a_pid_1_that_stands_still_nobody_waits_for_it() -> None:
    """What it is told in the end it is told by a signal, and is let go for that: everything is closed by then."""
    put_in_place(good=False, seconds=15)
    systemctl("start", "kexecd-confirm.service")
    eventually(lambda: (pending := handoff.read()) is not None and pending.arrived_in == sysfs.boot_id(), 20)
    freezer.hold()
    eventually(freezer.is_held)
    assert comes_to() == "reboot"
    assert "systemd does not answer" in failure(), failure()


@beside_systemd(IDLE)
def test_a_restart_before_that_is_no_failure() -> None:
    put_in_place(good=False, seconds=60)
    systemctl("start", "kexecd-confirm.service")
    eventually(lambda: (pending := handoff.read()) is not None and pending.arrived_in == sysfs.boot_id(), 20)
    systemctl("start", "--no-block", "reboot.target")
    assert comes_to() == "reboot"
    (attempt,) = history.attempts()
    assert attempt.outcome is Outcome.UNCONFIRMED and not failure(), attempt


@beside_systemd(IDLE)
def test_waiting_costs_next_to_nothing() -> None:
    put_in_place(good=False, seconds=60)
    systemctl("start", "kexecd-confirm.service")
    eventually(lambda: (pending := handoff.read()) is not None and pending.arrived_in == sysfs.boot_id(), 20)
    time.sleep(1.0)
    before = cpu()
    assert 0 < before < 60, "it is counted"
    time.sleep(5.0)
    assert cpu() - before < 0.1


def cpu() -> float:
    """Seconds of the whole unit, those of the programs that it has started too."""
    return int(systemctl("show", "--property=CPUUsageNSec", "--value", "kexecd-confirm.service")) / 1e9


@beside_systemd(IDLE)
def test_whoever_stops_the_wait_stops_it_and_nothing_else() -> None:
    put_in_place(good=False, seconds=60)
    systemctl("start", "kexecd-confirm.service")
    eventually(lambda: (pending := handoff.read()) is not None and pending.arrived_in == sysfs.boot_id(), 20)
    systemctl("stop", "kexecd-confirm.service")
    assert systemctl("show", "--property=Result", "--value", "kexecd-confirm.service") == "success"
    assert not history.attempts() and not failure() and not VERB.exists()
