# SPDX-License-Identifier: MIT
"""A new boot is found good, or goes back to the old one within its limit, on both kinds of init, by a real kexec."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.history import Attempt, Outcome
from tests.vm.doors import guests
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.oracle import Restart, judge
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD, GENTOO_OPENRC_INIT, Recipe

KEXECCTL = "/usr/sbin/kexecctl"
POLICY = "/etc/kexecd/kexecd.yaml"
HISTORY, DENY = "/var/lib/kexecd/history.jsonl", "/var/lib/kexecd/deny.json"

SETTLING = 60
"""Seconds from the end of a boot to the record of what became of it, emulated."""

GOING_BACK = 90.0
"""Seconds from the end of the limit to the old system, emulated."""


@pytest.fixture(params=[DEBIAN12_SYSTEMD, GENTOO_OPENRC_INIT], ids=lambda recipe: str(recipe.name))
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    recipe: Recipe = request.param
    with guests.start(recipe, tmp_path) as guest:
        yield guest


def kexec(guest: Guest, *arguments: str) -> Restart:
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn(KEXECCTL, "reboot", "--fast", *arguments)
    seen = judge(guest, mark, None, old, timeout=150)
    assert seen.kind is Kind.KEXEC, seen.explain()
    return seen


def settled(guest: Guest) -> Attempt:
    """What the history says last, once it says something."""
    guest.run("timeout", str(SETTLING), "sh", "-c", f"until [ -s {HISTORY} ]; do sleep 0.2; done", timeout=SETTLING + 9)
    fields = json.loads(guest.get(HISTORY).decode().splitlines()[-1])
    fields.pop("schema")
    return Attempt(**{**fields, "outcome": Outcome(fields["outcome"])})


def test_a_good_kexec_is_confirmed_when_its_health_checks_are_good(machine: Guest) -> None:
    machine.put(POLICY, b"confirm:\n  limit: 120\n  commands: [/bin/true]\n")
    kexec(machine)
    boot, attempt = machine.boot_id(), settled(machine)
    assert attempt.outcome is Outcome.CONFIRMED, attempt
    assert "all health checks are good" in attempt.reason and attempt.boot_id == boot
    gone = "until ! pgrep -f '[k]execctl confirm'; do sleep 0.2; done"
    machine.run("timeout", "20", "sh", "-c", gone, timeout=30)
    assert machine.boot_id() == boot, "a boot that was confirmed is left alone"


@pytest.mark.parametrize("machine", [DEBIAN12_SYSTEMD], indirect=True, ids=lambda recipe: str(recipe.name))
def test_a_boot_whose_health_check_fails_goes_back_through_the_firmware_within_its_limit(machine: Guest) -> None:
    """With OpenRC it is a case of tests/vm/campaign, also of those that `make test` runs."""
    machine.put(POLICY, b"confirm:\n  limit: 80\n  commands: ['/bin/sh -c \"echo the database is down; exit 1\"']\n")
    seen = kexec(machine)
    mark, bad = machine.mark(), machine.boot_id()
    back = judge(machine, mark, None, bad, timeout=80 + GOING_BACK)
    assert back.kind is Kind.FIRMWARE and not back.recovered, back.explain()
    assert back.seconds_to_reset is not None and seen.seconds_to_answer is not None
    attempt = settled(machine)
    assert attempt.outcome is Outcome.FAILED and attempt.boot_id == bad, attempt
    assert "the database is down" in attempt.reason
    (denied,) = json.loads(machine.get(DENY).decode())["denied"]
    assert denied["nonce"] == attempt.nonce


def test_with_a_pid_1_that_has_crashed_it_goes_back_all_the_same(tmp_path: Path) -> None:
    """systemd catches its own crash, and then does nothing any more: no bus, no stop, no restart (systemd(1))."""
    with guests.start(DEBIAN12_SYSTEMD, tmp_path) as guest:
        guest.put(POLICY, b"confirm:\n  limit: 90\n  commands: [/bin/false]\n")
        kexec(guest)
        mark, bad = guest.mark(), guest.boot_id()
        guest.run("kill", "-SEGV", "1")
        back = judge(guest, mark, None, bad, timeout=90 + GOING_BACK + 60)
        assert back.kind is Kind.FIRMWARE and not back.recovered, back.explain()
        attempt = settled(guest)
        assert attempt.outcome is Outcome.FAILED, attempt
        assert attempt.reason.startswith("it was not confirmed within 90 s: "), attempt
