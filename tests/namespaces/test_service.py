# SPDX-License-Identifier: MIT
"""kexecctl service: what becomes of the image and of the next boot's record, in each way in which an init stops it.

Everything is real but the kernel's two calls: settings, kernels, hooks, children, records, in a /boot, an /etc, a /run
and a /sys of the test's own.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import handoff, state
from kexecd import record as records
from kexecd.cli import service
from kexecd.cli.choosing import boot_partitions, look
from kexecd.cli.main import main
from kexecd.cli.preload import NOTHING_NAMED
from kexecd.cli.steps import Load
from kexecd.config.hooks import DIRECTORY
from kexecd.errors import ExitCode
from kexecd.handoff import PendingHandoff
from kexecd.init import pid1, wishes
from kexecd.init.pid1 import Pid1
from kexecd.kernel import syscalls, sysfs
from kexecd.model import Act, ImageRecord, State, Way
from kexecd.record import RUN_DIR
from tests.golden.kernels import initrd, kernel
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import command

OLD, NEW = "6.1.0-9", "6.12.9"
LOADED = Path("/sys/kernel/kexec_loaded")


class Machine:
    """One that can kexec, with Linux OLD in /boot, and nothing in memory."""

    def __init__(self, patch: pytest.MonkeyPatch, directory: Path) -> None:
        self.patch, self.directory, self.journal = patch, directory, directory / "journal"

    def begin(self) -> None:
        """In the namespaces of the test."""
        for point in ("/boot", "/etc", "/run", "/sys", "/var/lib"):
            command("mount", "-t", "tmpfs", "-o", "mode=755", "own", point)
        LOADED.parent.mkdir()
        self.tell_loaded(0)
        os.makedirs(DIRECTORY)
        self.install(OLD)
        patch = self.patch
        patch.setattr(wishes, "ONE_SHOT", (str(self.directory / "nokexec"), str(self.directory / "no-kexec-reboot")))
        patch.setattr(syscalls, "kexec_file_load", self.file_load)
        patch.setattr(syscalls, "kexec_unload", lambda: self.tell_loaded(0))
        for name in ("RC_REBOOT", "RC_GOINGDOWN", "RC_RUNLEVEL", "RUNLEVEL"):
            patch.delenv(name, raising=False)

    def file_load(self, kernel_fd: int, initrd_fd: int, cmdline: bytes, flags: int = 0) -> None:
        self.tell_loaded(1)

    def tell_loaded(self, value: int) -> None:
        LOADED.write_text(f"{value}\n")

    def install(self, version: str) -> None:
        Path(f"/boot/vmlinuz-{version}").write_bytes(kernel(version))
        Path(f"/boot/initrd.img-{version}").write_bytes(initrd())

    def settings(self, text: str) -> None:
        os.makedirs("/etc/conf.d", exist_ok=True)
        Path("/etc/conf.d/kexec").write_text(text)

    def hook(self, body: str) -> None:
        """One that vetoes with a body that fails, and writes down each call."""
        file = Path(DIRECTORY, "50-it")
        file.write_text(f'#!/bin/sh\necho "$KEXECD_CALL" >> {self.journal}\n{body}\n')
        file.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.journal.read_text().split() if self.journal.exists() else []

    def is_loaded(self) -> bool:
        return sysfs.kexec_loaded()

    @property
    def image(self) -> ImageRecord:
        found = records.loaded_record(RUN_DIR)
        assert found
        return found

    def put(self, *, named: bool = False) -> ImageRecord:
        """An image of ours in memory: Linux OLD, chosen by itself or named."""
        with boot_partitions():
            Load(look("/"), NOTHING_NAMED).load()
        records.write(replace(self.image, named=named), RUN_DIR)
        return self.image

    @property
    def refused(self) -> str:
        """Why there is to be no kexec, for the next boot."""
        return self.pending.refused if self.pending else "nothing was written down"

    @property
    def pending(self) -> PendingHandoff | None:
        return handoff.read()

    def next_boot(self) -> str:
        """What the boot after this one says of itself, without a nonce on its command line."""
        self.patch.setattr(sysfs, "boot_id", lambda root="/": "the next boot")
        return handoff.arrival().sentence()


def kexecctl(*words: str) -> int:
    return int(main(list(words)))


def stop(going: str = "reboot") -> None:
    assert kexecctl("service", "stop", "--going", going) == ExitCode.OK


def start() -> None:
    assert kexecctl("service", "start") == ExitCode.OK


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


# A machine that is armed


@isolated
def test_an_armed_machine_that_restarts_loads_prepares_and_writes_down_what_is_to_come(machine: Machine) -> None:
    machine.begin()
    machine.hook("exit 0")
    start()
    assert state.is_armed(RUN_DIR) and not machine.is_loaded()
    stop()
    assert machine.is_loaded() and machine.image.version == OLD and not machine.image.named
    assert machine.pending and machine.pending.nonce == machine.image.nonce and not machine.pending.refused
    assert machine.calls == ["prepare"]
    reached = state.read(RUN_DIR)
    assert reached and (reached.state, reached.way, reached.act) == (State.PREPARED, Way.ORDERLY, Act.KEXEC)


@isolated
def test_a_machine_that_is_not_armed_restarts_through_the_firmware(machine: Machine) -> None:
    machine.begin()
    stop()
    assert not machine.is_loaded() and machine.pending is None and machine.calls == []


@isolated
def test_a_boot_that_is_another_one_is_not_armed(machine: Machine) -> None:
    machine.begin()
    start()
    machine.patch.setattr(sysfs, "boot_id", lambda root="/": "another boot")
    assert not state.is_armed(RUN_DIR)


@isolated
def test_stopping_the_service_by_hand_disarms_and_leaves_what_others_have_loaded(machine: Machine) -> None:
    machine.begin()
    start()
    machine.tell_loaded(1)
    stop("stay")
    assert not state.is_armed(RUN_DIR) and machine.is_loaded()


@isolated
def test_on_openrc_it_takes_back_what_we_have_loaded(machine: Machine) -> None:
    machine.begin()
    start()
    machine.put()
    stop("stay")
    assert machine.is_loaded(), "elsewhere it stays"
    os.mkdir("/run/openrc")
    stop("stay")
    assert not machine.is_loaded()


@isolated
def test_but_not_under_a_restart_of_ours_that_is_under_way(machine: Machine) -> None:
    machine.begin()
    os.mkdir("/run/openrc")
    machine.put()
    state.reached(State.PREPARED, Way.FAST, Act.KEXEC, loaded=True, run_dir=RUN_DIR)
    stop("stay")
    assert machine.is_loaded()


@isolated
def test_whoever_switches_off_finds_no_image_that_could_be_jumped_into(machine: Machine) -> None:
    machine.begin()
    start()
    machine.tell_loaded(1)
    stop("down")
    assert not machine.is_loaded() and machine.pending is None and machine.calls == []


@isolated
def test_a_restart_that_was_all_prepared_and_then_became_a_poweroff_is_explained(machine: Machine) -> None:
    machine.begin()
    start()
    stop()
    stop("down")
    assert not machine.is_loaded() and state.read(RUN_DIR) is None
    assert "went down in another way" in machine.next_boot()


# Who wants the firmware


@isolated
def test_a_file_that_means_the_firmware_once_drops_even_a_foreign_image_and_is_removed(machine: Machine) -> None:
    machine.begin()
    for name in ("nokexec", "no-kexec-reboot"):
        state.clear(RUN_DIR)  # another restart
        (machine.directory / name).touch()
        machine.tell_loaded(1)
        stop()
        assert not machine.is_loaded() and not (machine.directory / name).exists()
        assert name in machine.refused
    assert f"there was no kexec: there is a file {machine.directory}/no-kexec-reboot" in machine.next_boot()


@isolated
def test_what_was_decided_holds_when_the_service_is_stopped_again(machine: Machine) -> None:
    """The daemon asks when logind says that the machine goes down, and PID 1 when it stops the service."""
    machine.begin()
    start()
    (machine.directory / "nokexec").touch()
    for _ in range(2):
        stop()
        assert not machine.is_loaded() and "nokexec" in machine.refused
    state.reached(State.PREPARED, Way.ORDERLY, Act.FIRMWARE, loaded=False, run_dir=RUN_DIR)
    for _ in range(2):
        stop()
        assert not machine.is_loaded()
    state.clear(RUN_DIR)
    machine.hook("echo no; exit 1")
    for _ in range(2):
        stop()
        assert not machine.is_loaded() and machine.calls == ["prepare", "cancel"] and "no" in machine.refused


@isolated
def test_kname_with_a_dash_switches_off_at_the_start_and_at_the_stop(machine: Machine) -> None:
    machine.begin()
    start()
    machine.put()
    machine.settings('KNAME="-"\n')
    start()
    assert not state.is_armed(RUN_DIR) and not machine.is_loaded()
    machine.tell_loaded(1)
    stop()
    assert not machine.is_loaded() and machine.refused == '/etc/conf.d/kexec:1 switches kexec off with KNAME="-"'


@isolated
def test_a_restart_through_the_firmware_that_we_were_asked_for_is_one_also_where_every_other_is_a_kexec(
    machine: Machine,
) -> None:
    machine.begin()
    start()
    state.reached(State.PREPARED, Way.ORDERLY, Act.FIRMWARE, loaded=False, run_dir=RUN_DIR)
    stop()
    assert not machine.is_loaded() and "--firmware" in machine.refused


# An image that is there already


@isolated
def test_what_an_orderly_restart_of_ours_has_prepared_is_kept_and_nobody_is_asked_twice(machine: Machine) -> None:
    machine.begin()
    machine.hook("exit 0")
    start()
    stop()
    nonce, before = machine.image.nonce, machine.pending
    machine.install(NEW)
    stop()
    assert (machine.image.nonce, machine.pending, machine.calls) == (nonce, before, ["prepare"])


@isolated
def test_an_image_that_was_chosen_by_itself_and_is_still_what_would_be_chosen_is_kept(machine: Machine) -> None:
    machine.begin()
    machine.hook("exit 0")
    image = machine.put()
    stop()
    assert machine.image == image and machine.calls == ["prepare"]
    assert machine.pending and machine.pending.nonce == image.nonce


@isolated
def test_one_that_is_out_of_date_is_loaded_anew(machine: Machine) -> None:
    machine.begin()
    machine.put()
    machine.install(NEW)
    stop()
    assert machine.image.version == NEW
    assert machine.pending and (machine.pending.to_version, machine.pending.nonce) == (NEW, machine.image.nonce)


@isolated
def test_so_is_one_of_which_a_file_has_changed_without_changing_its_name_or_size(machine: Machine) -> None:
    machine.begin()
    before = machine.put()
    file = Path(f"/boot/initrd.img-{OLD}")
    changed = initrd()[:-1] + b"\1"
    times = os.stat(file)
    file.write_bytes(changed)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    stop()
    assert machine.image.initrds[0].sha256 != before.initrds[0].sha256


@isolated
def test_one_that_somebody_named_is_kept_whatever_else_is_there(machine: Machine) -> None:
    machine.begin()
    image = machine.put(named=True)
    machine.install(NEW)
    stop()
    assert machine.image == image and machine.pending and machine.pending.nonce == image.nonce


@isolated
def test_a_foreign_one_is_kept_and_said_to_be_one_that_cannot_be_confirmed(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.begin()
    machine.hook("exit 0")
    start()
    machine.tell_loaded(1)
    stop()
    assert machine.is_loaded() and machine.pending is None and machine.calls == ["prepare"]
    assert "another program has loaded it, so the new boot will not know" in capfd.readouterr().out


@isolated
def test_one_that_is_out_of_date_and_cannot_be_replaced_is_not_jumped_into(machine: Machine) -> None:
    machine.begin()
    machine.put()
    Path(f"/boot/vmlinuz-{OLD}").write_bytes(b"")
    stop()
    assert not machine.is_loaded() and machine.next_boot().startswith("other: there was no kexec: ")


@isolated
def test_an_image_that_was_asked_for_and_has_gone_is_loaded_again_only_where_every_restart_is_a_kexec(
    machine: Machine,
) -> None:
    machine.begin()
    state.reached(State.PREPARED, Way.ORDERLY, Act.KEXEC, loaded=True, run_dir=RUN_DIR)
    stop()
    assert not machine.is_loaded() and "somebody has unloaded the image meanwhile" in machine.refused
    start()
    state.reached(State.PREPARED, Way.ORDERLY, Act.KEXEC, loaded=True, run_dir=RUN_DIR)
    stop()
    assert machine.is_loaded() and machine.pending and not machine.pending.refused


# The classic settings


@isolated
def test_with_load_during_shutdown_off_the_image_is_there_from_the_start(machine: Machine) -> None:
    machine.begin()
    machine.settings("LOAD_DURING_SHUTDOWN=no\n")
    start()
    nonce = machine.image.nonce
    start()
    assert machine.image.nonce == nonce, "once is enough"
    stop()
    assert machine.image.nonce == nonce and machine.pending and machine.pending.nonce == nonce


@isolated
def test_and_is_loaded_at_no_other_time_as_gentoo_has_it(machine: Machine) -> None:
    machine.begin()
    machine.settings("LOAD_DURING_SHUTDOWN=no\n")
    start()
    machine.tell_loaded(0)
    stop()
    assert not machine.is_loaded()


@isolated
def test_a_start_that_has_to_load_and_cannot_has_not_started(machine: Machine) -> None:
    machine.begin()
    machine.settings("LOAD_DURING_SHUTDOWN=no\n")
    Path(f"/boot/vmlinuz-{OLD}").unlink()
    assert kexecctl("service", "start") == ExitCode.NO_ENTRY
    assert not state.is_armed(RUN_DIR)


@isolated
def test_a_start_that_only_looks_warns_and_has_started(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.begin()
    Path(f"/boot/vmlinuz-{OLD}").unlink()
    start()
    assert state.is_armed(RUN_DIR)
    assert "as it is now, a restart will go through the firmware: nothing is chosen to boot" in capfd.readouterr().err


@isolated
def test_debians_load_kexec_still_means_what_it_says(machine: Machine) -> None:
    machine.begin()
    os.makedirs("/etc/default")
    Path("/etc/default/kexec").write_text("LOAD_KEXEC=false\n")
    start()
    stop()
    assert not machine.is_loaded()


# What goes wrong


@isolated
def test_a_veto_makes_it_a_restart_through_the_firmware_and_the_next_boot_says_why(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.begin()
    machine.hook('[ "$KEXECD_CALL" != prepare ] || { echo the cache is rebuilt; exit 1; }')
    start()
    stop()
    assert not machine.is_loaded() and machine.calls == ["prepare", "cancel"]
    why = "prepare hook it: it ended with exit status 1, saying: the cache is rebuilt"
    assert f"no kexec, this restart goes through the firmware: {why}" in capfd.readouterr().err
    assert machine.next_boot() == f"other: there was no kexec: {why}"
    assert kexecctl("finish") == ExitCode.OK
    assert why in capfd.readouterr().out


@isolated
def test_a_veto_against_what_others_have_loaded_counts_too(machine: Machine) -> None:
    machine.begin()
    machine.hook("exit 1")
    machine.tell_loaded(1)
    stop()
    assert not machine.is_loaded() and "prepare hook it" in machine.refused


@isolated
def test_the_reason_is_told_in_one_boot_only(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.begin()
    (machine.directory / "nokexec").touch()
    start()
    stop()
    machine.next_boot()
    assert kexecctl("finish") == kexecctl("finish") == ExitCode.OK
    first, second = capfd.readouterr().out.splitlines()[-2:]
    assert "there is a file" in first and "finished already" in second
    machine.patch.setattr(sysfs, "boot_id", lambda root="/": "the boot after that")
    assert handoff.arrival().sentence() == "unknown: kexecd was not asked for it"


@isolated
def test_a_kernel_that_takes_no_image_is_the_reason(machine: Machine) -> None:
    machine.begin()

    def refuse(*arguments: object) -> None:
        raise OSError(12, "kexec_file_load")

    machine.patch.setattr(syscalls, "kexec_file_load", refuse)
    start()
    stop()
    assert not machine.is_loaded() and "ENOMEM" in machine.refused


@isolated
def test_a_load_that_never_returns_is_left_behind_and_the_restart_goes_on(machine: Machine) -> None:
    machine.begin()
    machine.patch.setattr(syscalls, "kexec_file_load", lambda *arguments: signal.pause())
    machine.patch.setattr(service, "WORKING", 3.0)
    machine.patch.setattr(service, "UNDOING", 1.0)
    start()
    begin = time.monotonic()
    stop()
    assert time.monotonic() - begin < 6 and not machine.is_loaded()
    assert "did not end" in machine.refused


@isolated
def test_a_look_that_never_returns_is_too(machine: Machine) -> None:
    machine.begin()
    start()
    machine.patch.setattr("kexecd.cli.service.decide", lambda armed: signal.pause())
    machine.patch.setattr(service, "WORKING", 0.5)
    begin = time.monotonic()
    stop()
    assert time.monotonic() - begin < 3
    assert machine.refused == "loading and preparing did not end within 0.5 s"


@isolated
def test_a_bug_of_ours_is_a_reason_and_not_a_way_to_hold_the_restart(machine: Machine) -> None:
    machine.begin()
    start()
    machine.patch.setattr("kexecd.cli.service.carry_out", lambda *arguments, **options: 1 // 0)
    stop()
    assert not machine.is_loaded() and "ZeroDivisionError" in machine.refused


@isolated
def test_a_disk_without_room_for_the_reason_keeps_nobody_from_dropping_the_image(machine: Machine) -> None:
    machine.begin()
    (machine.directory / "nokexec").touch()
    machine.tell_loaded(1)
    command("mount", "-t", "tmpfs", "-o", "ro", "full", "/var/lib")
    stop()
    assert not machine.is_loaded() and machine.pending is None


@isolated
def test_who_is_asked_while_somebody_else_is_at_it_waits_for_the_turn(machine: Machine) -> None:
    """PID 1 may come to the service before who asked it has written down that it did."""
    machine.begin()
    start()
    os.makedirs(RUN_DIR, exist_ok=True)
    held = os.open(f"{RUN_DIR}/lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    if os.fork() == 0:
        time.sleep(0.5)
        state.reached(State.PREPARED, Way.ORDERLY, Act.FIRMWARE, loaded=False, run_dir=RUN_DIR)
        os._exit(0)  # and with it goes the lock
    os.close(held)
    stop()
    assert not machine.is_loaded() and "--firmware" in machine.refused


@isolated
def test_somebody_who_never_lets_go_is_the_reason(machine: Machine) -> None:
    machine.begin()
    start()
    held = os.open(f"{RUN_DIR}/lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    machine.patch.setattr(service, "TURN", 0.3)
    stop()
    assert "is at it already" in machine.refused


# The freeze hooks


@isolated
def test_the_freeze_hooks_are_called_once_in_a_restart_that_was_prepared(machine: Machine) -> None:
    machine.begin()
    machine.hook("exit 0")
    start()
    stop()
    for _ in range(2):
        assert kexecctl("service", "freeze") == ExitCode.OK
    assert machine.calls == ["prepare", "freeze"]
    reached = state.read(RUN_DIR)
    assert reached and reached.state is State.FROZEN


@isolated
def test_and_in_no_other(machine: Machine) -> None:
    machine.begin()
    machine.hook("exit 0")
    kexecctl("service", "freeze")
    for way, act in ((Way.FAST, Act.KEXEC), (Way.ORDERLY, Act.FIRMWARE)):
        machine.tell_loaded(1)
        state.reached(State.PREPARED, way, act, loaded=True, run_dir=RUN_DIR)
        kexecctl("service", "freeze")
    machine.tell_loaded(0)
    state.reached(State.PREPARED, Way.ORDERLY, Act.KEXEC, loaded=True, run_dir=RUN_DIR)
    kexecctl("service", "freeze")
    assert machine.calls == []


@isolated
def test_a_freeze_hook_that_hangs_or_fails_does_not_hold_the_restart(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.begin()
    Path("/etc/kexecd/kexecd.yaml").write_text("within: 1\n")
    machine.hook('[ "$KEXECD_CALL" != freeze ] || sleep 60')
    start()
    stop()
    begin = time.monotonic()
    assert kexecctl("service", "freeze") == ExitCode.OK
    assert time.monotonic() - begin < 5
    assert "did not end within" in capfd.readouterr().err


# What the next restart will do


@isolated
def test_status_tells_what_the_next_restart_does_and_changes_nothing(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.begin()
    for prepare, told in (
        (lambda: None, "a restart goes through the firmware: nothing is loaded"),
        (start, f"a restart is a kexec into /boot/vmlinuz-{OLD}: it is the newest that is installed"),
        (machine.put, "it is what would be chosen now"),
        (lambda: machine.install(NEW), f"{NEW} would be chosen now"),
        ((machine.directory / "nokexec").touch, "a restart goes through the firmware: there is a file"),
    ):
        prepare()
        before = machine.is_loaded()
        assert kexecctl("service", "status") == ExitCode.OK
        assert told in capfd.readouterr().out.splitlines()[-1]
        assert machine.is_loaded() == before
    assert (machine.directory / "nokexec").exists() and machine.calls == []


@isolated
def test_status_has_a_documented_form_as_json(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.begin()
    start()
    capfd.readouterr()
    assert kexecctl("service", "status", "--json") == ExitCode.OK
    document = json.loads(capfd.readouterr().out)
    assert set(document) == {"schema", "armed", "state", "image", "next"}
    assert (document["armed"], document["state"], document["image"]) == (True, "normal", "load")


@isolated
def test_a_boot_that_a_kexec_of_ours_led_to_is_updated_until_it_is_finished(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.begin()
    start()
    stop()
    nonce = machine.image.nonce
    machine.patch.setattr(sysfs, "boot_id", lambda root="/": "the next boot")
    machine.patch.setattr(sysfs, "running_cmdline", lambda root="/": f"ro kexecd.nonce={nonce}")
    machine.tell_loaded(0)
    for told in ("updated", "normal"):
        kexecctl("service", "status")
        assert f"state   {told}\n" in capfd.readouterr().out
        kexecctl("finish")
        capfd.readouterr()


@isolated
def test_whoever_is_not_root_is_told_so_and_may_look(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.begin()
    start()
    machine.put()
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        codes = [kexecctl("service", verb) for verb in ("start", "stop", "freeze", "status")]
        os._exit(0 if codes == [ExitCode.NOT_PERMITTED] * 3 + [ExitCode.OK] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert machine.is_loaded() and state.is_armed(RUN_DIR)


@isolated
def test_an_image_that_cannot_be_taken_out_is_not_jumped_into_all_the_same(machine: Machine) -> None:
    machine.begin()

    def forbid() -> None:
        raise OSError(1, "kexec_file_load")

    machine.patch.setattr(syscalls, "kexec_unload", forbid)
    machine.tell_loaded(1)
    (machine.directory / "nokexec").touch()
    stop()
    assert machine.is_loaded() and "nokexec" in machine.refused
    reached = state.read(RUN_DIR)
    assert reached and reached.act is Act.FIRMWARE, "which the last act looks at"


@isolated
def test_a_disk_that_does_not_answer_keeps_no_image_in_memory(machine: Machine) -> None:
    machine.begin()
    machine.patch.setattr(handoff, "refuse", lambda *words, **more: signal.pause())
    machine.patch.setattr(service, "DROPPING", 0.5)
    start()
    stop()
    begin = time.monotonic()
    stop("down")
    assert not machine.is_loaded() and time.monotonic() - begin < 3


@isolated
def test_below_busybox_whoever_arms_the_machine_hears_what_that_cannot_do(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.begin()
    machine.patch.setattr(pid1, "which", lambda root="/": Pid1.BUSYBOX)
    start()
    assert "only `kexecctl reboot` will be a kexec" in capfd.readouterr().err
