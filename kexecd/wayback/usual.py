# SPDX-License-Identifier: MIT
"""Whether this boot has come as far as it usually does: init's default target or runlevel, with all that belongs to it.

systemd: default.target is active (bootup(7)). OpenRC: it is in its default runlevel and starts nothing any more
(openrc-run(8), /run/openrc). sysvinit: runlevel 2 to 5, and the script that starts its services has ended.

Nothing here waits and nothing raises: it is asked in a boot that may have gone wrong, by somebody who waits for the
descriptors that are told here, or a few seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import Protocol

from kexecd.errors import Refusal
from kexecd.init import pid1
from kexecd.init.pid1 import Pid1
from kexecd.init.systemd_units import systemctl
from kexecd.kernel import inotify, proc, sysfs
from kexecd.kernel.files import join_root
from kexecd.kernel.spawn import Spawned, run, start

ANSWERING = 10.0
"""Seconds for PID 1 to answer; a busy one on a slow machine needs some."""

LEAVING = frozenset(("shutdown", "reboot"))
"""What OpenRC is called with when it takes the machine down."""

DOWN = ("0", "6")  # sysvinit's runlevels

RUNLEVELS = re.compile("[2-5]")

DEFAULT, RESCUE = "default.target", ("emergency.target", "rescue.target")
SYSTEMD_WANTS = "sysinit.target.wants/kexecd-confirm.service"
SYSTEMD_DIRS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
OPENRC_SCRIPTS = ("/etc/runlevels/sysinit/kexec-confirm", "/etc/runlevels/boot/kexec-confirm")
DEBIAN_SCRIPT = re.compile(r"S[0-9]{2}kexecd-confirm")


@dataclass(frozen=True, slots=True)
class Reached:
    """far: whether it is there. why: what it waits for, or where it is, for a sentence. leaving: it goes down again."""

    far: bool
    why: str
    leaving: bool = False


class Usual(Protocol):
    """What is asked of an init about its own start."""

    def reached(self) -> Reached: ...

    @property
    def fds(self) -> frozenset[int]:
        """What is readable when it is worth asking again; nothing where only time tells."""
        ...

    def active(self, names: tuple[str, ...]) -> dict[str, str]:
        """For each unit or service why it is not good, as a sentence; those that are good are not in it."""
        ...

    def close(self) -> None: ...


def of_this_machine(root: str = "/") -> Usual:
    """As kexecd.init.detect sees it."""
    if os.path.isdir(join_root(root, "/run/systemd/system")):
        return SystemdUsual()
    kind = pid1.which(root)
    if os.path.isdir(join_root(root, "/run/openrc")):
        return OpenRCUsual(root)
    if kind is Pid1.SYSVINIT:
        return RunlevelUsual(root)
    return Unknown(pid1.comm(root))


def enabled(root: str = "/") -> bool:
    """Whether this installation has somebody who confirms a kexec: the same as the new boot's will be."""
    if any(os.path.lexists(join_root(root, f"{top}/{SYSTEMD_WANTS}")) for top in SYSTEMD_DIRS):
        return True
    if any(os.path.exists(join_root(root, path)) for path in OPENRC_SCRIPTS):
        return True
    with contextlib.suppress(OSError):
        return any(DEBIAN_SCRIPT.fullmatch(name) for name in os.listdir(join_root(root, "/etc/rcS.d")))
    return False


class SystemdUsual:
    """systemctl is asked, which needs no bus; one that waits tells when the start is over, whichever way it went."""

    def __init__(self) -> None:
        self._waiting: Spawned | None = None
        self._waited = False

    @property
    def fds(self) -> frozenset[int]:
        if self._waiting is None and not self._waited:
            with contextlib.suppress(OSError, Refusal):
                self._waiting = start([systemctl()[0], "is-system-running", "--wait"])
        return self._waiting.fds if self._waiting else frozenset()

    def reached(self) -> Reached:
        if self._waiting and self._waiting.wait(0):
            self._waited = True  # once: it says no more than that everything was tried
            with contextlib.suppress(OSError):
                self._waiting.finish()
            self._waiting = None
        states = self._states((DEFAULT, *RESCUE))
        state = states.get(DEFAULT, "")
        if state == "active":
            return Reached(True, "default.target is reached")
        for name in RESCUE:
            if states.get(name) == "active":
                return Reached(False, f"systemd is in {name}, not in its default target")
        return Reached(False, f"default.target is {state}" if state else "systemd does not answer")

    def active(self, names: tuple[str, ...]) -> dict[str, str]:
        full = {name: name if "." in name else f"{name}.service" for name in names}
        states = self._states(tuple(full.values()))
        found = {name: states.get(unit, "") for name, unit in full.items()}
        bad = {name: state for name, state in found.items() if state != "active"}
        return {name: f"{full[name]} is {state}" if state else "systemd does not answer" for name, state in bad.items()}

    def close(self) -> None:
        if self._waiting:
            self._waiting.kill(0.1)
            self._waiting = None

    def _states(self, units: tuple[str, ...]) -> dict[str, str]:
        """Empty if it does not answer. is-active prints one line for each, in their order (systemctl(1))."""
        with contextlib.suppress(OSError, Refusal):
            answers = run([systemctl()[0], "is-active", "--", *units], seconds=ANSWERING).output.split()
            if len(answers) == len(units):
                return dict(zip(units, answers, strict=True))
        return {}


class OpenRCUsual:
    """/run/openrc: softlevel names the runlevel, rc.starting is there while its services are started
    (src/shared/rc.h); who starts them is a child of PID 1."""

    def __init__(self, root: str = "/") -> None:
        self._root, self._fd, self._runner = root, -1, Runner(("openrc", "rc"))

    @property
    def fds(self) -> frozenset[int]:
        if self._fd < 0:
            with contextlib.suppress(OSError):  # none left, or it is not there yet
                self._fd = inotify.watch(join_root(self._root, "/run/openrc"))
        return self._runner.fds | (frozenset((self._fd,)) if self._fd >= 0 else frozenset())

    def reached(self) -> Reached:
        if self._fd >= 0:
            inotify.names(self._fd)  # heard; what has changed is looked at below
        level, usual = self._level(), self._usual()
        runs = self._runner.runs()
        if LEAVING & self._runner.words or pid1.runlevel(self._root) in DOWN:
            return Reached(False, "OpenRC takes this machine down", leaving=True)
        if runs or os.path.exists(join_root(self._root, "/run/openrc/rc.starting")):
            return Reached(False, f"OpenRC is still starting runlevel {level or 'sysinit'}")
        if level != usual:
            return Reached(False, f"OpenRC is in runlevel {level or 'sysinit'}, not in {usual}")
        return Reached(True, f"runlevel {usual} is reached")

    def active(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: why for name in names if (why := self._why(name))}

    def close(self) -> None:
        self._runner.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _why(self, name: str) -> str:
        """rc-service asks the script itself, which looks for its process; whether it was started is only a link."""
        program = pid1.program("rc-service")
        if not program:
            return "there is no rc-service"
        with contextlib.suppress(OSError):
            finished = run([program, "--nocolor", name, "status"], seconds=ANSWERING)
            return "" if finished.exit_code == 0 else f"{name}: {finished.last_line or 'not started'}"
        return "OpenRC cannot be asked"

    def _level(self) -> str:
        return _line(join_root(self._root, "/run/openrc/softlevel"))

    def _usual(self) -> str:
        """What the kernel's command line names, else default (openrc(8))."""
        words = sysfs.running_cmdline(self._root).split()
        return next((word.partition("=")[2] for word in words if word.startswith("softlevel=")), "") or "default"


class RunlevelUsual:
    """The runlevel is in init's own command line from the moment that it enters it; rc, its child, starts the rest."""

    def __init__(self, root: str = "/") -> None:
        self._root, self._runner = root, Runner(("rc", "rcS"))

    @property
    def fds(self) -> frozenset[int]:
        return self._runner.fds

    def reached(self) -> Reached:
        level = pid1.runlevel(self._root)
        if level in DOWN:
            return Reached(False, f"sysvinit is in runlevel {level}", leaving=True)
        if self._runner.runs():
            return Reached(False, f"sysvinit is still starting runlevel {level or 'S'}")
        if not RUNLEVELS.fullmatch(level):
            return Reached(False, f"sysvinit is in runlevel {level or 'S'}, not in one of 2 to 5")
        return Reached(True, f"runlevel {level} is reached")

    def active(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: why for name in names if (why := _status(name, self._root))}

    def close(self) -> None:
        self._runner.close()


class Runner:
    """The child of PID 1 that starts a runlevel's services, by its names."""

    def __init__(self, names: tuple[str, ...], parent: int = 1) -> None:
        self._names, self._parent, self._fd = names, parent, -1
        self.words = frozenset[str]()  # of its command line

    @property
    def fds(self) -> frozenset[int]:
        return frozenset((self._fd,)) if self._fd >= 0 else frozenset()

    def runs(self) -> bool:
        """Whether there is one; from then on its end is told by fds."""
        self.close()
        found = (proc.read(pid) for pid in proc.pids())
        one = next((one for one in found if one and one.ppid == self._parent and one.name in self._names), None)
        self.words = frozenset(_line(f"/proc/{one.pid}/cmdline").split("\0")) if one else frozenset()
        if one:
            with contextlib.suppress(OSError):  # it has ended meanwhile, and time will tell
                self._fd = os.pidfd_open(one.pid)
        return one is not None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Unknown:
    """An init that says nothing: then the checks of the policy are all there is to ask."""

    def __init__(self, name: str) -> None:
        self._name = name or "PID 1"

    @property
    def fds(self) -> frozenset[int]:
        return frozenset()

    def reached(self) -> Reached:
        return Reached(True, f"{self._name} says nothing of how far it has come")

    def active(self, names: tuple[str, ...]) -> dict[str, str]:
        return dict.fromkeys(names, f"nobody knows how {self._name} is asked for it")

    def close(self) -> None:
        """Nothing is open."""


def _status(name: str, root: str) -> str:
    """What Debian's `service NAME status` does: call the script itself, whose exit status says it (LSB, 20.2)."""
    script = f"/etc/init.d/{name}"
    if "/" in name or not os.access(join_root(root, script), os.X_OK):
        return f"there is no {script}"
    with contextlib.suppress(OSError):
        finished = run([script, "status"], seconds=ANSWERING)
        return "" if finished.exit_code == 0 else f"{name}: {finished.last_line or 'not running'}"
    return f"{script} cannot be called"


def _line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""
