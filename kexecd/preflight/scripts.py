# SPDX-License-Identifier: MIT
"""What else acts on the way down: others' scripts that load or jump by themselves, and our own hooks in this init."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kexecd.discover.foreign_scripts import MOUNTED
from kexecd.discover.foreign_scripts import foreign_scripts as found_scripts
from kexecd.model import Way
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw, Severity

SYSTEMD = "/etc/systemd/system"
UNITS = (
    SYSTEMD,
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
RUNLEVELS = "/etc/runlevels"
RESTART_LEVEL = "/etc/rc6.d"
DROP_IN = "systemd-reboot.service.d/kexecd.conf"
PRELOAD = "kexecd-preload.service"
JUMP_IN = ("shutdown/kexec-jump", "off/kexecd-jump")
"""Where our last hook has to be: in OpenRC's own runlevel, in Debian's OpenRC's."""


def foreign_scripts(facts: Facts) -> Iterator[Flaw]:
    """Of an orderly restart only: otherwise PID 1 is not asked, and none of them runs."""
    for script in found_scripts(facts.root) if facts.subject.way is Way.ORDERLY else ():
        severity = Severity.REFUSE if script.harm == MOUNTED else None
        yield Flaw(f"the way down calls {script.path}: {script.harm}", f"run `{script.remedy}`", severity)


def own_hooks(facts: Facts) -> Iterator[Flaw]:
    """Only an orderly restart needs them; where systemd is asked for a kexec it jumps by itself."""
    if facts.subject.way is not Way.ORDERLY:
        return
    if facts.exists("/run/systemd/system"):
        if _preloads(facts) and not any(facts.exists(f"{path}/{DROP_IN}") for path in UNITS):
            why = f"{PRELOAD} is enabled, and {DROP_IN} is missing: every restart would load an image and not use it"
            yield Flaw(why, "install kexecd again")
    elif facts.exists("/run/openrc"):
        if not any(facts.exists(f"{RUNLEVELS}/{place}") for place in JUMP_IN):
            debian = facts.exists(f"{RUNLEVELS}/off")
            yield _missing("rc-update add kexecd-jump off" if debian else "rc-update add kexec-jump shutdown")
    elif (links := facts.listing(RESTART_LEVEL)) and not any(re.fullmatch(r"K\d\dkexecd-jump", name) for name in links):
        yield _missing("update-rc.d kexecd-jump defaults")


def _preloads(facts: Facts) -> bool:
    wanting = (name for name in facts.listing(SYSTEMD) if name.endswith(".wants"))
    return any(facts.exists(f"{SYSTEMD}/{name}/{PRELOAD}") for name in wanting)


def _missing(add: str) -> Flaw:
    why = "nothing of kexecd's is at the end of this init's way down: an orderly restart goes through the firmware"
    return Flaw(why, f"run `{add}`, or use --fast")
