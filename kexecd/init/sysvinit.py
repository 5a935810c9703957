# SPDX-License-Identifier: MIT
"""sysvinit with scripts that are sorted by numbers, as Debian's sysv-rc has it, or with none that we know.

Asked for an ordinary restart it stops everything, kills the rest, unmounts, and calls our kexecd-jump before the script
that resets (openrc/lsb/). It has no list of what runs, so the fast way quits by classes.
"""

from __future__ import annotations

import glob
import os

from kexecd.errors import Unsupported
from kexecd.init import pid1
from kexecd.init.none import NoInit
from kexecd.init.pid1 import Pid1
from kexecd.model import Act

GOING = frozenset("016")
"""The runlevels in which it goes down, into a poweroff, one user or a restart."""


class Hooked(NoInit):
    """An init that jumps from a last hook of ours, if that is there."""

    def __init__(self, name: str, kind: Pid1, root: str = "/") -> None:
        super().__init__(name)
        self.pid1, self.root = kind, root

    def no_hook(self) -> tuple[str, str]:
        """Why nobody would jump at the end, and what to do about it; empty if somebody does."""
        if glob.glob(os.path.join(self.root, "etc/rc6.d/K??kexecd-jump")):
            return "", ""
        return "its last script, kexecd-jump, is not enabled in /etc/rc6.d", "update-rc.d kexecd-jump defaults"

    def describe_restart(self, act: Act) -> str:
        why, _ = self.no_hook() if act is Act.KEXEC else ("", "")
        return f"not possible: {why}" if why else f"ask {self.name}: {' '.join(self.pid1.words)}"

    def refuse_beforehand(self, act: Act) -> None:
        # Without the hook it would be a plain restart, and nobody would say so.
        why, remedy = self.no_hook() if act is Act.KEXEC else ("", "")
        if why:
            hint = f"{remedy}; or kexecctl reboot --fast, which does it without PID 1"
            raise Unsupported(f"cannot ask {self.name} for a kexec", why, hint=hint)

    def restart(self, act: Act) -> None:
        self.refuse_beforehand(act)
        pid1.ask(self.pid1)

    def going_down(self) -> bool:
        return pid1.runlevel(self.root) in GOING


class SysVinit(Hooked):
    def __init__(self, root: str = "/") -> None:
        super().__init__("sysvinit", Pid1.SYSVINIT, root)
