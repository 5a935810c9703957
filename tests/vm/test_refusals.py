# SPDX-License-Identifier: MIT
"""What cannot be done safely is refused in one sentence, and the machine goes on as if nobody had asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.errors import ExitCode
from tests.vm.lab.guest import Guest
from tests.vm.lab.snapshot import Snapshot


@pytest.fixture(scope="module")
def machine(systemd_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """One guest for all refusals: that it serves the next one is what each of them has to leave."""
    with Guest.from_snapshot(systemd_snapshot, workdir=tmp_path_factory.mktemp("refusals")) as guest:
        yield guest


@pytest.fixture(autouse=True)
def nothing_changes(machine: Guest) -> Iterator[None]:
    """Nothing killed, nothing loaded, the same boot."""
    before = _state(machine)
    yield
    assert _state(machine) == before


def _state(guest: Guest) -> tuple[str, str, list[str]]:
    services = guest.run("systemctl", "list-units", "--type=service", "--state=running", "--plain", "--no-legend")
    loaded = guest.run("cat", "/sys/kernel/kexec_loaded").stdout.strip()
    running = {line.split()[0] for line in services.stdout.splitlines()}
    return guest.boot_id(), loaded, sorted(running - {"systemd-fsckd.service"})  # which leaves a while after the boot


def refused(guest: Guest, *arguments: str, user: str | None = None) -> tuple[ExitCode, str]:
    """The exit code and the sentence of `kexecctl reboot --fast`; both outputs have to tell the same."""
    done = guest.run("/usr/sbin/kexecctl", "reboot", "--fast", "--json", *arguments, user=user, timeout=60, check=False)
    told = json.loads(done.stdout.splitlines()[-1])["refused"]  # the last line, after the events
    sentence = done.stderr.splitlines()[0].removeprefix("kexecctl: ")
    assert told["why"] in sentence and told["instead"] in sentence, done.stderr
    assert told["exit"] == ExitCode(done.exit_code).label
    assert "Traceback" not in done.stderr
    return ExitCode(done.exit_code), sentence


def test_no_kernel_at_all(machine: Guest) -> None:
    machine.run("sh", "-c", "mkdir /boot.away && mv /boot/vmlinuz-* /boot.away/")
    try:
        code, sentence = refused(machine)
    finally:
        machine.run("sh", "-c", "mv /boot.away/* /boot/ && rmdir /boot.away")
    assert code is ExitCode.NO_ENTRY
    assert "/boot" in sentence


def test_a_truncated_kernel(machine: Guest) -> None:
    machine.run("sh", "-c", "head -c 3000000 $(ls /boot/vmlinuz-6.12*) > /root/truncated")
    code, sentence = refused(machine, "--kernel", "/root/truncated")
    assert code is ExitCode.BAD_IMAGE
    assert "/root/truncated" in sentence and "missing" in sentence


def test_a_directory_as_kernel(machine: Guest) -> None:
    code, sentence = refused(machine, "--kernel", "/boot")
    assert code is ExitCode.BAD_IMAGE
    assert "it is a directory" in sentence


def test_somebody_who_is_not_root(machine: Guest) -> None:
    code, sentence = refused(machine, user="guest")
    assert code is ExitCode.NOT_PERMITTED
    assert "root" in sentence


def test_kexec_switched_off_by_sysctl(systemd_snapshot: Snapshot, machine: Guest, tmp_path: Path) -> None:
    """The sysctl cannot be taken back, so this guest is one of its own."""
    with Guest.from_snapshot(systemd_snapshot, workdir=tmp_path) as guest:
        guest.run("sysctl", "-w", "kernel.kexec_load_disabled=1")
        before = _state(guest)
        code, sentence = refused(guest)
        assert _state(guest) == before
    assert code is ExitCode.FORBIDDEN
    assert "kexec_load_disabled" in sentence
