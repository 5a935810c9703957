# SPDX-License-Identifier: MIT
"""OpenRC's services: which of them have to be stopped by their own script, and the step that does it.

By its script whoever has a function for its end that does more than signal and tidy up: save something, tell somebody,
stop others in an order of its own. That is read from the scripts (openrc-run(8)), and not asked of OpenRC, which takes
a tenth of a second for each. In doubt a service is stopped by its script.

What belongs to the early boot, runlevels sysinit and boot, is the ground that others stand on and is never stopped; nor
is what keeps the network or disks up in another runlevel. LSB scripts, Debian's, tell nothing that can be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from kexecd.kernel.files import join_root, read_text
from kexecd.kernel.spawn import Spawned, start
from kexecd.model import Context, Running, Wait
from kexecd.teardown.processes import KILL_RESERVE

STARTED = "/run/openrc/started"
SCRIPTS = "/etc/init.d"
SETTINGS = "/etc/conf.d"
EARLY = ("/etc/runlevels/sysinit", "/etc/runlevels/boot", "/etc/runlevels/shutdown")

GROUND = (
    "net.", "netmount", "netplug", "NetworkManager", "dhcpcd", "wpa_supplicant", "iwd", "connman", "nfs", "rpc",
    "iscsi", "open-iscsi", "multipath", "lvm", "mdadm", "mdraid", "dmcrypt", "dmeventd", "device-mapper", "zfs",
    "drbd", "udev", "mdev", "elogind", "dbus", "localmount", "nbd", "ceph", "gluster", "moosefs",
)  # fmt: skip
"""How the names begin of what keeps disks or the network up, or is talked to while others stop."""

GUESTS = ("libvirt-guests", "docker", "podman", "lxc", "lxd", "incus", "xendomains", "vboxautostart", "nomad", "k3s")
"""How the names begin of what shuts guests down in good order when it is stopped."""

ENDS = re.compile(r"^\s*(?:function\s+)?stop(?:_pre|_post)?\s*\(\s*\)", re.MULTILINE)
HARMLESS = frozenset(
    "ebegin eend einfo einfon ewarn eerror vebegin veend veinfo vewarn eindent eoutdent mark_service_stopped return"
    " local if then else elif fi for do done case esac shift break continue : true false [ [[ test { } yesno"
    " start-stop-daemon default_stop checkpath rm sleep".split()
)
"""Commands that signal, tidy up or talk, and the shell's own."""

SIGNAL = re.compile(r"(?:^|\s)(?:--signal[= ]|-s ?)(?:SIG)?(\w+)")
SETTING = re.compile(r"""^\s*(?:stopsig|retry)=["']?([^"'\n]*)""", re.MULTILINE)
ORDINARY = frozenset({"TERM", "KILL", "15", "9"})


def started(root: str = "/") -> tuple[str, ...]:
    """The services that are started, sorted by name."""
    try:
        return tuple(sorted(os.listdir(join_root(root, STARTED))))
    except OSError:
        return ()


def to_be_stopped(names: Iterable[str], root: str = "/") -> tuple[str, ...]:
    """Those of `names` that only their own script can stop as they want it."""
    early = {name for level in EARLY for name in _listed(level, root)}
    candidates = (name for name in names if name not in early and not name.startswith((*GROUND, "kexec")))
    return tuple(name for name in candidates if _does_more(name, root))


def does_more(script: str, settings: str = "") -> bool:
    """Whether a script does more to stop its service than send a TERM and tidy up. settings: of its /etc/conf.d."""
    for value in SETTING.findall(f"{script}\n{settings}"):
        signals = [word.removeprefix("SIG") for word in re.split(r"[/\s]+", value) if word.startswith("SIG")]
        if any(signal not in ORDINARY for signal in signals):
            return True
    return any(_is_more(line) for body in _bodies(script) for line in _lines(body))


@dataclass(frozen=True)
class StopScripts:
    """Stop services by their scripts, all at once and without their dependencies."""

    name: str
    services: tuple[str, ...]
    grace: float  # seconds

    def describe(self) -> str:
        more = f" and {len(self.services) - 8} more" if len(self.services) > 8 else ""
        who = ", ".join(self.services[:8]) + more
        what = "one service" if len(self.services) == 1 else f"{len(self.services)} services at once"
        return f"stop {what} by script, {self.grace:g} s: {who}"

    def run(self, context: Context) -> Running:
        until = min(context.now() + self.grace, context.deadline - KILL_RESERVE)
        running: dict[str, Spawned] = {}
        try:
            for service in self.services:
                try:
                    running[service] = start([f"{SCRIPTS}/{service}", "--nodeps", "stop"])
                except OSError as error:
                    context.tell(f"{service} could not be stopped: {(error.strerror or str(error)).lower()}")
            yield from _ended(running, context, until)
            if running:
                context.tell(f"{self.name}: still stopping after {self.grace:g} s: {', '.join(running)}")
        finally:
            for spawned in running.values():
                spawned.kill(0.0)

    def undo(self) -> None:
        """Nothing: stopping is what the commit point is about."""


def _ended(running: dict[str, Spawned], context: Context, until: float) -> Generator[Wait, frozenset[int], None]:
    """Wait for them; whoever ends goes from `running`, and is told about if it did not end well."""
    while running and context.now() < until:
        readable = yield Wait(frozenset(spawned.pidfd for spawned in running.values()), until)
        for service in [name for name, spawned in running.items() if spawned.pidfd in readable]:
            try:
                finished = running.pop(service).finish()
            except OSError as error:
                context.tell(f"{service} could not be stopped: {(error.strerror or str(error)).lower()}")
                continue
            if finished.exit_code:
                context.tell(f"{service} did not stop well: {finished.last_line or finished.exit_code}")


def _does_more(name: str, root: str) -> bool:
    try:
        script = read_text(f"{SCRIPTS}/{name}", root=root)
        settings = read_text(f"{SETTINGS}/{name}", root=root)
    except OSError:
        return True
    first, _, _ = (script or "").partition("\n")
    if not first.startswith("#!") or not first.rstrip().endswith(("openrc-run", "runscript")):
        return False
    return does_more(script or "", settings or "")


def _listed(directory: str, root: str) -> list[str]:
    try:
        return os.listdir(join_root(root, directory))
    except OSError:
        return []


def _bodies(script: str) -> Iterable[str]:
    """What stands between the braces of each function for the end; to the end of the file where no brace closes it."""
    for found in ENDS.finditer(script):
        rest = script[found.end() :]
        closing = re.search(r"^\}|;\s*\}[ \t]*$", rest, re.MULTILINE)
        yield rest[: closing.start()] if closing else rest


def _lines(body: str) -> Iterable[str]:
    """Its commands, as far as that can be told without reading it as a shell does."""
    text = re.sub(r"\\\n", " ", body)
    text = re.sub(r"(?m)(^|\s)#.*$", "", text)
    return (part for part in re.split(r"\n|;|&&|\|\||\|", text) if part.strip())


def _is_more(command: str) -> bool:
    words = [word for word in command.split() if "=" not in word.partition("$")[0]]  # assignments go before it
    while words and words[0] in ("if", "then", "else", "elif", "!", "{", "do", "while", "until", "("):
        words = words[1:]
    if not words:
        return "$(" in command or "`" in command
    if words[0] == "start-stop-daemon":
        return any(signal not in ORDINARY for signal in SIGNAL.findall(command))
    return words[0] not in HARMLESS or "$(" in command or "`" in command
