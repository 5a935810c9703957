# SPDX-License-Identifier: MIT
"""What became of an attempt: said once, by whoever knows it, and what a power cut in between leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import deny, handoff, history
from kexecd.deny import Denial
from kexecd.handoff import How, PendingHandoff
from kexecd.history import Attempt, Outcome
from kexecd.model import Way
from kexecd.wayback import settle
from tests.unit.kernel_tree import KernelTree
from tests.unit.power_cut import cuts

NONCE = "0123456789abcdef"
PENDING = PendingHandoff(
    nonce=NONCE,
    from_boot_id="boot A",
    from_release="6.1.0",
    to_entry_id="linux-6.2",
    to_version="6.2.0",
    way=Way.FAST,
    requested_at=1000.0,
    machine="00112233445566ff",
    kernel_sha256="ab" * 32,
    limit=300.0,
    trial=True,
)
ARRIVED = replace(PENDING, arrived_in="boot B", arrived_at=1010.0)
LOST = "it never reported back: it hung, or the machine lost power, or the jump did not happen"


class Machine:
    """Its records, and the boot that it is in."""

    def __init__(self, path: Path) -> None:
        self.tree, self.state = KernelTree(path / "root"), path / "state"

    def boot(self, name: str, nonce: str = "") -> None:
        self.tree.write("proc/sys/kernel/random/boot_id", f"{name}\n")
        self.tree.write("proc/cmdline", f"ro kexecd.nonce={nonce}\n" if nonce else "ro\n")

    def record(self, pending: PendingHandoff) -> None:
        handoff.write(pending, str(self.state))

    def do(self, what: Callable[..., Attempt | None], *words: str) -> Attempt | None:
        return what(*words, state_dir=str(self.state), root=self.tree.root, now=lambda: 1500.0)

    def conclude(self) -> Attempt:
        attempt = self.do(settle.conclude)
        assert attempt
        return attempt

    @property
    def pending(self) -> PendingHandoff:
        pending = handoff.read(str(self.state))
        assert pending
        return pending

    @property
    def past(self) -> tuple[Attempt, ...]:
        return history.attempts(str(self.state))

    @property
    def denied(self) -> tuple[Denial, ...]:
        return deny.denials(str(self.state))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_boot_that_is_confirmed_is_in_the_history_and_its_record_is_closed(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    machine.record(ARRIVED)
    said = machine.do(settle.confirmed, NONCE, "all is well")
    assert said == Attempt(
        nonce=NONCE,
        outcome=Outcome.CONFIRMED,
        reason="all is well",
        machine=PENDING.machine,
        from_release="6.1.0",
        from_boot_id="boot A",
        to_entry_id="linux-6.2",
        to_version="6.2.0",
        kernel_sha256=PENDING.kernel_sha256,
        way=Way.FAST,
        trial=True,
        requested_at=1000.0,
        arrived_at=1010.0,
        settled_at=1500.0,
        settled_in="boot B",
        boot_id="boot B",
    )
    assert machine.past == (said,) and machine.denied == ()
    assert machine.pending.seen_in == "boot B" and not machine.pending.failure


def test_it_is_said_once(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    machine.record(ARRIVED)
    machine.do(settle.confirmed, NONCE, "all is well")
    assert machine.do(settle.confirmed, NONCE, "again") is None
    assert machine.do(settle.failed, NONCE, "no, it is not") is None
    assert [attempt.reason for attempt in machine.past] == ["all is well"] and machine.denied == ()


def test_another_attempt_is_not_touched(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    machine.record(ARRIVED)
    assert machine.do(settle.confirmed, "f" * 16, "all is well") is None
    assert machine.past == () and machine.pending == ARRIVED


def test_where_nothing_was_asked_for_nothing_is_said(machine: Machine) -> None:
    machine.boot("boot C")
    for what in (settle.conclude, settle.leave):
        assert machine.do(what) is None
    assert machine.do(settle.failed, NONCE, "x") is None


def test_a_boot_that_gave_itself_up_is_told_by_the_next_one_and_its_kernel_is_denied(machine: Machine) -> None:
    machine.boot("boot C")
    machine.record(replace(ARRIVED, failure="no network within 300 s"))
    said = machine.conclude()
    assert (said.outcome, said.reason, said.boot_id, said.settled_in) == (
        Outcome.FAILED, "no network within 300 s", "boot B", "boot C",
    )  # fmt: skip
    assert machine.denied == (
        Denial(
            machine=PENDING.machine,
            kernel_sha256=PENDING.kernel_sha256,
            version="6.2.0",
            entry_id="linux-6.2",
            reason="no network within 300 s",
            since=1500.0,
            nonce=NONCE,
        ),
    )
    assert machine.do(settle.conclude) is None


@pytest.mark.parametrize(
    ("pending", "outcome", "reason"),
    [
        (PENDING, Outcome.FAILED, LOST),
        (ARRIVED, Outcome.FAILED, "it came up and was never confirmed: it hung, or the machine lost power"),
        (replace(ARRIVED, limit=0.0), Outcome.CONFIRMED, settle.WELL),
        (replace(PENDING, limit=0.0), Outcome.FAILED, LOST),
        (replace(PENDING, foreign=True), Outcome.UNCONFIRMED, settle.ELSEWHERE),
        (replace(PENDING, repair=True), Outcome.UNCONFIRMED, settle.REPAIR),
        (replace(PENDING, refused="a hook has vetoed"), Outcome.REFUSED, "a hook has vetoed"),
        (replace(PENDING, nonce="", refused="/nokexec is there"), Outcome.REFUSED, "/nokexec is there"),
        (replace(ARRIVED, refused="never mind", failure="no network"), Outcome.FAILED, "no network"),
    ],
    ids=["lost", "hung later", "nobody confirms", "lost, unwatched", "elsewhere", "repair", "veto", "no image", "both"],
)
def test_the_next_boot_tells_what_became_of_it(
    machine: Machine, pending: PendingHandoff, outcome: Outcome, reason: str
) -> None:
    machine.boot("boot C")
    machine.record(pending)
    said = machine.conclude()
    assert (said.outcome, said.reason) == (outcome, reason)
    assert bool(machine.denied) is (outcome is Outcome.FAILED)
    assert machine.pending.seen_in == "boot C"
    assert machine.do(settle.conclude) is None and machine.past == (said,)


@pytest.mark.parametrize(("boot", "nonce"), [("boot A", ""), ("boot B", NONCE)], ids=["asked for here", "led to here"])
def test_what_may_still_come_is_not_concluded(machine: Machine, boot: str, nonce: str) -> None:
    machine.boot(boot, nonce)
    machine.record(PENDING)
    assert machine.do(settle.conclude) is None
    assert machine.pending == PENDING and machine.past == ()


def test_a_crash_kernel_with_our_nonce_tells_what_became_of_the_one_that_crashed(machine: Machine) -> None:
    machine.boot("the crash kernel", NONCE)
    machine.record(ARRIVED)
    assert machine.conclude().outcome is Outcome.FAILED


def dump(machine: Machine, place: str, text: str, written: float = 1200.0) -> None:
    machine.tree.write(place, text)
    os.utime(Path(machine.tree.root, place), (written, written))


PANIC = """\
Panic#1 Part1
<6>[    1.0] Run /init as init process
<0>[    1.5] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100
<4>[    1.6] CPU: 0 PID: 1 Comm: init Not tainted
"""
REASON = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"


@pytest.mark.parametrize(
    "place", ["sys/fs/pstore/dmesg-efi-170000001001", "var/lib/systemd/pstore/1700000010/001/dmesg.txt"]
)
def test_the_panic_that_the_platform_has_kept_is_the_reason(machine: Machine, place: str) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    dump(machine, place, PANIC)
    assert machine.conclude().reason == REASON


@pytest.mark.parametrize("written", [100.0, 860.0])
def test_a_panic_of_long_ago_is_no_reason(machine: Machine, written: float) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    dump(machine, "sys/fs/pstore/dmesg-efi-1", PANIC, written)
    assert machine.conclude().reason == LOST


def test_of_several_panics_the_newest_counts_and_a_log_without_one_says_nothing(machine: Machine) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    dump(machine, "sys/fs/pstore/dmesg-efi-1", PANIC, 1100.0)
    dump(machine, "sys/fs/pstore/dmesg-efi-2", PANIC.replace("Attempted to kill init!", "VFS: no root"), 1200.0)
    dump(machine, "sys/fs/pstore/dmesg-efi-3", "Oops#1 Part1\n", 1300.0)
    dump(machine, "sys/fs/pstore/console-ramoops-0", PANIC, 1300.0)
    assert "VFS: no root" in machine.conclude().reason


def test_a_panic_of_a_restart_that_was_refused_is_not_the_kernels(machine: Machine) -> None:
    """The old kernel's, on its way down through the firmware."""
    machine.boot("boot C")
    machine.record(replace(PENDING, refused="a hook has vetoed"))
    dump(machine, "sys/fs/pstore/dmesg-efi-1", PANIC)
    assert machine.conclude().outcome is Outcome.REFUSED


def test_a_watchdog_that_has_reset_the_machine_is_the_reason(machine: Machine) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    machine.tree.write("sys/class/watchdog/watchdog0/bootstatus", "32\n")
    machine.tree.write("sys/class/watchdog/watchdog0/identity", "i6300ESB timer\n")
    said = machine.conclude().reason
    assert said == "it never reported back: it hung, and the watchdog i6300ESB timer reset the machine"


@pytest.mark.parametrize("status", ["0\n", "8\n", "what\n", ""])
def test_a_watchdog_that_says_nothing_of_it_is_none(machine: Machine, status: str) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    machine.tree.write("sys/class/watchdog/watchdog0/bootstatus", status)
    assert machine.conclude().reason == LOST


def test_a_boot_that_is_left_in_good_order_stays_open_and_may_still_be_confirmed(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    machine.record(ARRIVED)
    machine.do(settle.unconfirmed, NONCE)
    machine.do(settle.unconfirmed, NONCE)
    assert [attempt.outcome for attempt in machine.past] == [Outcome.UNCONFIRMED]
    assert not machine.pending.settled
    machine.do(settle.confirmed, NONCE, "all is well")
    assert [attempt.outcome for attempt in machine.past] == [Outcome.CONFIRMED]
    assert machine.pending.settled


def test_a_boot_that_was_left_in_good_order_has_not_failed(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    machine.record(ARRIVED)
    machine.do(settle.unconfirmed, NONCE)
    machine.boot("boot C")
    assert machine.conclude().outcome is Outcome.UNCONFIRMED
    assert machine.denied == () and machine.pending.seen_in == "boot C" and len(machine.past) == 1


def test_but_one_that_gives_itself_up_afterwards_has(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    machine.record(ARRIVED)
    machine.do(settle.unconfirmed, NONCE)
    handoff.give_up("no network", str(machine.state), root=machine.tree.root)
    machine.boot("boot C")
    assert machine.conclude().outcome is Outcome.FAILED
    assert [denial.reason for denial in machine.denied] == ["no network"]


def test_a_restart_that_is_asked_for_before_the_last_one_is_confirmed_leaves_that_unconfirmed(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    machine.record(ARRIVED)
    said = machine.do(settle.leave)
    assert said and (said.outcome, said.reason, said.boot_id) == (Outcome.UNCONFIRMED, settle.LEFT, "boot B")
    machine.record(replace(PENDING, nonce="f" * 16, from_boot_id="boot B"))
    good = machine.do(settle.confirmed, NONCE, "it is good after all")
    assert good and machine.past == (good,) and good.outcome is Outcome.CONFIRMED


def test_a_restart_that_is_asked_for_where_a_boot_has_given_itself_up_settles_that(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    machine.record(replace(ARRIVED, failure="no network"))
    said = machine.do(settle.leave)
    assert said and said.outcome is Outcome.FAILED and machine.denied


def test_a_restart_that_nobody_has_told_of_is_told_of_before_its_record_goes(machine: Machine) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    settle.forget(state_dir=str(machine.state), root=machine.tree.root)
    assert handoff.read(str(machine.state)) is None
    assert [attempt.outcome for attempt in machine.past] == [Outcome.FAILED]


def test_what_is_asked_for_again_in_the_same_boot_was_no_attempt(machine: Machine) -> None:
    machine.boot("boot A")
    machine.record(PENDING)
    assert machine.do(settle.leave) is None
    settle.forget(state_dir=str(machine.state), root=machine.tree.root)
    assert machine.past == () and handoff.read(str(machine.state)) is None


def test_the_reason_of_a_boot_that_gave_itself_up_is_not_forgotten_in_it(machine: Machine) -> None:
    machine.boot("boot B", NONCE)
    pending = replace(ARRIVED, failure="no network")
    machine.record(pending)
    settle.forget(state_dir=str(machine.state), root=machine.tree.root)
    assert machine.pending == pending


def test_a_kernel_of_which_nothing_is_known_cannot_be_denied(machine: Machine) -> None:
    machine.boot("boot C")
    machine.record(replace(PENDING, kernel_sha256="", to_version=""))
    assert machine.conclude().outcome is Outcome.FAILED
    assert machine.denied == ()


def test_what_the_next_boot_says_when_it_is_asked_is_what_was_found_out(machine: Machine) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    machine.conclude()
    seen = handoff.arrival(str(machine.state), root=machine.tree.root)
    assert (seen.how, seen.reason) == (How.OTHER, f"the kexec that was asked for failed: {LOST}")


def test_a_power_cut_at_any_call_is_made_up_for_by_the_next_one_who_settles_it(machine: Machine) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    history.append(replace(_attempt(machine), nonce="e" * 16), str(machine.state))
    aside = machine.state.with_name("aside")
    reached = set()
    for _ in cuts(machine.state, lambda: machine.do(settle.conclude)):
        shutil.copytree(machine.state, aside)
        reached.add((len(machine.past), len(machine.denied), machine.pending.settled))
        machine.do(settle.conclude)
        assert [attempt.outcome for attempt in machine.past[1:]] == [Outcome.FAILED]
        assert len(machine.denied) == 1 and machine.pending.seen_in == "boot C"
        shutil.rmtree(aside)
    assert reached == {(1, 0, False), (2, 0, False), (2, 1, False), (2, 1, True)}


def test_what_is_forgiven_is_not_denied_again_for_the_same_attempt(machine: Machine) -> None:
    machine.boot("boot C")
    machine.record(PENDING)
    machine.conclude()
    deny.forgive_all(str(machine.state))
    assert machine.do(settle.conclude) is None and machine.do(settle.leave) is None
    assert machine.denied == ()


def test_twenty_attempts_good_and_bad_by_turns_leave_everything_exact(machine: Machine) -> None:
    boot = "boot 0"
    for number in range(20):
        nonce, good = f"{number:016x}", number % 2 == 0
        pending = replace(PENDING, nonce=nonce, from_boot_id=boot, kernel_sha256=f"{number:064x}")
        machine.boot(boot)
        machine.record(pending)
        machine.boot(f"boot {number + 1}", nonce)
        handoff.arrived(str(machine.state), root=machine.tree.root)
        if good:
            machine.do(settle.confirmed, nonce, "all is well")
            boot = f"boot {number + 1}"
        else:
            handoff.give_up("no network", str(machine.state), root=machine.tree.root)
            boot = f"boot {number + 1}, back"
            machine.boot(boot)
            machine.conclude()
    expected = [Outcome.CONFIRMED, Outcome.FAILED] * 10
    assert [attempt.outcome for attempt in machine.past] == expected
    assert [denial.kernel_sha256 for denial in machine.denied] == [f"{number:064x}" for number in range(1, 20, 2)]
    assert history.debt(machine.past, boot) == 0
    assert history.debt(machine.past[:-1], "boot 19") == 1


def _attempt(machine: Machine) -> Attempt:
    state = machine.state.with_name("another")
    handoff.write(PENDING, str(state))
    said = settle.conclude(state_dir=str(state), root=machine.tree.root)
    assert said
    return said
