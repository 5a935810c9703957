# SPDX-License-Identifier: MIT
"""What is remembered from one boot to the next: each door writes the same record, and each minds what has failed.

The machine is that of the service's tests: everything is real but the kernel's two calls and the boots in between.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import deny, handoff, history, state
from kexecd import record as records
from kexecd.cli import descent, draft, steps
from kexecd.cli.choosing import look
from kexecd.cli.draft import Draft, draw_up
from kexecd.cli.finish import finish
from kexecd.cli.main import parser
from kexecd.cli.steps import WriteDown
from kexecd.errors import Busy, ExitCode, Refusal
from kexecd.handoff import PendingHandoff
from kexecd.history import Outcome
from kexecd.init.none import NoInit
from kexecd.kernel import sysfs
from kexecd.kernel.machine import fingerprint
from kexecd.model import Act, Found, Source, State, Way
from kexecd.record import RUN_DIR
from kexecd.wayback import giveup, oneshot, settle
from kexecd.wayback.begin import Terms
from tests.namespaces.isolated import isolated
from tests.namespaces.test_service import NEW, OLD, Machine, kexecctl, start, stop
from tests.unit.locks import locked_by_a_stopped_process
from tests.unit.power_cut import nobody

WORDS = "panic=30 rd.shell=0 rd.emergency=reboot"
CONFIRM = Path("/etc/systemd/system/sysinit.target.wants/kexecd-confirm.service")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


class Willing(NoInit):
    """A PID 1 that would do what it is asked to."""

    def refuse_beforehand(self, act: Act) -> None:
        pass


def begin(machine: Machine) -> None:
    """With somebody who confirms, and a /boot/vmlinuz-NEW that is newer than what is there."""
    machine.begin()
    CONFIRM.parent.mkdir(parents=True)
    CONFIRM.symlink_to("/usr/lib/systemd/system/kexecd-confirm.service")
    boot(machine, "boot 0")


def boot(machine: Machine, name: str, nonce: str = "") -> None:
    """The machine restarts, by a kexec with this nonce or through the firmware."""
    machine.patch.setattr(sysfs, "boot_id", lambda root="/": name)
    machine.patch.setattr(sysfs, "running_cmdline", lambda root="/": f"ro kexecd.nonce={nonce}" if nonce else "ro")
    machine.tell_loaded(0)
    shutil.rmtree(RUN_DIR, ignore_errors=True)


def said(capfd: pytest.CaptureFixture[str]) -> str:
    both = capfd.readouterr()
    return both.out + both.err


def options(*words: str) -> Namespace:
    return parser(words[0]).parse_args(words)


def drawn(machine: Machine, *words: str) -> Draft:
    machine.patch.setattr(draft, "detect", lambda root="/": Willing("a PID 1 of the test"))
    return draw_up(options(*words))


def fail(machine: Machine, why: str = "no network within 300 s") -> None:
    """A kexec into what is chosen, which gives itself up; then the old system is back, in "boot 2"."""
    start()
    stop()
    assert machine.pending
    nonce = machine.pending.nonce
    boot(machine, "boot 1", nonce)
    handoff.give_up(why)
    boot(machine, "boot 2")
    assert finish(Namespace(json=False)) is ExitCode.OK


# The record


@isolated
def test_an_init_that_restarts_leaves_a_whole_record(machine: Machine) -> None:
    begin(machine)
    start()
    stop()
    image, pending = machine.image, machine.pending
    assert pending and pending.machine == fingerprint() and pending.limit == 300.0
    assert pending.kernel_sha256 == image.kernel.sha256 and len(pending.kernel_sha256) == 64
    assert pending.initrd_sha256 == image.initrds[0].sha256
    assert pending.plan[:2] == ("load", "record") or "record" in pending.plan
    assert (pending.trial, pending.foreign, pending.arrived_in, pending.failure) == (False, False, "", "")
    assert image.cmdline == f"ro kexecd.nonce={image.nonce} {WORDS}"


@isolated
def test_each_of_the_three_ways_leaves_the_same_record_and_the_same_words(machine: Machine) -> None:
    begin(machine)
    seen: list[PendingHandoff] = []
    lines = []
    for way in ((), ("--fast",), ("--now",)):
        plan = drawn(machine, "reboot", *way).plan
        load, write = (step for phase in plan.phases for step in phase.steps if step.name in ("load", "record"))
        load.load()  # type: ignore[attr-defined]
        assert isinstance(write, WriteDown)
        write._write()
        assert machine.pending
        seen.append(machine.pending)
        lines.append(machine.image.cmdline.replace(machine.image.nonce, "N"))
        assert machine.pending.plan == tuple(phase.name for phase in plan.phases)
        machine.tell_loaded(0)
    assert lines == [f"ro kexecd.nonce=N {WORDS}"] * 3
    assert [pending.way for pending in seen] == [Way.ORDERLY, Way.FAST, Way.NOW]
    assert len({(one.machine, one.kernel_sha256, one.initrd_sha256, one.limit, one.to_version) for one in seen}) == 1


@isolated
def test_where_nobody_would_confirm_nobody_is_waited_for_and_having_come_up_is_enough(machine: Machine) -> None:
    begin(machine)
    CONFIRM.unlink()
    start()
    stop()
    assert machine.pending and machine.pending.limit == 0
    machine.patch.setattr(sysfs, "kernel_release", lambda: OLD)
    boot(machine, "boot 1", machine.pending.nonce)
    assert finish(Namespace(json=False)) is ExitCode.OK
    assert [attempt.outcome for attempt in history.attempts()] == [Outcome.CONFIRMED]


@isolated
def test_a_boot_for_repairs_is_not_given_up_under_whoever_repairs(machine: Machine) -> None:
    begin(machine)
    assert kexecctl("load", "--append", "single") == ExitCode.OK
    WriteDown(Way.FAST, terms=steps.terms_of(drawn(machine, "reboot").policy, machine.image, None))._write()
    assert machine.pending and machine.pending.limit == 0


@isolated
def test_a_one_shot_choice_is_used_up_by_whoever_boots_what_the_boot_loader_would(machine: Machine) -> None:
    begin(machine)
    block = Path("/boot/grub/grubenv")
    block.parent.mkdir()
    block.write_bytes(b"# GRUB Environment Block\nnext_entry=it\n".ljust(1024, b"#"))
    assert kexecctl("load", OLD) == ExitCode.OK
    policy = drawn(machine, "reboot").policy
    for named, used_up in ((True, ""), (False, "next_entry")):
        terms = steps.terms_of(policy, replace(machine.image, named=named), None)
        WriteDown(Way.FAST, terms=terms)._write()
        assert machine.pending and machine.pending.one_shot == used_up
    seen = look("/")
    assert seen.choice.entry and not steps.terms_of(policy, None, seen).by_loader
    loader = Found(Source.GRUB, (seen.choice.entry,), seen.choice.entry.id)
    assert steps.terms_of(policy, None, replace(seen, loader=loader)).by_loader
    assert not steps.terms_of(policy, None, replace(seen, loader=replace(loader, next="another"))).by_loader


@isolated
def test_a_choice_for_one_boot_waits_until_the_kexec_has_shown_what_it_leads_to(machine: Machine) -> None:
    """A kernel that fails is not what the boot loader boots next; whoever gives the restart up finds it as it was."""
    begin(machine)
    block = Path("/boot/grub/grubenv")
    block.parent.mkdir()
    block.write_bytes(b"# GRUB Environment Block\nnext_entry=it\n".ljust(1024, b"#"))
    before = block.read_bytes()
    assert kexecctl("load", OLD) == ExitCode.OK
    write = WriteDown(Way.FAST, terms=Terms(limit=300.0, by_loader=True))
    assert write._write() == []
    assert b"next_entry" not in block.read_bytes() and len(block.read_bytes()) == 1024
    write.undo()
    assert block.read_bytes() == before and machine.pending is None
    assert write._write() == []
    state.reached(State.PREPARED, Way.ORDERLY, Act.KEXEC, loaded=False, run_dir=RUN_DIR)
    (machine.directory / "nokexec").touch()
    stop()
    assert block.read_bytes() == before, "this restart goes through the firmware"
    assert kexecctl("load", OLD) == ExitCode.OK
    assert write._write() == []
    boot(machine, "boot 1")
    stop()
    assert b"next_entry" not in block.read_bytes(), "the boot that came back does not try it again"


def one_shot(machine: Machine) -> tuple[Path, WriteDown]:
    """GRUB is told to boot `it` once, and a kexec boots that."""
    block = Path("/boot/grub/grubenv")
    block.parent.mkdir()
    block.write_bytes(b"# GRUB Environment Block\nnext_entry=it\n".ljust(1024, b"#"))
    assert kexecctl("load", OLD) == ExitCode.OK
    return block, WriteDown(Way.FAST, terms=Terms(limit=300.0, by_loader=True))


@isolated
def test_a_choice_for_one_boot_whose_kexec_was_cut_short_is_used_up_and_the_next_boot_says_so(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(machine)
    block, write = one_shot(machine)
    assert write._write() == []
    boot(machine, "boot 1")
    assert finish(Namespace(json=False)) is ExitCode.OK
    assert "the boot loader was told to boot it once: that restart has used it up" in said(capfd)
    assert b"next_entry" not in block.read_bytes() and not Path(handoff.STATE_DIR, handoff.ONE_SHOT).exists()
    shutil.rmtree(RUN_DIR)
    assert finish(Namespace(json=False)) is ExitCode.OK
    assert "once" not in said(capfd)


@isolated
def test_what_the_boot_loader_is_told_once_after_the_jump_stays(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(machine)
    CONFIRM.unlink()
    block, write = one_shot(machine)
    machine.patch.setattr(sysfs, "kernel_release", lambda: OLD)
    assert write._write() == [] and machine.pending and machine.pending.limit == 0
    boot(machine, "boot 1", machine.pending.nonce)
    block.write_bytes(b"# GRUB Environment Block\nnext_entry=later\n".ljust(1024, b"#"))
    assert finish(Namespace(json=False)) is ExitCode.OK
    assert [attempt.outcome for attempt in history.attempts()] == [Outcome.CONFIRMED]
    assert b"next_entry=later" in block.read_bytes()
    assert "used it up" not in said(capfd)


@isolated
def test_a_boot_that_gives_itself_up_takes_away_what_the_old_one_could_not_and_nothing_else(machine: Machine) -> None:
    begin(machine)
    block, write = one_shot(machine)
    whole = block.read_bytes()
    for later, left in ((b"it", b""), (b"later", b"next_entry=later")):
        block.write_bytes(whole)
        with machine.patch.context() as patch:
            patch.setattr(oneshot, "_rewrite", read_only)
            (trouble,) = write._write()
            assert "could not be taken away" in trouble
        assert machine.pending and machine.pending.one_shot == oneshot.GRUB
        boot(machine, f"after {machine.pending.from_boot_id}", machine.pending.nonce)
        block.write_bytes(whole.replace(b"=it", b"=" + later)[:1024])
        giveup.RealDeeds(Willing("a PID 1 of the test"), RUN_DIR, handoff.STATE_DIR).write_down("no network")
        assert machine.pending.failure == "no network"
        assert [line for line in block.read_bytes().splitlines() if line.startswith(b"next")] == [left][: len(left)]
        boot(machine, "boot 0")
        assert kexecctl("load", OLD, "--ignore", "denied") == ExitCode.OK


def read_only(*_: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


# Somebody who has the records locked, and is stopped


@isolated
def test_a_machine_that_goes_down_goes_on_going_down_and_tells_who_keeps_it_from_writing(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(machine)
    machine.patch.setattr(handoff, "PATIENCE", 0.2)
    start()
    os.makedirs(handoff.STATE_DIR)
    with locked_by_a_stopped_process(handoff.STATE_DIR) as holder:
        stopped = time.monotonic()
        stop()
        assert time.monotonic() - stopped < 10
    assert not machine.is_loaded() and machine.pending is None
    told = said(capfd)
    assert f"process {holder} (" in told and f"has {handoff.STATE_DIR} locked" in told


@isolated
def test_a_restart_that_cannot_be_written_down_for_that_does_not_begin(machine: Machine) -> None:
    begin(machine)
    machine.patch.setattr(handoff, "PATIENCE", 0.2)
    assert kexecctl("load", OLD) == ExitCode.OK
    os.makedirs(handoff.STATE_DIR, exist_ok=True)
    with locked_by_a_stopped_process(handoff.STATE_DIR) as holder, pytest.raises(Busy, match=f"process {holder} "):
        WriteDown(Way.FAST, terms=Terms(limit=300.0))._write()
    assert machine.pending is None


@isolated
def test_what_is_cancelled_then_is_taken_back_but_for_the_record(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(machine)
    machine.hook("exit 0")
    block, write = one_shot(machine)
    whole = block.read_bytes()
    assert write._write() == []
    state.reached(State.PREPARED, Way.ORDERLY, Act.KEXEC, loaded=True, run_dir=RUN_DIR)
    machine.patch.setattr(handoff, "PATIENCE", 0.2)
    with locked_by_a_stopped_process(handoff.STATE_DIR) as holder:
        assert kexecctl("cancel") == ExitCode.NOT_RESTARTED
    assert machine.calls == ["cancel"] and not machine.is_loaded() and state.read(RUN_DIR) is None
    assert block.read_bytes() == whole and machine.pending
    assert f"the record of it could not be removed: process {holder} (" in said(capfd)


@isolated
def test_finishing_and_forgiving_say_who_it_is(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    begin(machine)
    fail(machine)
    start()
    stop()
    boot(machine, "boot 3")
    said(capfd)
    machine.patch.setattr(handoff, "PATIENCE", 0.2)
    with locked_by_a_stopped_process(handoff.STATE_DIR) as holder:
        assert finish(Namespace(json=False)) is ExitCode.OK
        assert f"later boots will tell: process {holder} (" in said(capfd)
        assert kexecctl("deny", "forgive", "--all") == ExitCode.BUSY
        assert f"cannot forgive: process {holder} (" in said(capfd)
    assert deny.denials()
    assert kexecctl("deny", "forgive", "--all") == ExitCode.OK


@isolated
def test_finishing_sweeps_what_a_power_cut_has_left_of_a_write(machine: Machine) -> None:
    begin(machine)
    start()
    stop()
    left = Path(handoff.STATE_DIR, f".pending.json.{nobody()}")
    left.write_text("{")
    boot(machine, "boot 1")
    assert finish(Namespace(json=False)) is ExitCode.OK
    assert not left.exists() and machine.pending and machine.pending.settled


@isolated
def test_another_installed_system_does_not_report_here_and_has_not_failed(machine: Machine) -> None:
    begin(machine)
    assert kexecctl("load", OLD) == ExitCode.OK
    records.write(replace(machine.image, foreign=True), RUN_DIR)
    WriteDown(Way.FAST, terms=Terms(limit=300.0))._write()
    assert machine.pending and machine.pending.foreign and machine.pending.limit == 0
    boot(machine, "boot 1")
    finish(Namespace(json=False))
    assert [one.outcome for one in history.attempts()] == [Outcome.UNCONFIRMED] and deny.denials() == ()


@isolated
def test_finish_leaves_a_boot_open_that_somebody_confirms(machine: Machine) -> None:
    begin(machine)
    start()
    stop()
    assert machine.pending
    boot(machine, "boot 1", machine.pending.nonce)
    assert finish(Namespace(json=False)) is ExitCode.OK
    assert history.attempts() == ()
    assert machine.pending.arrived_in == "boot 1" and not machine.pending.settled


@isolated
def test_a_restart_before_the_last_one_is_confirmed_loses_nothing_of_it(machine: Machine) -> None:
    begin(machine)
    start()
    stop()
    assert machine.pending
    first = machine.pending.nonce
    boot(machine, "boot 1", first)
    finish(Namespace(json=False))
    start()
    stop()
    assert machine.pending.nonce not in ("", first) and machine.pending.from_boot_id == "boot 1"
    assert [(one.nonce, one.outcome) for one in history.attempts()] == [(first, Outcome.UNCONFIRMED)]
    settle.confirmed(first, "all is well")
    assert [(one.nonce, one.outcome) for one in history.attempts()] == [(first, Outcome.CONFIRMED)]


@isolated
def test_a_boot_that_gives_itself_up_keeps_its_reason_through_its_own_services(machine: Machine) -> None:
    """The service is stopped on the way down, and hears of a wish for the firmware."""
    begin(machine)
    start()
    stop()
    assert machine.pending
    boot(machine, "boot 1", machine.pending.nonce)
    start()
    handoff.give_up("no network within 300 s")
    state.reached(State.PREPARED, Way.ORDERLY, Act.FIRMWARE, loaded=False, run_dir=RUN_DIR)
    stop()
    boot(machine, "boot 2")
    finish(Namespace(json=False))
    (attempt,) = history.attempts()
    assert (attempt.outcome, attempt.reason, attempt.boot_id) == (Outcome.FAILED, "no network within 300 s", "boot 1")


# What has failed


@isolated
def test_after_a_failure_the_next_restart_by_whatever_door_is_an_ordinary_one_and_says_why(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(machine)
    fail(machine)
    assert "no network within 300 s" in said(capfd)
    start()
    assert "a restart goes through the firmware: a kexec into Linux 6.1.0-9 failed on this machine" in said(capfd)
    stop()
    assert not machine.is_loaded() and "no network within 300 s (check denied)" in machine.refused
    assert "a restart goes through the firmware" in said(capfd)

    boot(machine, "boot 3")
    finish(Namespace(json=False))
    assert "there was no kexec: a kexec into Linux 6.1.0-9 failed" in handoff.arrival().reason
    assert [one.outcome for one in history.attempts()] == [Outcome.FAILED, Outcome.REFUSED]
    assert kexecctl("load", OLD) == ExitCode.FORBIDDEN
    assert "`--ignore denied` goes on all the same" in said(capfd)
    for way in ((), ("--fast",), ("--now",)):
        found = drawn(machine, "reboot", *way)
        assert found.plan.act is Act.FIRMWARE and found.loaded is None and found.seen is None
        assert found.warnings[0].startswith("no kexec, this restart goes through the firmware: a kexec into Linux")


@isolated
def test_what_somebody_names_is_refused_or_done_but_never_something_else(machine: Machine) -> None:
    begin(machine)
    fail(machine)
    named = drawn(machine, "reboot", OLD)
    assert named.plan.act is Act.KEXEC, "its load is what refuses"
    with pytest.raises(Refusal, match="check denied"):
        record_of(machine, named)
    assert kexecctl("load", OLD, "--ignore", "denied") == ExitCode.OK
    with pytest.raises(Refusal, match="check denied"):
        drawn(machine, "reboot")
    assert drawn(machine, "reboot", "--ignore", "denied").plan.act is Act.KEXEC
    start()
    stop()
    assert machine.is_loaded() and machine.pending and machine.pending.nonce == machine.image.nonce


@isolated
def test_another_kernel_is_only_kept_from_the_boot_that_came_back(machine: Machine) -> None:
    begin(machine)
    fail(machine)
    machine.install(NEW)
    assert drawn(machine, "reboot").plan.act is Act.FIRMWARE
    with pytest.raises(Refusal, match="the next restart is to be an ordinary one"):
        steps.Load(look("/", NEW), options("load", NEW)).load()
    boot(machine, "boot 3")
    finish(Namespace(json=False))
    assert drawn(machine, "reboot").plan.act is Act.KEXEC
    start()
    stop()
    assert machine.is_loaded() and machine.image.version == NEW


@isolated
def test_what_was_loaded_before_anybody_knew_is_not_jumped_into(machine: Machine) -> None:
    """A service that loads at the boot may be faster than the one that finds out how the boot came about."""
    begin(machine)
    start()
    stop()
    assert machine.pending
    boot(machine, "boot 1", machine.pending.nonce)
    handoff.give_up("no network")
    boot(machine, "boot 2")
    machine.settings("LOAD_DURING_SHUTDOWN=no\n")
    start()
    assert machine.is_loaded()
    finish(Namespace(json=False))
    stop()
    assert not machine.is_loaded() and "no network (check denied)" in machine.refused


@isolated
def test_what_others_have_loaded_does_not_go_around_it(machine: Machine) -> None:
    begin(machine)
    fail(machine)
    start()
    machine.tell_loaded(1)
    stop()
    assert not machine.is_loaded() and "the next restart is to be an ordinary one" in machine.refused


@isolated
def test_what_is_forgiven_may_be_booted_again_in_the_same_boot(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(machine)
    fail(machine)
    said(capfd)
    assert kexecctl("deny", "list") == ExitCode.OK
    assert OLD in (listed := said(capfd)) and "no network within 300 s" in listed
    assert kexecctl("deny", "list", "--json") == ExitCode.OK
    (denial,) = json.loads(said(capfd))["denied"]
    assert denial["version"] == OLD and denial["here"] is True
    assert kexecctl("deny", "forgive", "6.9.9") == ExitCode.NO_ENTRY
    assert "nothing that is denied is called so" in said(capfd)
    assert kexecctl("deny", "forgive", OLD) == ExitCode.OK
    assert said(capfd) == f"forgiven: {OLD}\n"
    assert kexecctl("deny", "list") == ExitCode.OK
    assert said(capfd) == "nothing is denied\n"
    start()
    stop()
    assert machine.is_loaded()


@isolated
def test_forgiving_takes_a_name_where_there_are_several(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    begin(machine)
    fail(machine)
    (one,) = deny.denials()
    deny.add(deny.Denial(**{**{name: getattr(one, name) for name in one.__slots__}, "kernel_sha256": "cd" * 32}))
    assert kexecctl("deny", "forgive") == ExitCode.USAGE
    assert "2 kernels are denied" in said(capfd)
    assert kexecctl("deny", "forgive", "x", "--all") == ExitCode.USAGE
    assert kexecctl("deny", "forgive", "--all") == ExitCode.OK
    assert deny.denials() == ()
    assert kexecctl("deny", "forgive") == ExitCode.OK
    assert "nothing is denied\n" in said(capfd)


@isolated
def test_only_root_sees_and_forgives(machine: Machine) -> None:
    begin(machine)
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        codes = [kexecctl("deny", "list"), kexecctl("deny", "forgive", "--all")]
        os._exit(0 if codes == [ExitCode.NOT_PERMITTED] * 2 else 1)
    assert os.waitpid(child, 0)[1] == 0


@isolated
def test_a_policy_has_the_firmware_have_its_turn(machine: Machine) -> None:
    begin(machine)
    os.makedirs("/etc/kexecd", exist_ok=True)
    Path("/etc/kexecd/kexecd.yaml").write_text("firmware:\n  after: 2\n")
    for number in range(2):
        start()
        stop()
        assert machine.is_loaded() and machine.pending
        nonce = machine.pending.nonce
        boot(machine, f"boot {number + 1}", nonce)
        finish(Namespace(json=False))
        settle.confirmed(nonce, "all is well")
    start()
    stop()
    assert not machine.is_loaded()
    assert machine.refused.startswith("2 kexecs in a row, and the policy wants the firmware to have its turn after 2")
    boot(machine, "boot 3")
    finish(Namespace(json=False))
    start()
    stop()
    assert machine.is_loaded()


# Trying


class Gone(Exception):
    """The way down was to begin here."""


def tried(machine: Machine, *words: str) -> Draft:
    """What `kexecctl try` would walk."""
    drafts: list[Draft] = []
    machine.patch.setattr(draft, "detect", lambda root="/": Willing("a PID 1 of the test"))

    def walk(draft: Draft, **options: bool) -> ExitCode:
        drafts.append(draft)
        return ExitCode.OK

    machine.patch.setattr("kexecd.cli.reboot.go_down", walk)
    assert kexecctl("try", *words) == ExitCode.OK
    (found,) = drafts
    return found


def record_of(machine: Machine, found: Draft) -> PendingHandoff:
    for phase in found.plan.phases:
        for step in phase.steps:
            if step.name == "load":
                step.load()  # type: ignore[attr-defined]
            if isinstance(step, WriteDown):
                step._write()
    assert machine.pending
    return machine.pending


@isolated
def test_trying_a_kernel_is_one_restart_into_it_with_a_way_back(machine: Machine) -> None:
    begin(machine)
    pending = record_of(machine, tried(machine, OLD, "--fast"))
    assert pending.trial and pending.limit == 300 and pending.way is Way.FAST and pending.to_version == OLD
    assert machine.image.cmdline.endswith(WORDS) and machine.image.named


@isolated
def test_a_kernel_that_has_failed_may_be_tried_and_it_is_told(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(machine)
    fail(machine)
    said(capfd)
    found = tried(machine, OLD)
    assert f"note: a kexec into Linux {OLD} failed on this machine" in said(capfd)
    assert found.plan.act is Act.KEXEC and record_of(machine, found).trial


@isolated
def test_a_trial_has_a_way_back_whatever_the_policy_says(machine: Machine) -> None:
    begin(machine)
    os.makedirs("/etc/kexecd", exist_ok=True)
    Path("/etc/kexecd/kexecd.yaml").write_text("confirm:\n  limit: 0\n  panic: 0\n")
    assert record_of(machine, tried(machine, OLD)).limit == 300
    assert WORDS in machine.image.cmdline
    assert kexecctl("load", OLD) == ExitCode.OK
    assert "panic" not in machine.image.cmdline


@isolated
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "it is not said what"),
        ((OLD, "--append", "panic=0"), "stand still after a panic"),
        ((OLD, "--append", "single"), "asks for a shell"),
        (("6.9.9",), "6.9.9"),
    ],
)
def test_what_has_no_way_back_is_not_tried(
    machine: Machine, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    begin(machine)
    machine.patch.setattr(descent, "go_down", lambda *arguments, **options: pytest.fail("it went down"))
    assert kexecctl("try", *words) != ExitCode.OK
    assert why in said(capfd)


@isolated
def test_nobody_tries_where_nobody_would_give_it_up(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    begin(machine)
    CONFIRM.unlink()
    assert kexecctl("try", OLD) == ExitCode.FAILURE
    assert "enable kexecd-confirm" in said(capfd)


@isolated
def test_an_undo_puts_the_choice_back_whoever_has_the_records_locked(machine: Machine) -> None:
    begin(machine)
    block, write = one_shot(machine)
    whole = block.read_bytes()
    assert write._write() == []
    machine.patch.setattr(handoff, "PATIENCE", 0.2)
    with locked_by_a_stopped_process(handoff.STATE_DIR) as holder, pytest.raises(OSError, match=f"process {holder} "):
        write.undo()
    assert block.read_bytes() == whole
