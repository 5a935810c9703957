# SPDX-License-Identifier: MIT
"""The whole chain in a real guest: what kexecctl is asked for, what the machine does, and what is left of the data."""

from __future__ import annotations

import json

import pytest

from kexecd.config.policy import Policy
from kexecd.kernel.cmdline import canonical
from tests.vm import applications
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Completed, Guest
from tests.vm.lab.oracle import Restart, judge


def kexecctl(guest: Guest, *arguments: str, user: str | None = None) -> Completed:
    return guest.run("/usr/sbin/kexecctl", *arguments, user=user, timeout=60, check=False)


def restart(guest: Guest, *arguments: str, nonce: bool = True) -> Restart:
    """Restart through kexecctl and look at what happened. The nonce is read from the image that was loaded before."""
    old, mark = guest.boot_id(), guest.mark()
    expected = None
    if nonce:
        done = kexecctl(guest, "load", "--json")
        assert done.exit_code == 0, done.stderr
        expected = json.loads(done.stdout)["image"]["nonce"]
        mark = guest.mark()
    guest.spawn("/usr/sbin/kexecctl", "reboot", *arguments)
    return judge(guest, mark, expected, old)


def assert_clean_kexec(guest: Guest, seen: Restart) -> None:
    assert seen.kind is Kind.KEXEC, seen.explain()
    assert not seen.recovered, seen.explain()
    assert (seen.old_kernel or "").startswith("6.1.") and (seen.new_kernel or "").startswith("6.12."), seen.explain()
    status = json.loads(kexecctl(guest, "status", "--json").stdout)
    assert status["arrival"]["how"] == "kexec", status


def test_fast_loses_nothing_of_what_applications_wrote(guest: Guest) -> None:
    applications.start(guest)
    mark = guest.mark()
    seen = restart(guest, "--fast")
    assert_clean_kexec(guest, seen)
    assert applications.lost(guest) == {}
    # One that ignores TERM and one that takes 2 s do not hold it beyond the deadline, which counts from here.
    commit = guest.wait_for_line("kexecd: commit point", mark, 5).at
    jump = guest.wait_for_line("Starting new kernel", mark, 5).at
    assert jump - commit < Policy().within, seen.explain()


def test_now_jumps_with_clean_filesystems_although_nobody_was_asked(guest: Guest) -> None:
    applications.start(guest, "hasty", "stubborn")
    seen = restart(guest, "--now")
    assert_clean_kexec(guest, seen)
    assert applications.lost(guest, "hasty") == {}


def test_orderly_leaves_it_to_pid_1(guest: Guest) -> None:
    applications.start(guest, "careful")
    seen = restart(guest)
    assert_clean_kexec(guest, seen)
    assert applications.lost(guest, "careful") == {}


def test_fast_loads_by_itself_and_boots_the_newest_kernel(guest: Guest) -> None:
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("/usr/sbin/kexecctl", "reboot", "--fast")
    guest.wait_for_line("Starting new kernel", mark, 60)
    guest.wait_ready()
    assert guest.boot_id() != old
    assert guest.uname().startswith("6.12.")
    status = json.loads(kexecctl(guest, "status", "--json").stdout)
    assert status["arrival"]["how"] == "kexec"
    assert f"kexecd.nonce={status['arrival']['pending']['nonce']}" in guest.cmdline().split()


@pytest.mark.parametrize("way", [(), ("--fast",), ("--now",)], ids=["orderly", "fast", "now"])
def test_firmware_ends_in_a_reset_also_when_an_image_is_loaded(guest: Guest, way: tuple[str, ...]) -> None:
    assert kexecctl(guest, "load").exit_code == 0
    seen = restart(guest, "--firmware", *way, nonce=False)
    assert seen.kind is Kind.FIRMWARE, seen.explain()
    assert not seen.recovered, seen.explain()
    assert seen.new_kernel == seen.old_kernel


def test_a_kexec_after_a_kexec_leaves_the_command_line_as_it_was(guest: Guest) -> None:
    before = canonical(guest.cmdline())
    for _ in range(2):
        assert restart(guest, "--now").kind is Kind.KEXEC
        assert guest.cmdline().endswith(" panic=30 rd.shell=0 rd.emergency=reboot")
        assert canonical(guest.cmdline()) == before
