# SPDX-License-Identifier: MIT
"""The judge: watches a guest go down and come back, and says how, and whether its filesystems were clean.

It counts what the guest cannot forge: QEMU's RESET event, the boot id, and a nonce that only the jump can
have brought. Until the old system is gone it only listens, so that the measured way down is not disturbed by
its questions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.vm.lab import evidence
from tests.vm.lab.errors import AgentError, LabTimeout, QemuGone
from tests.vm.lab.evidence import Facts, Kind
from tests.vm.lab.guest import Guest, Mark

# What fsck and the kernel say about a filesystem, wherever this kind of guest keeps it. It adds to the
# console what quiet boots hide there.
_REPORTS = """
dmesg
cat /run/initramfs/fsck.log /var/log/fsck/* 2>/dev/null
journalctl --boot --no-pager --output=cat SYSLOG_IDENTIFIER=systemd-fsck 2>/dev/null
true
"""

PANIC_GRACE = 5.0
"""Seconds to go on listening after a panic: a kernel with panic=N may still reset the machine."""


@dataclass(frozen=True)
class Restart:
    """How a guest restarted.

    Times are seconds from the mark, by the host's clock; None for what did not happen.
    """

    kind: Kind
    seconds_to_jump: float | None
    seconds_to_reset: float | None
    seconds_to_answer: float | None
    recovered: tuple[str, ...]
    old_kernel: str | None
    new_kernel: str | None
    nonce: str | None
    nonce_found: bool
    boot_id_changed: bool
    last_words: str | None
    """A panic, or an emergency shell, in the new system."""

    @property
    def clean(self) -> bool:
        """Whether the guest came back and no filesystem had to be recovered."""
        return self.kind in (Kind.KEXEC, Kind.FIRMWARE) and not self.recovered

    def explain(self) -> str:
        """One sentence for a person, and for an assertion's message."""
        parts = [self._what()]
        if self.recovered:
            parts.append(f"NOT CLEAN: {'; '.join(self.recovered)}")
        elif self.clean:
            parts.append("no filesystem was recovered")
        if self.last_words:
            parts.append(f"the console said: {self.last_words}")
        return ", ".join(parts)

    def _what(self) -> str:
        kernels = f"from {self.old_kernel or 'an unknown kernel'} to {self.new_kernel or 'an unknown kernel'}"
        answer = f"answered after {_seconds(self.seconds_to_answer)}"
        match self.kind:
            case Kind.KEXEC:
                return f"kexec {kernels}: jumped after {_seconds(self.seconds_to_jump)}, {answer}"
            case Kind.FIRMWARE:
                jump = (
                    f" (a kernel was started after {_seconds(self.seconds_to_jump)} and lost)"
                    if self.seconds_to_jump
                    else ""
                )
                reset = _seconds(self.seconds_to_reset)
                return f"firmware reboot {kernels}: reset after {reset}{jump}, {answer}"
            case Kind.POWEROFF:
                return "the machine was powered off"
            case Kind.NONE:
                return self._why_none()

    def _why_none(self) -> str:
        if self.boot_id_changed and not self.nonce_found:
            return f"not our kexec: a new kernel runs, no reset, and no {self.nonce} on its command line"
        if self.seconds_to_jump is not None:
            return f"a kernel was started after {_seconds(self.seconds_to_jump)}, and never answered"
        if self.seconds_to_reset is not None:
            return f"the machine was reset after {_seconds(self.seconds_to_reset)}, and never answered"
        return "no restart: the old system was still there when the time was over"


def judge(
    guest: Guest, mark: Mark, nonce: str | None, old_boot_id: str, *, timeout: float = 120.0
) -> Restart:
    """Wait until the guest has restarted and is up again, `timeout` seconds from now at most, and judge that.

    `mark` is the moment just before the restart was asked for. With `nonce` None any command line will do.
    Raises LabTimeout when the new system answers but does not come up.
    """
    deadline = time.monotonic() + timeout
    new_boot_id, answered = _wait_for_new_boot(guest, mark, old_boot_id, deadline)
    cmdline, reports = None, ""
    if new_boot_id is not None:
        guest.wait_ready(max(5.0, deadline - time.monotonic()))
        cmdline = guest.cmdline()
        reports = guest.run("/bin/sh", "-c", _REPORTS).stdout
    lines, events = guest.lines(mark), guest.events(mark)
    fatal = evidence.last_words(lines, events)
    jump, reset = evidence.jump_time(lines), evidence.event_time(events, "RESET")
    nonce_found = nonce is None or nonce in (cmdline or "")
    kind = evidence.classify(
        Facts(_powered_off(guest, mark), reset is not None, old_boot_id, new_boot_id, cmdline, nonce)
    )
    console = evidence.after_the_restart(lines, events)
    return Restart(
        kind=kind,
        seconds_to_jump=_since(mark, jump),
        seconds_to_reset=_since(mark, reset),
        seconds_to_answer=_since(mark, answered),
        recovered=evidence.replayed((*console, *reports.splitlines())),
        old_kernel=evidence.kernel_version([line.text for line in guest.lines_before(mark)]),
        new_kernel=guest.uname() if new_boot_id else evidence.kernel_version(console),
        nonce=nonce,
        nonce_found=nonce_found,
        boot_id_changed=new_boot_id not in (None, old_boot_id),
        last_words=None if fatal is None else fatal.text,
    )


def _wait_for_new_boot(
    guest: Guest, mark: Mark, old_boot_id: str, deadline: float
) -> tuple[str | None, float | None]:
    """The new boot's id and the time of its first answer, or (None, None) when none comes."""
    while time.monotonic() < deadline:
        if _powered_off(guest, mark):
            return None, None
        lines, events = guest.lines(mark), guest.events(mark)
        fatal = evidence.last_words(lines, events)
        if fatal is not None and time.monotonic() > fatal.at + PANIC_GRACE:
            return None, None
        if not evidence.new_boot_begun(lines, events):
            guest.wait_for_change(0.2)
            continue
        try:
            if guest.answers(1.0):
                answered = time.monotonic()
                boot_id = guest.boot_id(timeout=5)
                if boot_id != old_boot_id:
                    return boot_id, answered
        except (LabTimeout, AgentError):
            pass  # the agent went away between two questions: its system is going down
        except QemuGone:
            return None, None
        guest.wait_for_change(0.2)
    return None, None


def _powered_off(guest: Guest, mark: Mark) -> bool:
    return not guest.running or evidence.event_time(guest.events(mark), "SHUTDOWN") is not None


def _since(mark: Mark, at: float | None) -> float | None:
    return None if at is None else round(at - mark.at, 3)


def _seconds(value: float | None) -> str:
    return "an unknown time" if value is None else f"{value:.1f} s"
