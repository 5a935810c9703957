# SPDX-License-Identifier: MIT
"""Whatever goes wrong at whatever step: before the commit point nothing has happened, after it the machine restarts.

The steps are taken from the plan that this very machine would walk, so that a new one cannot escape.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.errors import ExitCode
from tests.faults import Fault
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Completed, Guest, Mark
from tests.vm.lab.snapshot import Snapshot

HOOK = """#!/bin/sh
echo "$KEXECD_CALL" >> /root/hook.log
"""

LIB = Path(__file__).parents[1]
SECONDS = 60.0
"""For a restart to come about, in the emulated guest."""


def prepare(guest: Guest) -> None:
    guest.run("systemctl", "stop", "systemd-fsckd.service", "systemd-fsckd.socket")  # it ends by itself when it is idle
    guest.put("/root/faults.py", (LIB / "faults.py").read_bytes())
    guest.put("/root/break_step.py", (LIB / "vm" / "break_step.py").read_bytes())
    guest.put("/etc/kexecd/hooks.d/50-log", HOOK.encode(), mode=0o755)


def break_step(guest: Guest, *arguments: str) -> Completed:
    return guest.run("/usr/bin/python3", "/root/break_step.py", *arguments, timeout=120, check=False)


def places(guest: Guest, side: str, *arguments: str) -> list[tuple[int, str]]:
    done = break_step(guest, "list", side, *arguments)
    assert done.exit_code == 0, done.stderr
    return [(int(number), str(name)) for number, name in json.loads(done.stdout)]


SCENE = """
cat /proc/sys/kernel/random/boot_id
systemctl list-units --type=service --state=running --plain --no-legend | cut -d' ' -f1 | sort
cat /sys/kernel/kexec_loaded
grep -v loaded_at /run/kexecd/image.json
cat /var/lib/kexecd/pending.json
ls -I events.jsonl /run/kexecd
cat /proc/self/mountinfo /proc/swaps
"""
"""Everything that a restart which is given up has to leave as it was."""


def scene(guest: Guest) -> str:
    # The standby is done when it lets go of the lock.
    guest.run("flock", "--timeout", "60", "/run/kexecd/lock", "true", timeout=70)
    return guest.run("sh", "-c", f"exec 2>&1{SCENE}", check=False).stdout


@pytest.fixture(scope="module")
def machine(systemd_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """One guest for everything that has to leave it as it is."""
    with Guest.from_snapshot(systemd_snapshot, workdir=tmp_path_factory.mktemp("faults")) as guest:
        prepare(guest)
        yield guest


def assert_nothing_happens(guest: Guest, fault: Fault, *arguments: str) -> None:
    """With this fault at any step before the commit point."""
    found = places(guest, "before", *arguments)
    assert "record/record" in {name for _, name in found}
    before = scene(guest)
    for number, name in found:
        if name == "hand over/hand over":
            continue  # it is done when PID 1 has accepted, and then the machine goes down
        guest.run("rm", "-f", "/root/hook.log")
        done = break_step(guest, str(number), fault, *arguments)
        lines = done.stdout.splitlines()
        assert lines and "refused" in lines[-1], f"{name}, {fault}: {done}"
        assert done.exit_code == ExitCode.NOT_RESTARTED, done.stdout
        assert scene(guest) == before, f"{name}, {fault}:\n{done.stdout}"
        calls = guest.run("sh", "-c", "cat /root/hook.log 2>/dev/null", check=False).stdout.split()
        assert calls in ([], ["prepare", "cancel"]), f"{name}, {fault}: {calls}\n{done.stdout}"


@pytest.mark.parametrize("fault", Fault)
def test_before_the_commit_point_nothing_has_happened(machine: Guest, fault: Fault) -> None:
    assert_nothing_happens(machine, fault, "--fast")


@pytest.mark.parametrize("way", [("--now",), ()], ids=["now", "orderly"])
def test_nor_in_the_other_ways_which_begin_with_the_same_steps(machine: Guest, way: tuple[str, ...]) -> None:
    assert_nothing_happens(machine, Fault.KILLED, *way)


@pytest.mark.parametrize(("fault", "another"), [(Fault.ERROR, ()), (Fault.KILLED, ("--append", "another"))])
def test_an_image_that_was_there_is_there_again(machine: Guest, fault: Fault, another: tuple[str, ...]) -> None:
    """That of an earlier `load`, which is used; and one that another entry has taken the place of."""
    machine.run("kexecctl", "load", "--append", "earlier", timeout=60)
    machine.run("systemctl", "start", "kexecd.service", timeout=60)  # a load has it come up, whenever it is ready
    try:
        assert_nothing_happens(machine, fault, "--fast", *another)
    finally:
        machine.run("kexecctl", "unload", timeout=60)


def test_after_the_commit_point_a_killed_kexecd_still_restarts_the_machine(
    systemd_snapshot: Snapshot, tmp_path: Path
) -> None:
    with Guest.from_snapshot(systemd_snapshot, workdir=directory(tmp_path, "first")) as guest:
        prepare(guest)
        guest.run("kexecctl", "load", timeout=60)
        found = places(guest, "after", "--fast")
        snapshot = guest.snapshot("loaded")
    assert {"applications", "processes", "unmount", "read-only", "verdict"} <= {name.split("/")[0] for _, name in found}
    for number, name in found:
        with Guest.from_snapshot(snapshot, workdir=directory(tmp_path, f"step-{number}")) as guest:
            mark = guest.mark()
            guest.spawn("/usr/bin/python3", "/root/break_step.py", str(number), Fault.KILLED, "--fast")
            ended = how_it_ended(guest, mark)
            said = "\n".join(line.text for line in guest.lines(mark))
        assert ended in (Kind.KEXEC, Kind.FIRMWARE), f"killed at {name}: {ended}\n{said}"
        assert "the standby goes on" in said, f"killed at {name}\n{said}"


def directory(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def how_it_ended(guest: Guest, mark: Mark) -> Kind:
    """Which restart came about first; no need to wait for the new system."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if any("Starting new kernel" in line.text for line in guest.lines(mark)):
            return Kind.KEXEC
        if any(event.name == "RESET" for event in guest.events(mark)):
            return Kind.FIRMWARE
        guest.wait_for_change(0.5)
    return Kind.NONE
