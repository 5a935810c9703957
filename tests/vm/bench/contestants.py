# SPDX-License-Identifier: MIT
"""The ways down that are compared. Each finds the new kernel in memory already."""

from __future__ import annotations

from dataclasses import dataclass

from tests.vm.bench.recipe import PEERS, Pid1

KEXECCTL = "/usr/sbin/kexecctl"
SCRIPTS = f"{PEERS}/etc/init.d"

# The order of Debian's rc6.d, without umountnfs, which has nothing to do here. In a session of its own, as killall5
# spares the one that it is called from.
SYSVINIT = f"{SCRIPTS}/sendsigs stop; {SCRIPTS}/umountfs stop; {SCRIPTS}/umountroot stop; exec kexec -e"


@dataclass(frozen=True)
class Contestant:
    """ours: of kexecd. careless: it jumps with processes alive and disks open, so nobody is measured against it."""

    name: str
    pid1: Pid1
    command: tuple[str, ...]
    ours: bool = False
    careless: bool = False

    @property
    def title(self) -> str:
        return self.name if self.pid1 is Pid1.SYSTEMD else f"{self.name}  [{self.pid1}]"


FAST = Contestant("kexecctl reboot --fast", Pid1.SYSTEMD, (KEXECCTL, "reboot", "--fast"), ours=True)

CONTESTANTS = (
    FAST,
    Contestant("kexecctl reboot --now", Pid1.SYSTEMD, (KEXECCTL, "reboot", "--now"), ours=True),
    Contestant("systemctl kexec", Pid1.SYSTEMD, ("systemctl", "kexec")),
    Contestant("systemctl kexec --force", Pid1.SYSTEMD, ("systemctl", "kexec", "--force")),
    Contestant("kexec -e", Pid1.SYSTEMD, ("kexec", "-e"), careless=True),
    Contestant("kexecctl reboot --fast", Pid1.SYSVINIT, (KEXECCTL, "reboot", "--fast"), ours=True),
    Contestant("sendsigs; umountfs; kexec -e", Pid1.SYSVINIT, ("setsid", "sh", "-c", SYSVINIT)),
)
"""The first of ours on each machine is the one that the others of that machine are compared with."""
