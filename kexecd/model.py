# SPDX-License-Identifier: MIT
"""The nouns that the modules hand to each other: frozen dataclasses, and enumerations for what is a choice.

No dict crosses a module border. Paths are strings as seen from inside the root that was looked at
("/boot/vmlinuz-6.1"), never joined with that root. Times are seconds, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

NONCE_KEY = "kexecd.nonce"
"""Rides on the new command line and joins the two boots. The dot makes it a module's parameter to the kernel, which
therefore does not hand it on to init (Documentation/admin-guide/kernel-parameters.rst)."""


# What could be booted


class Source(StrEnum):
    """Where a boot entry was found."""

    EXPLICIT = "explicit"  # named on the command line
    CONFIG = "config"  # named in the configuration
    GRUB = "grub"  # a menu entry of grub.cfg
    BLS = "bls"  # a Boot Loader Specification entry, type 1
    UKI = "uki"  # a unified kernel image, type 2
    EXTLINUX = "extlinux"  # a label of extlinux.conf or syslinux.cfg
    INSTALLKERNEL = "installkernel"  # what Gentoo's installkernel put in place last
    VERSIONED = "versioned"  # a kernel and its initrd by version, in /boot
    MODULES = "modules"  # a kernel beside its modules
    GENTOO = "gentoo"  # one of the names that Gentoo's init script looks for
    LINK = "link"  # a name without a version: /vmlinuz, /boot/vmlinuz-linux

    @property
    def is_boot_loader(self) -> bool:
        """Whether a boot loader shows these entries, in an order and with a default of its own."""
        return self in (Source.GRUB, Source.BLS, Source.UKI, Source.EXTLINUX)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootEntry:
    """One thing that a disk offers to boot."""

    id: str
    title: str
    version: str  # as `uname -r` will say it; empty when not known
    source: Source
    kernel: str
    initrds: tuple[str, ...] = ()
    cmdline: str | None = None  # None: the source has no opinion, the running one is reused
    devicetree: str = ""
    problems: tuple[str, ...] = ()  # sentences; an entry with one is never chosen by itself
    remarks: tuple[str, ...] = ()  # sentences; what kexec does otherwise than the boot loader would


@dataclass(frozen=True, slots=True)
class Found:
    """What one source says: its entries, in its own order, and which of them it would boot next."""

    source: Source
    entries: tuple[BootEntry, ...] = ()
    next: str = ""  # the id of an entry; empty: this is no boot loader, or it cannot be told which
    reason: str = ""  # why that one, or why it cannot be told; a sentence
    problems: tuple[str, ...] = ()  # what was not understood: "/boot/grub/grub.cfg:120:5: ..."


@dataclass(frozen=True, slots=True)
class Choice:
    """Which entry is taken, and one line for each about why or why not."""

    entry: BootEntry | None
    reason: str
    losers: tuple[tuple[str, str], ...] = ()  # (entry id, why not)


# One boot target, and its image


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file that was opened once: what is checked through `fd` is what is loaded."""

    path: str
    fd: int
    size: int
    stamp: tuple[int, int, int, int]  # device, inode, mtime_ns, ctime_ns: unchanged as long as the content is


@dataclass(frozen=True, slots=True)
class BootTarget:
    """The one entry chosen, made final: files open, command line canonical, nonce attached."""

    entry: BootEntry
    kernel: OpenFile
    initrds: tuple[OpenFile, ...]
    cmdline: str  # complete, with the nonce, without a trailing NUL
    nonce: str


class LoadMethod(StrEnum):
    KEXEC_FILE_LOAD = "kexec_file_load"
    KEXEC_TOOLS = "kexec-tools"


@dataclass(frozen=True, slots=True)
class FileRecord:
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What was put into kernel memory by us; /run/kexecd/image.json."""

    entry_id: str
    version: str
    kernel: FileRecord
    initrds: tuple[FileRecord, ...]
    cmdline: str
    nonce: str
    method: LoadMethod
    loaded_at: float  # seconds since the epoch
    named: bool = True  # somebody named what it is made of; else it was chosen by itself, and may be chosen anew
    foreign: bool = False  # of another installed system


# How to restart


class Way(StrEnum):
    """Who tears the machine down (README, "Three ways to reboot")."""

    ORDERLY = "orderly"  # PID 1, in its own order
    FAST = "fast"  # our plan, in parallel, inside one deadline
    NOW = "now"  # sync, everything read-only, jump


class Ask(StrEnum):
    """What may be asked of a restart that is under way (kexecd.control)."""

    CANCEL = "cancel"  # take everything back; only before the commit point
    NOW = "now"  # ask nobody any more


class State(StrEnum):
    """How far a restart has come; /run/kexecd/state.json, and what hooks are told (docs/hooks.md)."""

    NORMAL = "normal"
    PREPARED = "prepared"  # everyone who had a say has agreed; `kexecctl cancel` leads back
    FROZEN = "frozen"  # nobody writes any more
    UPDATED = "updated"  # in the new kernel, until its hooks have finished


class Act(StrEnum):
    """The irreversible act at the end of a plan, as a value; kexecd/cli/reboot.py hands it to the one who does it."""

    KEXEC = "kexec"
    FIRMWARE = "firmware"


# What runs and what is mounted


@dataclass(frozen=True, slots=True)
class Process:
    """A process as /proc/PID/stat shows it; (pid, start) names it for good, a pid alone does not."""

    pid: int
    ppid: int
    session: int  # the pid of its session's leader
    terminal: int  # device number of its controlling terminal, 0 without one
    start: int  # clock ticks since boot
    state: str  # R S D Z T ...
    name: str  # at most 15 characters of it
    threads: int
    kernel_thread: bool


class ProcessClass(StrEnum):
    """Who is asked to quit together; in this order."""

    GUEST = "guest"  # a virtual machine or a container: has a whole system of its own to shut down
    SESSION = "session"  # of a person who is logged in
    SERVICE = "service"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/PID/mountinfo."""

    id: int
    parent: int
    device: str  # major:minor
    root: str  # the directory of the filesystem that is mounted
    point: str
    options: frozenset[str]  # of this mount
    fstype: str
    source: str
    super_options: frozenset[str]  # of the filesystem

    @property
    def writable(self) -> bool:
        """Whether the filesystem, not just this mount of it, can change on disk."""
        return "rw" in self.super_options


class Cleanliness(StrEnum):
    CLEAN = "clean"
    RESIDUE = "expected residue"
    DIRTY = "dirty"


@dataclass(frozen=True, slots=True)
class Left:
    """One thing that is left when the way down is done."""

    what: str  # "/data (/dev/vdb, ext4)"
    why: str = ""  # "is still writable"
    holders: tuple[str, ...] = ()  # "postgres (812, /data/wal)"

    def __str__(self) -> str:
        """A sentence without a full stop."""
        held = ", held by " + ", ".join(self.holders[:3]) if self.holders else ""
        more = f" and {len(self.holders) - 3} more" if len(self.holders) > 3 else ""
        return f"{self.what} {self.why}".rstrip() + held + more

    def as_json(self) -> dict[str, object]:
        return {"what": self.what, "why": self.why, "holders": list(self.holders)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is left when the way down is done: with dirt something would be lost, residue is only mentioned."""

    dirt: tuple[Left, ...] = ()
    residue: tuple[Left, ...] = ()

    @property
    def cleanliness(self) -> Cleanliness:
        if self.dirt:
            return Cleanliness.DIRTY
        return Cleanliness.RESIDUE if self.residue else Cleanliness.CLEAN

    def sentence(self) -> str:
        left = "; ".join(str(item) for item in (*self.dirt, *self.residue))
        return f"{self.cleanliness}: {left}" if left else str(self.cleanliness)

    def as_json(self) -> dict[str, object]:
        return {
            "cleanliness": str(self.cleanliness),
            "dirt": [left.as_json() for left in self.dirt],
            "residue": [left.as_json() for left in self.residue],
        }


# The plan, its steps and what they tell


class EventKind(StrEnum):
    PLAN = "plan"  # a plan starts
    PHASE = "phase"  # a phase starts
    STEP = "step"  # a step starts
    DONE = "done"  # a step ended well
    FAILED = "failed"  # a step failed; `text` says why
    NOTE = "note"  # something that a person would want to know
    QUIT = "quit"  # `at` that time a process, `text`, had ended, `seconds` after it was asked to; of the slowest only
    UNDONE = "undone"  # a step was taken back
    STATE = "state"  # the restart has reached the state in `text`
    COMMIT = "commit"  # from here on the machine goes down whatever happens
    VERDICT = "verdict"
    ACT = "act"  # the irreversible act follows


@dataclass(frozen=True, slots=True)
class Event:
    """The executor's only output; log, console, progress and report read the same records."""

    kind: EventKind
    at: float  # seconds of CLOCK_BOOTTIME
    phase: str = ""
    step: str = ""
    text: str = ""
    seconds: float = 0.0  # how long it took, where something ended
    verdict: Verdict | None = None  # where kind is VERDICT


@dataclass(frozen=True, slots=True)
class Wait:
    """What a step waits for: any of `fds` readable, or the clock at `until`. It is answered with the readable ones."""

    fds: frozenset[int]
    until: float


Running = Generator[Wait, frozenset[int], None]
"""A step at work. It yields what it waits for, so that one thread runs any number of steps and none outsleeps its
deadline."""


@dataclass(slots=True)
class Context:
    """What a running step is given.

    now: the clock, in seconds; the only one that steps may look at.
    deadline: when the phase has to be over, on that clock.
    tell: emits a NOTE.
    quit: emits a QUIT: who ("cron (286)"), when it had ended, and how many seconds that took.
    asked: (pid, start) of processes that somebody has already asked to quit, each once.
    left: (pid, start) of those that cannot be killed, so that nobody waits for them again.
    """

    now: Callable[[], float]
    deadline: float
    tell: Callable[[str], None]
    asked: set[tuple[int, int]] = field(default_factory=set)
    left: set[tuple[int, int]] = field(default_factory=set)
    verdict: Verdict | None = None
    quit: Callable[[str, float, float], None] = lambda who, at, seconds: None


class Step(Protocol):
    """One thing that is done on the way down. `describe` is what `kexecctl plan` prints and what `run` then does."""

    @property
    def name(self) -> str: ...

    def describe(self) -> str: ...

    def run(self, context: Context) -> Running: ...

    def undo(self) -> None:
        """Take back what run() did, also half of it. Only called before the commit point."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps of equal priority: phases run in order, the steps of one run in parallel.

    share: how much of the time then left to the deadline this phase may use, 0..1.
    at_least: seconds that it gets even if the deadline has passed: disks are closed, however late it is.
    commit: the machine goes down from the start of this phase on, whatever happens.
    reaches: the state that the restart is in when this phase has ended.
    essential: walked even if somebody says --now meanwhile: without an image there is nothing to jump into.
    """

    name: str
    priority: int
    why: str
    steps: tuple[Step, ...]
    share: float = 1.0
    at_least: float = 0.0
    commit: bool = False
    reaches: State | None = None
    essential: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """hurry: what is walked instead of the rest when somebody says --now meanwhile, or when who walks it dies."""

    way: Way
    act: Act
    within: float  # seconds from the commit point to the deadline
    phases: tuple[Phase, ...]
    hurry: tuple[Phase, ...] = ()
