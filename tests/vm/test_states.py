# SPDX-License-Identifier: MIT
"""normal, prepared, frozen, updated: hooks that have a say, a restart that is taken back, one that is told to hurry."""

from __future__ import annotations

import json
import re

from kexecd.errors import ExitCode
from kexecd.model import Event, EventKind
from kexecd.report.events import as_text
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Completed, Guest
from tests.vm.lab.oracle import judge
from tests.vm.test_faults import scene

LOG = """#!/bin/sh
echo "$KEXECD_CALL $KEXECD_STATE" >> /data/hook.log
"""
SLOW = """#!/bin/sh
[ "$KEXECD_CALL" = prepare ] || exit 0
touch /run/hook.waits
exec sleep 50
"""
VETO = """#!/bin/sh
[ "$KEXECD_CALL" = prepare ] || exit 0
echo 'the backup is still running' >&2
exit 1
"""


def kexecctl(guest: Guest, *arguments: str) -> Completed:
    return guest.run("/usr/sbin/kexecctl", *arguments, timeout=90, check=False)


def hook(guest: Guest, name: str, text: str) -> None:
    guest.put(f"/etc/kexecd/hooks.d/{name}", text.encode(), mode=0o755)


def waiting_restart(guest: Guest) -> None:
    """A fast restart that waits for a hook, before the commit point."""
    hook(guest, "50-slow", SLOW)
    guest.put("/etc/kexecd/kexecd.yaml", b"hooks:\n  - name: slow\n    timeout: 60\n")
    guest.spawn("/usr/sbin/kexecctl", "reboot", "--fast")
    guest.run("timeout", "60", "sh", "-c", "until [ -e /run/hook.waits ]; do sleep 0.1; done", timeout=70)


def test_a_restart_that_waits_can_be_cancelled_and_a_second_one_is_told_who_is_at_it(guest: Guest) -> None:
    guest.run("mkdir", "-p", "/run/kexecd")
    guest.run("touch", "/run/kexecd/lock")
    before = scene(guest)
    hook(guest, "20-log", LOG)
    waiting_restart(guest)
    second = kexecctl(guest, "reboot", "--fast")
    assert second.exit_code == ExitCode.BUSY, second
    assert re.search(r"process \d+ \(restart this machine\) is at it already", second.stderr), second.stderr
    cancelled = kexecctl(guest, "cancel")
    assert cancelled.exit_code == 0, cancelled
    assert "the restart is cancelled" in cancelled.stdout
    calls = guest.run("cat", "/data/hook.log").stdout.splitlines()
    assert calls == ["prepare normal", "cancel prepared"], calls
    after = scene(guest)
    # kexecd.yaml and the hooks are the test's own, and on no list.
    assert after == before
    again = kexecctl(guest, "cancel")
    assert again.exit_code == 0 and "no restart is under way" in again.stdout


def test_a_second_request_may_make_the_first_one_hurry(guest: Guest) -> None:
    waiting_restart(guest)
    old, mark = guest.boot_id(), guest.mark()
    nonce = json.loads(guest.run("cat", "/run/kexecd/image.json").stdout)["nonce"]
    guest.spawn("/usr/sbin/kexecctl", "reboot", "--now")
    seen = judge(guest, mark, nonce, old)
    said = "\n".join(line.text for line in guest.lines(mark) if "kexecd: " in line.text)
    assert seen.kind is Kind.KEXEC and not seen.recovered, f"{seen.explain()}\n{said}"
    assert "says --now" in said and "services" not in said, said


def test_a_veto_is_told_and_leaves_the_machine_as_it_was_in_either_way(guest: Guest) -> None:
    hook(guest, "50-veto", VETO)
    guest.run("mkdir", "-p", "/run/kexecd")
    guest.run("touch", "/run/kexecd/lock")
    before = scene(guest)
    for way in ((), ("--fast",)):
        done = kexecctl(guest, "reboot", *way)
        assert done.exit_code == ExitCode.NOT_RESTARTED, done
        assert "the backup is still running" in done.stderr, done.stderr
        assert scene(guest) == before


def test_what_is_done_is_what_was_planned_and_the_hooks_live_through_all_states(guest: Guest) -> None:
    hook(guest, "50-log", LOG)
    nonce = json.loads(kexecctl(guest, "load", "--json").stdout)["image"]["nonce"]
    plan = json.loads(kexecctl(guest, "plan", "--fast", "--json").stdout)
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("/usr/sbin/kexecctl", "reboot", "--fast")
    seen = judge(guest, mark, nonce, old)
    console = [line.text.removeprefix("kexecd: ") for line in guest.lines(mark) if line.text.startswith("kexecd: ")]
    assert seen.kind is Kind.KEXEC and not seen.recovered, f"{seen.explain()}\n" + "\n".join(console)
    planned = [
        as_text(Event(EventKind.STEP, 0.0, phase["name"], step["name"], step["does"]))
        for phase in plan["phases"]
        for step in phase["steps"]
    ]
    done = [line for line in console if _comparable(line) in set(map(_comparable, planned))]
    assert [_comparable(line) for line in done] == [_comparable(line) for line in planned], "\n".join(console)
    assert [line for line in console if "call reboot(2)" in line or "calling reboot(2)" in line], "\n".join(console)

    finished = kexecctl(guest, "finish")
    assert finished.exit_code == 0, finished
    kexecctl(guest, "finish")
    calls = guest.run("cat", "/data/hook.log").stdout.splitlines()
    assert calls == ["prepare normal", "freeze prepared", "finish updated"], calls


def _comparable(line: str) -> str:
    """Without the names of processes: the kexecctl that plans is not the one that restarts."""
    return re.sub(r"\([^()]*\(\d+\).*", "(PROCESSES)", line)


def test_what_pid_1_has_begun_cannot_be_cancelled_any_more(guest: Guest) -> None:
    """Asked by a unit that is being stopped: whoever else could ask is gone by then."""
    stop = "/bin/sh -c '/usr/sbin/kexecctl cancel > /data/cancel.log 2>&1'"
    unit = f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop={stop}\n"
    guest.put("/run/systemd/system/asks-late.service", unit.encode())
    guest.run("systemctl", "daemon-reload")
    guest.run("systemctl", "start", "asks-late.service")
    nonce = json.loads(kexecctl(guest, "load", "--json").stdout)["image"]["nonce"]
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("/usr/sbin/kexecctl", "reboot")
    seen = judge(guest, mark, nonce, old)
    assert seen.kind is Kind.KEXEC and not seen.recovered, seen.explain()
    assert "PID 1 is taking this machine down already" in guest.run("cat", "/data/cancel.log").stdout
