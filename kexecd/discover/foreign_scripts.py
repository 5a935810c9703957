# SPDX-License-Identifier: MIT
"""kexec-tools' own services that load or jump by themselves, where an init would call them on its way down.

Debian's kexec-tools has /etc/init.d/kexec-load, which loads, and /etc/init.d/kexec, which jumps. The second has
"Required-Stop: reboot" in its header: numbered by sysv-rc it comes last; OpenRC takes the same words for a need, stops
it in its first phase, when every filesystem is mounted, and calls the reset there even where no image is loaded. Under
systemd Debian masks it. Gentoo's kexec-tools has one service called kexec, for OpenRC and for systemd, which loads.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from kexecd.kernel.files import join_root, read_text

SYSTEMD_PLACES = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
OPENRC = ("/sbin/openrc", "/usr/sbin/openrc")
SCRIPTS = ("kexec", "kexec-load")

MOUNTED = "it jumps, or resets the machine, while every filesystem is still mounted"
UNSEEN = "it jumps without a look whether a disk can still be written"
LOADS = "it loads a kernel of its own choice where none is loaded, which the new boot cannot confirm"
LOADS_ALWAYS = "it loads a kernel of its own choice at each stop, also where the machine does not restart"


@dataclass(frozen=True, slots=True)
class ForeignScript:
    """path: of the script or unit. harm: a sentence without a full stop. remedy: a command.

    jumps: it jumps, or resets, by itself; else it only loads.
    """

    path: str
    harm: str
    remedy: str
    jumps: bool = False


def foreign_scripts(root: str = "/") -> tuple[ForeignScript, ...]:
    """Those that this machine's init would call. Raises nothing."""
    if os.path.isdir(join_root(root, "/run/systemd/system")):
        return _of_systemd(root)
    if any(os.path.exists(join_root(root, path)) for path in OPENRC):
        return _of_openrc(root)
    return _of_sysv_rc(root)


def _of_openrc(root: str) -> tuple[ForeignScript, ...]:
    levels = _listed("/etc/runlevels", root)
    found = []
    for script in SCRIPTS:
        level = next((level for level in levels if script in _listed(f"/etc/runlevels/{level}", root)), "")
        if level:
            found.append(_script(script, f"rc-update del {script} {level}", MOUNTED, root))
    return tuple(one for one in found if one)


def _of_sysv_rc(root: str) -> tuple[ForeignScript, ...]:
    ends = _listed("/etc/rc6.d", root)
    called = [script for script in SCRIPTS if any(re.fullmatch(rf"K\d\d{script}", name) for name in ends)]
    found = [_script(script, f"update-rc.d {script} disable", UNSEEN, root) for script in called]
    return tuple(one for one in found if one)


def _of_systemd(root: str) -> tuple[ForeignScript, ...]:
    # systemd-sysv-generator(8) makes a unit of a script that a runlevel starts, unless there is one of that name.
    started = [name for level in "2345" for name in _listed(f"/etc/rc{level}.d", root)]
    found = []
    for script in SCRIPTS:
        remedy = f"systemctl disable {script}.service"
        units = (f"{place}/{script}.service" for place in SYSTEMD_PLACES)
        if unit := next((path for path in units if _is_there(path, root)), ""):
            found.append(_unit(unit, remedy, root))
        elif any(re.fullmatch(rf"S\d\d{script}", name) for name in started):
            found.append(_script(script, remedy, MOUNTED, root))
    return tuple(one for one in found if one)


def _script(script: str, remedy: str, jumping: str, root: str) -> ForeignScript | None:
    """None if there is none, or it is our own. jumping: what is wrong with it if it jumps."""
    path = f"/etc/init.d/{script}"
    text = _read(path, root)
    if not text or "kexecctl" in text:
        return None
    jumps = _jumps(text)
    return ForeignScript(path, jumping if jumps else LOADS, remedy, jumps)


def _unit(path: str, remedy: str, root: str) -> ForeignScript | None:
    """None if it is not enabled, masked, or does not load."""
    text, wants = _read(path, root), f"/etc/systemd/system/multi-user.target.wants/{os.path.basename(path)}"
    loads = re.search(r"(?m)^Exec\w+=.*kexec", text) is not None and "kexecctl" not in text
    return ForeignScript(path, LOADS_ALWAYS, remedy) if loads and _is_there(wants, root) else None


def _jumps(text: str) -> bool:
    return re.search(r"\bkexec\s+(?:-\w+\s+)*(?:-e\b|--exec\b)", text) is not None


def _listed(directory: str, root: str) -> list[str]:
    try:
        return sorted(os.listdir(join_root(root, directory)))
    except OSError:
        return []


def _is_there(path: str, root: str) -> bool:
    """Also as a link that leads nowhere, or to /dev/null: that is a unit too, a masked one."""
    return os.path.lexists(join_root(root, os.path.dirname(path)) + "/" + os.path.basename(path))


def _read(path: str, root: str) -> str:
    try:
        return read_text(path, root=root) or ""
    except OSError:
        return ""
