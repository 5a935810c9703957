# SPDX-License-Identifier: MIT
"""What applications have handed over, on an init's own way down: a real holder, real files, every command by its name.

The machine is that of the tests of `kexecctl service`: a /boot, an /etc, a /run and a /var/lib of the test's own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from kexecd import client, state
from kexecd.cli import carry
from kexecd.errors import ExitCode
from kexecd.kernel import sysfs
from kexecd.liveupdate import luo, steps
from kexecd.liveupdate.place import summary
from kexecd.model import Act, State, Way
from kexecd.record import RUN_DIR
from tests.namespaces.isolated import isolated
from tests.namespaces.test_service import Machine, kexecctl, start, stop
from tests.unit.liveupdate.fake_kernel import FakeKernel
from tests.unit.liveupdate.holding import content, memfd

LIVE = Path("/var/lib/kexecd/live")
POLICY = Path("/etc/kexecd/kexecd.yaml")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def begin(machine: Machine) -> None:
    """With a holder, and a table in its hands."""
    machine.begin()
    assert kexecctl("state", "serve", "--background") == ExitCode.OK
    client.put("table", memfd(b"x" * 10000))


def next_boot(machine: Machine) -> None:
    """/run is empty, the boot id another one, and the holder is started anew."""
    os.kill(int(Path(RUN_DIR, "state.pid").read_text()), signal.SIGKILL)
    shutil.rmtree(RUN_DIR)
    machine.patch.setattr(sysfs, "boot_id", lambda root="/": "the next boot")
    assert kexecctl("state", "serve", "--background") == ExitCode.OK


def freeze() -> None:
    assert kexecctl("service", "freeze") == ExitCode.OK


def assert_there() -> None:
    assert content(client.get("table") or -1) == b"x" * 10000
    assert not list(LIVE.iterdir()), "what has come back is not kept on the disk"


@isolated
def test_a_kexec_that_pid_1_makes_takes_it_along(machine: Machine) -> None:
    begin(machine)
    start()
    stop()
    assert summary(RUN_DIR).state == "prepared"
    freeze()
    assert (summary(RUN_DIR).state, summary(RUN_DIR).carrier) == ("frozen", "file")
    assert (LIVE / "index.json").exists()
    next_boot(machine)
    assert summary(RUN_DIR).state == "updated"
    assert kexecctl("finish") == ExitCode.OK
    assert summary(RUN_DIR).state == "normal"
    assert_there()


@isolated
def test_a_restart_through_the_firmware_does_too_whoever_asked_for_it(machine: Machine) -> None:
    begin(machine)
    state.reached(State.PREPARED, Way.ORDERLY, Act.FIRMWARE, loaded=False, run_dir=RUN_DIR)
    freeze()
    assert summary(RUN_DIR).why == "no kexec of kexecd's follows"
    next_boot(machine)
    assert_there()
    machine.patch.setenv("RUNLEVEL", "6")
    freeze()
    next_boot(machine)
    assert_there()


@isolated
def test_a_machine_that_stays_freezes_nothing(machine: Machine) -> None:
    begin(machine)
    for level in ("", "1", "2"):
        machine.patch.setenv("RUNLEVEL", level)
        freeze()
        assert summary(RUN_DIR).state == "normal", level


@isolated
def test_a_restart_that_would_lose_it_is_refused_and_the_next_boot_told_so(machine: Machine) -> None:
    begin(machine)
    huge = memfd()
    os.ftruncate(huge, 1 << 50)
    client.put("huge", huge)
    start()
    stop()
    assert not machine.is_loaded()
    assert "cannot prepare what applications have handed over: it takes 1073741824 MiB" in machine.refused
    os.ftruncate(huge, 1 << 51)


@isolated
def test_unless_the_policy_goes_without(machine: Machine) -> None:
    machine.begin()
    POLICY.write_text("state:\n  if-lost: go\n")
    assert kexecctl("state", "serve", "--background") == ExitCode.OK
    huge = memfd()
    os.ftruncate(huge, 1 << 50)
    client.put("huge", huge)
    start()
    stop()
    assert machine.is_loaded() and machine.refused == ""


@isolated
def test_the_policy_says_how_much_a_user_may_have(machine: Machine) -> None:
    machine.begin()
    POLICY.write_text("state:\n  count: 1\n  size: 1\n")
    assert kexecctl("state", "serve", "--background") == ExitCode.OK
    os.setresuid(1000, 1000, 0)
    client.put("one", memfd(b"x"))
    with pytest.raises(client.NotDone, match="1 of 1 are held for this user already"):
        client.put("two", memfd(b"x"))
    with pytest.raises(client.NotDone, match="this user would have 2.0 MiB held, and 1.0 MiB are the limit"):
        client.put("one", memfd(bytes(2 << 20)))
    os.setresuid(0, 0, 0)


@isolated
def test_cancelled_everybody_has_his_own_again(machine: Machine) -> None:
    begin(machine)
    start()
    stop()
    assert kexecctl("cancel") == ExitCode.OK
    assert summary(RUN_DIR).state == "normal"
    client.put("another", memfd(b"y"))


@isolated
def test_a_holder_that_has_something_stays_and_an_empty_one_quits_when_it_is_asked(machine: Machine) -> None:
    begin(machine)
    pid = int(Path(RUN_DIR, "state.pid").read_text())
    held = os.pidfd_open(pid)
    signal.pidfd_send_signal(held, signal.SIGTERM)
    client.drop("table")  # answered after the signal was
    signal.pidfd_send_signal(held, signal.SIGTERM)
    os.waitpid(pid, 0)
    assert not Path(RUN_DIR, "state.pid").exists() and not Path(RUN_DIR, "state").exists()


@isolated
def test_what_was_to_stay_in_memory_is_written_down_if_there_is_no_jump_after_all(machine: Machine) -> None:
    FakeKernel(machine.patch)  # with live update, which this one has not
    begin(machine)
    assert carry.written_after_all() == "", "nothing is frozen"
    with client.Connection() as connection:
        connection.ask({"do": "freeze", "carrier": "memory", "why": "a test"})
    assert (summary(RUN_DIR).state, summary(RUN_DIR).carrier) == ("frozen", "memory")
    # Whoever walks the plan has the session too; the child that writes has nothing open.
    machine.patch.setattr(steps, "_kept", [os.open(os.devnull, os.O_RDONLY)])
    assert carry.written_after_all() == "1 memfd, 10000 bytes, go by file: there is no jump after all"
    machine.patch.setattr(luo, "available", lambda: False)
    next_boot(machine)
    assert_there()


@isolated
def test_check_plan_and_status_foretell_what_carries_it_and_why(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(machine)
    why = "the running kernel has no live update, or it is not switched on"
    capfd.readouterr()
    kexecctl("check", "--json")
    (note,) = [one for one in json.loads(capfd.readouterr().out)["findings"] if one["check"] == "handed-over"]
    assert note["severity"] == "note"
    assert note["why"].startswith("1 memfd of applications go by file, in about 0.0 s: ") and note["why"].endswith(why)
    assert kexecctl("state", "status", "--json") == ExitCode.OK
    forecast = json.loads(capfd.readouterr().out)["forecast"]
    assert (forecast["carrier"], forecast["why"]) == ("file", why)
    assert kexecctl("plan", "--now", "--json") == ExitCode.OK
    phases = {one["name"]: one["steps"] for one in json.loads(capfd.readouterr().out)["phases"]}
    (step,) = phases["prepare state"]
    assert step["does"].startswith("see that what applications have handed over can be carried, by file")
    assert phases["state"]


@isolated
def test_a_second_holder_says_that_there_is_one(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    begin(machine)
    assert kexecctl("state", "serve", "--background") == ExitCode.BUSY
    assert "another holder listens at /run/kexecd/state already" in capfd.readouterr().err
