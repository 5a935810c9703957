# SPDX-License-Identifier: MIT
"""`make demo`: a guest restarts through a real kexec, and what can be proved about it is printed.

Exits with 1 if anything that it shows is not as it should be.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from tests.vm import applications
from tests.vm.applications import APPLICATIONS, HASTY_MIB
from tests.vm.lab.booted import booted
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest, Mark
from tests.vm.lab.image import build
from tests.vm.lab.oracle import Restart, judge
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD
from tests.vm.lab.snapshot import Snapshot

KEXECCTL = "/usr/sbin/kexecctl"
DAEMON_IS_THERE = f"until [ -S /run/kexecd/request ]; do sleep 0.2; done; exec {KEXECCTL} status"


def main() -> int:
    begin = time.monotonic()
    snapshot = booted(build(DEBIAN12_SYSTEMD))
    with tempfile.TemporaryDirectory(prefix="kexecd-demo-") as directory:
        kexec, lost = _at_work(snapshot, Path(directory))
        idle = _idle(snapshot, Path(directory) / "idle", KEXECCTL, "reboot", "--fast")
        firmware = _idle(snapshot, Path(directory) / "firmware", "systemctl", "reboot")
    good = _verdict(kexec, idle, firmware, lost)
    print(f"\n{'All of it holds.' if good else 'NOT AS IT SHOULD BE.'} The demo took {time.monotonic() - begin:.0f} s.")
    return 0 if good else 1


def _at_work(snapshot: Snapshot, directory: Path) -> tuple[Restart, dict[str, str]]:
    (directory / "kexec").mkdir()
    with Guest.from_snapshot(snapshot, workdir=directory / "kexec") as guest:
        _title(f"A Debian 12 guest, Linux {guest.uname()}, with three applications")
        for application in APPLICATIONS:
            print(f"  {application.name:<9} {application.does}")
        applications.start(guest)
        _show(guest, "load")
        nonce = json.loads(guest.run(KEXECCTL, "status", "--json").stdout)["image"]["nonce"]
        _show(guest, "plan", "--fast")
        _title("kexecctl reboot --fast")
        old, mark = guest.boot_id(), guest.mark()
        guest.spawn(KEXECCTL, "reboot", "--fast")
        seen = judge(guest, mark, nonce, old)
        _what_it_said(guest, mark)
        _show(guest, "status")
        return seen, applications.lost(guest)


def _idle(snapshot: Snapshot, directory: Path, *command: str) -> Restart:
    directory.mkdir()
    with Guest.from_snapshot(snapshot, workdir=directory) as guest:
        _title(f"The same guest, idle: {' '.join(command).removeprefix('/usr/sbin/')}")
        if command[0] == KEXECCTL:
            guest.run(KEXECCTL, "load", timeout=60)
            # It has the daemon started, which on a machine that nobody has just loaded is there already.
            guest.run("/bin/sh", "-c", DAEMON_IS_THERE, timeout=60)
        old, mark = guest.boot_id(), guest.mark()
        guest.spawn(*command)
        seen = judge(guest, mark, None, old)
        print(f"  {seen.explain()}")
        return seen


def _verdict(kexec: Restart, idle: Restart, firmware: Restart, lost: dict[str, str]) -> bool:
    _title("Verdict")
    checks = (
        (kexec.kind is Kind.KEXEC, "it was a kexec", "nonce on the new command line, new boot id, no reset event"),
        (kexec.new_kernel != kexec.old_kernel, "the right kernel", f"{kexec.old_kernel} -> {kexec.new_kernel}"),
        (not lost, "every file is intact", f"careful's state and hasty's {HASTY_MIB} MB, by SHA-256" + _but(lost)),
        (kexec.clean, "no journal was replayed", "by the kernel or by fsck, on / and /data" + _but(kexec.recovered)),
        (idle.kind is Kind.KEXEC and idle.clean, "idle, it is one too", f"{idle.old_kernel} -> {idle.new_kernel}"),
        (firmware.kind is Kind.FIRMWARE, "the other was a reset", f"{firmware.old_kernel} -> {firmware.new_kernel}"),
    )
    for holds, what, how in checks:
        print(f"  {'yes' if holds else 'NO '}  {what:<24} {how}")
    print()
    print(f"  {'':<36}{'until the jump or reset':>24}{'until it answers':>20}")
    print(_times("kexecctl reboot --fast, at work", kexec.seconds_to_jump, kexec.seconds_to_answer))
    print(_times("kexecctl reboot --fast, idle", idle.seconds_to_jump, idle.seconds_to_answer))
    print(_times("systemctl reboot, idle", firmware.seconds_to_reset, firmware.seconds_to_answer))
    print("\n  5 s of the first are the grace of the application that ignores TERM. The kernel was loaded before. An")
    print("  emulated machine's firmware takes a second; a server's takes minutes, and that is what a kexec saves.")
    return all(holds for holds, _, _ in checks)


def _show(guest: Guest, *arguments: str) -> None:
    _title(f"kexecctl {' '.join(arguments)}")
    print(_indented(guest.run(KEXECCTL, *arguments, timeout=60).stdout))


def _what_it_said(guest: Guest, mark: Mark) -> None:
    """The lines that kexecd wrote to the guest's console, with the seconds since the command was given."""
    for line in guest.lines(mark):
        if "kexecd: " in line.text or "Starting new kernel" in line.text:
            print(f"  {line.at - mark.at:6.2f}  {line.text.split('kexecd: ')[-1].strip()}")


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())


def _but(what: object) -> str:
    return f", BUT {what}" if what else ""


def _times(what: str, gone: float | None, back: float | None) -> str:
    return f"  {what:<36}{_seconds(gone):>24}{_seconds(back):>20}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
