# SPDX-License-Identifier: MIT
"""Which init this machine runs: what PID 1 is, and who runs the runlevels."""

from __future__ import annotations

import os

from kexecd.init import pid1
from kexecd.init.base import Init
from kexecd.init.none import NoInit
from kexecd.init.openrc import OpenRC
from kexecd.init.pid1 import Pid1
from kexecd.init.systemd import Systemd
from kexecd.init.sysvinit import SysVinit


def detect(root: str = "/") -> Init:
    """As it is now. /run/systemd/system is systemd's own documented mark (sd_booted(3)), /run/openrc is OpenRC's."""
    if os.path.isdir(os.path.join(root, "run/systemd/system")):
        return Systemd()
    kind = pid1.which(root)
    if os.path.isdir(os.path.join(root, "run/openrc")) and kind is not Pid1.OTHER:
        return OpenRC(kind, root)
    if kind is Pid1.SYSVINIT:
        return SysVinit(root)
    return NoInit(pid1.comm(root) or "an init that cannot be seen")
