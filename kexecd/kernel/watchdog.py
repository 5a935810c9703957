# SPDX-License-Identifier: MIT
"""Hardware watchdogs: what sysfs tells of them, and the few calls that /dev/watchdogN takes.

Documentation/watchdog/watchdog-api.rst and Documentation/ABI/testing/sysfs-class-watchdog. Whoever opens one starts it;
one that is closed without the magic `V` before goes on, so a machine that nobody pings any more is reset. A driver
without that magic stops when it is closed, so there the descriptor has to stay open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from dataclasses import dataclass

from kexecd.kernel.files import join_root, read_text, resolve
from kexecd.kernel.guard import forbid_in_tests

CLASS = "/sys/class/watchdog"
STOP_ON_REBOOT = "/sys/module/watchdog/parameters/stop_on_reboot"
NAME = re.compile(r"watchdog[0-9]+")

SOFTWARE = frozenset(("Software Watchdog",))
"""softdog (drivers/watchdog/softdog.c): a timer of the kernel, which ends with it."""

LEAVING = 30.0
"""Seconds beside the limit: whoever waits for the new boot restarts the machine itself, in good order, if it can."""

MODULES = ("/usr/lib/modules", "/lib/modules")

STOPPED_BY_DRIVER = frozenset(
    (
        "i6300ESB timer", "iTCO_wdt", "wdat_wdt", "SP5100 TCO timer", "Broadcom BCM2835 Watchdog timer",
        "IT87 WDT", "Software Watchdog",
    )
)  # fmt: skip
"""Whose drivers call watchdog_stop_on_reboot() (drivers/watchdog/*.c of Linux 6.12): the notifier that a kexec calls
too, as SYS_RESTART (kernel/kexec_core.c, kernel_restart_prepare), then switches them off just before the jump."""

LOCKED_BY_NOWAYOUT = frozenset(("i6300ESB timer",))
"""Which cannot be switched off until the next reset once they were started with nowayout, not by their driver either:
the hardware has a lock for it (drivers/watchdog/i6300esb.c, ESB_WDT_LOCK)."""

# include/uapi/linux/watchdog.h and asm-generic/ioctl.h; powerpc has other numbers for the directions.
_READ, _WRITE = (2, 4) if os.uname().machine.startswith("ppc") else (2, 1)
_DIRECTION = 29 if os.uname().machine.startswith("ppc") else 30
_INFO = struct.Struct("II32s")
GETSUPPORT = _READ << _DIRECTION | _INFO.size << 16 | ord("W") << 8 | 0
KEEPALIVE = _READ << _DIRECTION | 4 << 16 | ord("W") << 8 | 5
SETTIMEOUT = (_READ | _WRITE) << _DIRECTION | 4 << 16 | ord("W") << 8 | 6
WDIOF_SETTIMEOUT, WDIOF_MAGICCLOSE = 0x0080, 0x0100
MAGIC = b"V"


@dataclass(frozen=True, slots=True)
class Watchdog:
    """One of this machine, as sysfs shows it. Times are seconds; 0 is what is not told."""

    name: str  # "watchdog0", in CLASS and in /dev
    identity: str
    driver: str  # the module's name; empty where that is built in or cannot be told
    active: bool
    nowayout: bool
    timeout: int
    most: int  # seconds that it can be set to

    @property
    def device(self) -> str:
        return f"/dev/{self.name}"

    @property
    def called(self) -> str:
        """For a sentence."""
        return self.identity or self.name


def found(root: str = "/") -> tuple[Watchdog, ...]:
    """The hardware ones, in the order of their numbers; empty where the kernel shows none."""
    try:
        names = [name for name in os.listdir(join_root(root, CLASS)) if NAME.fullmatch(name)]
    except OSError:
        return ()
    dogs = (_look(name, root) for name in sorted(names, key=lambda name: int(name.removeprefix("watchdog"))))
    return tuple(dog for dog in dogs if dog.identity not in SOFTWARE)


def why_stopped(dog: Watchdog, root: str = "/") -> str:
    """Why it will not watch the new kernel although it was left running, as a sentence; empty if it will, or may."""
    told = _read(STOP_ON_REBOOT, root)
    if told == "0" or (dog.nowayout and dog.identity in LOCKED_BY_NOWAYOUT):
        return ""
    if told == "1":
        return f"watchdog.stop_on_reboot=1 has the kernel switch the watchdog {dog.called} off before the jump"
    if dog.identity in STOPPED_BY_DRIVER:
        return f"its driver switches the watchdog {dog.called} off before the jump"
    return ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What will watch over the new kernel. why: why nothing will, as a sentence; remedy: what to do about it."""

    device: str = ""
    seconds: int = 0
    called: str = ""
    why: str = ""
    remedy: str = ""

    def sentence(self) -> str:
        if self.device:
            return f"the watchdog {self.called} resets this machine if the new kernel hangs, after {self.seconds} s"
        return f"nobody brings back a new kernel that hangs: {self.why}"


def outlook(version: str, limit: float, root: str = "/") -> Outlook:
    """What will watch over a kernel of this version that has to be confirmed within `limit` seconds."""
    dogs = found(root)
    if not dogs:
        return Outlook(why="there is no hardware watchdog, or no driver for it is loaded", remedy=_NONE)
    seen = [_judged(dog, version, limit, root) for dog in dogs]
    return next((one for one in seen if one.device), seen[0])


class Held:
    """One that we have opened, and with that started. Whoever has opened it lets go of it in one of two ways."""

    def __init__(self, path: str) -> None:
        """Raises OSError: EBUSY where somebody else keeps it."""
        forbid_in_tests("start a watchdog")
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            info = fcntl.ioctl(self._fd, GETSUPPORT, bytes(_INFO.size))
            self.options = int(_INFO.unpack(info)[0])
        except OSError:
            self.options = 0

    @property
    def outlives_closing(self) -> bool:
        """Whether it goes on when its descriptor is closed, as by the end of this process."""
        return bool(self.options & WDIOF_MAGICCLOSE)

    def set(self, seconds: float) -> int:
        """Have it wait so long from now on, or as long as it can; returns how long that is. Raises OSError."""
        wanted = max(1, int(seconds))
        while True:
            try:
                answer = fcntl.ioctl(self._fd, SETTIMEOUT, struct.pack("i", wanted))
                break
            except OSError as error:
                # More than it can: a driver says nothing about how much that is, and few take less than 15.
                if error.errno != errno.EINVAL or wanted <= 15:
                    raise
                wanted = max(15, wanted * 3 // 4)
        self.ping()
        return int(struct.unpack("i", answer)[0])

    def ping(self) -> None:
        fcntl.ioctl(self._fd, KEEPALIVE, bytes(4))

    def leave_running(self) -> None:
        """Let go of it without stopping it; where that is not possible it stays open."""
        if self.outlives_closing:
            os.close(self._fd)

    def stop(self) -> None:
        """Switch it off, unless nothing can do that any more (nowayout)."""
        try:
            os.write(self._fd, MAGIC)
        finally:
            os.close(self._fd)


def _judged(dog: Watchdog, version: str, limit: float, root: str) -> Outlook:
    if dog.nowayout:
        why = f"the watchdog {dog.called} could not be switched off any more (nowayout)"
        return Outlook(why=why, remedy="let systemd or a daemon keep it, with RuntimeWatchdogSec= or its own setting")
    if why := why_stopped(dog, root):
        return Outlook(why=why, remedy=_KEEP)
    if dog.driver and not _has(version, dog.driver, root):
        why = f"the new kernel has no driver {dog.driver} that could switch the watchdog {dog.called} off again"
        return Outlook(why=why, remedy="install it, or live without")
    seconds = int(limit + LEAVING)
    return Outlook(dog.device, min(seconds, dog.most or seconds), dog.called)


def _has(version: str, driver: str, root: str) -> bool:
    """Whether this kernel has a module of that name, loadable or built in; a kernel without a version is not known."""
    pattern = re.compile(rf"/{re.escape(driver).replace('_', '[-_]')}\.ko")
    for top in MODULES if version else ():
        for name in ("modules.dep", "modules.builtin"):
            with contextlib.suppress(OSError):
                text = read_text(f"{top}/{version}/{name}", root=root, limit=16 << 20) or ""
                if pattern.search(text):
                    return True
    return False


def _look(name: str, root: str) -> Watchdog:
    top = f"{CLASS}/{name}"
    link = f"{top}/device/driver/module"
    module = resolve(link, root) if os.path.lexists(join_root(root, os.path.dirname(link)) + "/module") else ""
    return Watchdog(
        name=name,
        identity=_read(f"{top}/identity", root),
        driver=os.path.basename(module),
        active=_read(f"{top}/state", root) == "active",
        nowayout=_read(f"{top}/nowayout", root) == "1",
        timeout=_number(f"{top}/timeout", root),
        most=_number(f"{top}/max_timeout", root),
    )


def _number(path: str, root: str) -> int:
    text = _read(path, root)
    return int(text) if text.isdecimal() else 0


def _read(path: str, root: str) -> str:
    try:
        return (read_text(path, root=root) or "").strip()
    except OSError:
        return ""


_NONE = "load the driver of this machine's watchdog: modprobe iTCO_wdt, ipmi_watchdog, i6300esb or the like"
_KEEP = (
    "start this kernel with watchdog.stop_on_reboot=0, or put `options watchdog stop_on_reboot=0` into a file of"
    " /etc/modprobe.d if the watchdog's driver is a module"
)
