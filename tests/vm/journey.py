# SPDX-License-Identifier: MIT
"""One kexec of the storage guest while everything is at work, and all that can be said about it afterwards."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tests.vm import dead_server, writers
from tests.vm.lab.delivery import deliver
from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest, Mark
from tests.vm.lab.oracle import Restart, judge
from tests.vm.writers import Content

KEXECCTL = "/usr/sbin/kexecctl"

WITHIN = 20.0
"""Seconds from the plan's start to the jump. Twice what kexecd takes when nobody says anything else, since this CPU is
emulated: ten to thirty times slower than the host's."""

POLICY = b"grace:\n  services: 6\n"
"""For the same reason: systemd itself needs seconds before it has asked the last of thirty units."""

OUTPUT = "/run/kexecctl.out"
"""What kexecctl says, for when it refuses: nobody is at its terminal."""

RESTART_TIMEOUT = 240.0
"""Seconds for a restart that went through the firmware after all, on a slow CI machine."""

# What has to be there again, each on a line of its own: a filesystem that did not come up would have nothing to say.
# First those are mounted that systemd has just unmounted, because udev looked at a disk of theirs once more while they
# were being mounted: seen with the two disks of Btrfs, in a first boot on a busy machine.
STANDING = """
mount --all
for point in / /boot /data /srv/xfs /srv/btrfs /srv/loop /srv/overlay; do
    findmnt --noheadings --raw --output TARGET,FSTYPE --mountpoint "$point"
done
tail -n +2 /proc/swaps | cut -d' ' -f1
cd /sys/block/md*/md && echo "mirror $(cat degraded) $(cat sync_action)"
dmesg | grep -o 'XFS (md[0-9]*): Ending clean mount' | cut -d' ' -f3-
btrfs device stats --check /srv/btrfs > /dev/null && echo btrfs without errors
"""
EXPECTED = """\
/ ext4
/boot ext4
/data ext4
/srv/xfs xfs
/srv/btrfs btrfs
/srv/loop ext4
/srv/overlay overlay
/data/swapfile
mirror 0 idle
Ending clean mount
btrfs without errors
"""

_VERDICT = re.compile(r"kexecd: verdict: ((?:clean|expected residue|dirty)\b.*)")
_BEGIN = re.compile(r"kexecd: going down: ")


@dataclass(frozen=True, slots=True)
class Kexec:
    """down: seconds from the plan's start to the jump, which the deadline is about."""

    number: int
    wanted: str
    restart: Restart
    down: float | None
    verdict: str
    said: dict[str, Content]
    kept: dict[str, Content]
    standing: str
    told: str

    @property
    def lost(self) -> tuple[str, ...]:
        """The writers whose files are not what they said that they had written."""
        return tuple(name for name, content in self.kept.items() if self.said.get(name) != content)

    @property
    def problems(self) -> tuple[str, ...]:
        late = f"{_seconds(self.down)} to the jump, allowed: {WITHIN:g} s"
        checks = (
            (self.restart.kind is Kind.KEXEC, self.restart.explain()),
            (not self.restart.recovered, f"replayed: {'; '.join(self.restart.recovered)}"),
            (self.restart.new_kernel == self.wanted, f"{self.restart.new_kernel} runs and not {self.wanted}"),
            (not self.lost, "; ".join(f"{name}: {self.said.get(name)}, now {self.kept[name]}" for name in self.lost)),
            (self.standing == EXPECTED, f"what stands now is:\n{self.standing}"),
            (self.verdict.startswith(("clean", "expected residue")), f"the verdict was: {self.verdict or 'none'}"),
            (self.down is not None and self.down <= WITHIN, late),
        )
        return tuple(problem for holds, problem in checks if not holds)

    def line(self) -> str:
        """One line for a person."""
        files = sum(content.files for content in self.said.values())
        replayed = "; ".join(self.restart.recovered) or "nothing replayed"
        lost = f"LOST: {', '.join(self.lost)}" if self.lost else f"{files} files intact"
        return (
            f"{self.number:3}  {self.restart.new_kernel}  jump after {_seconds(self.down)}"
            f" ({_seconds(self.restart.seconds_to_jump)} after the command), back after"
            f" {_seconds(self.restart.seconds_to_answer)}, {replayed}, {lost}; {self.verdict or 'no verdict'}"
        )

    def as_json(self) -> dict[str, object]:
        return {
            "number": self.number,
            "kind": str(self.restart.kind),
            "from": self.restart.old_kernel,
            "to": self.restart.new_kernel,
            "seconds": {
                "command-to-jump": self.restart.seconds_to_jump,
                "plan-to-jump": self.down,
                "command-to-answer": self.restart.seconds_to_answer,
            },
            "verdict": self.verdict,
            "replayed": list(self.restart.recovered),
            "files": {name: content.files for name, content in self.said.items()},
            "lost": list(self.lost),
            "problems": list(self.problems),
        }


def prepare(guest: Guest) -> None:
    """Put this checkout's project into the guest."""
    deliver(guest)
    guest.put("/etc/kexecd/kexecd.yaml", POLICY)
    standing = guest.run("sh", "-c", STANDING, timeout=60, check=False).stdout
    assert standing == EXPECTED, f"before the first kexec there is:\n{standing}"


def kexec(guest: Guest, number: int) -> Kexec:
    """Put everything to work, kexec into the kernel that is not running, and look."""
    wanted = _other_kernel(guest)
    dead_server.make(guest)
    writers.start(guest)
    loaded = guest.run(KEXECCTL, "load", wanted, "--json", timeout=60)
    nonce = json.loads(loaded.stdout)["image"]["nonce"]
    old, mark = guest.boot_id(), guest.mark()
    guest.spawn("sh", "-c", f"exec {KEXECCTL} reboot --fast --within={WITHIN:g} > {OUTPUT} 2>&1")
    restart = judge(guest, mark, nonce, old, timeout=RESTART_TIMEOUT)
    lines = guest.lines(mark)
    return Kexec(
        number=number,
        wanted=wanted,
        restart=restart,
        down=_down(guest, mark, restart),
        verdict=next((match[1] for line in lines if (match := _VERDICT.search(line.text))), ""),
        said=writers.said(lines),
        kept=writers.kept(guest),
        standing=guest.run("sh", "-c", STANDING, timeout=60, check=False).stdout,
        told=_way_down(guest, mark) if restart.boot_id_changed else guest.run("cat", OUTPUT, check=False).stdout,
    )


def _other_kernel(guest: Guest) -> str:
    kernels = guest.run("sh", "-c", "cd /boot && ls vmlinuz-*").stdout.split()
    (other,) = (kernel.removeprefix("vmlinuz-") for kernel in kernels if not kernel.endswith(guest.uname()))
    return other


def _down(guest: Guest, mark: Mark, restart: Restart) -> float | None:
    begin = next((line.at for line in guest.lines(mark) if _BEGIN.search(line.text)), None)
    if begin is None or restart.seconds_to_jump is None:
        return None
    return round(mark.at + restart.seconds_to_jump - begin, 3)


def _way_down(guest: Guest, mark: Mark) -> str:
    """The console from the command to the new kernel's first line, with the seconds since the command."""
    told = []
    for line in guest.lines(mark):
        if "Linux version" in line.text:
            break
        told.append(f"{line.at - mark.at:7.2f} {line.text}")
    return "\n".join(told)


def _seconds(value: float | None) -> str:
    return "no time" if value is None else f"{value:.1f} s"
