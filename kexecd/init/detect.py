# SPDX-License-Identifier: MIT
"""Which init this machine runs."""

from __future__ import annotations

import os

from kexecd.init.base import Init
from kexecd.init.none import NoInit
from kexecd.init.systemd import Systemd


def detect(root: str = "/") -> Init:
    """PID 1 as it is now. /run/systemd/system is systemd's own documented mark (sd_booted(3))."""
    if os.path.isdir(os.path.join(root, "run/systemd/system")):
        return Systemd()
    try:
        with open(os.path.join(root, "proc/1/comm"), encoding="utf-8", errors="replace") as file:
            return NoInit(file.read().strip())
    except OSError:
        return NoInit("an init that cannot be seen")
