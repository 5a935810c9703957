# SPDX-License-Identifier: MIT
"""What a restart leaves in a console log, and what follows from it. Pure functions over lines and events.

The words below are what the kernel's filesystems (fs/ext4, fs/xfs, fs/btrfs, fs/fat, fs/f2fs, fs/jfs,
drivers/md) and e2fsck print when they put right what an unclean stop left behind; each is anchored to who
says it, since words like "orphan" and "recovery" also appear in lists of features, in mount options and in
NFS' and PCIe's messages.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.vm.lab.console import Line
from tests.vm.lab.qmp import Event


class Kind(enum.StrEnum):
    """How a machine restarted, or that it did not."""

    KEXEC = "kexec"
    FIRMWARE = "firmware"
    POWEROFF = "poweroff"
    NONE = "none"


_REPLAY = re.compile(
    r"""
      EXT[34]-fs\ .*(?:
          recovery\ (?:required|complete)
        | write\ access\ will\ be\ enabled\ during\ recovery
        | orphan\ cleanup
        | orphan\ inodes?\ deleted
        | truncates?\ cleaned\ up
        | recovering\ journal
      )
    | XFS\ \(.*(?:(?:Starting|Ending)\ recovery | recovery\ required)
    | BTRFS\b.*log\ replay | BTRFS\b.*tree-log\ replay
    | F2FS-fs\ .*recover\w*\ .*(?:fsync|data)
    | (?:REISERFS|JFS|jfs)\b.*repl[a-z]*\ .*(?:journal|transaction)
    | FAT-fs\ .*not\ properly\ unmounted
    | md/raid\S*:.*not\ clean | md:\ (?:resync|recovery)\ of\ RAID\ array
    # e2fsck and fsck.fat, whose lines begin with the device or its label
    | :\ recovering\ journal
    | :\ Clearing\ orphaned\ inode
    | \bwas\ not\ cleanly\ unmounted
    | Dirty\ bit\ is\ set
    """,
    re.VERBOSE,
)
_JUMP = re.compile(r"kexec(?:_core)?: Starting new kernel")
_BANNER = re.compile(r"\bLinux version (\S+)")
# In a line of the kernel's own: kexecctl too says of what an earlier one has died.
_PANIC = re.compile(
    r"^\s*(?:\[ *\d+\.\d+\](?:\[ *[CT]\d+\])? )?(?:---\[ end )?Kernel panic - not syncing|You are in emergency mode"
)
_EFLAGS = re.compile(r"\bEFLAGS: ([0-9a-f]{8})\b")
_NEVER_SET = 0xFFC0_8028
"""Bits of EFLAGS that are zero whatever a program does: 3, 5, 15, 22 and up (Intel SDM volume 1, 3.4.3)."""
_TIMESTAMP = re.compile(r"^\s*(?:<\d+>)?\[ *\d+\.\d+\]\s*")


def replayed(texts: Iterable[str]) -> tuple[str, ...]:
    """The lines that say that a filesystem was not left clean, each once and without its kernel timestamp."""
    found = (_TIMESTAMP.sub("", text).strip() for text in texts if _REPLAY.search(text))
    return tuple(dict.fromkeys(found))


def kernel_version(texts: Sequence[str]) -> str | None:
    """The kernel that announced itself last in these console lines."""
    versions = [match[1] for text in texts if (match := _BANNER.search(text))]
    return versions[-1] if versions else None


def jump_time(lines: Iterable[Line]) -> float | None:
    """When the old kernel said that it starts the new one."""
    return next((line.at for line in lines if _JUMP.search(line.text)), None)


def event_time(events: Iterable[Event], name: str) -> float | None:
    """When QEMU sent its first event of that name."""
    return next((event.at for event in events if event.name == name), None)


def last_words(lines: Iterable[Line], events: Iterable[Event]) -> Line | None:
    """The line that says that this system will never come up, unless a reset has ended that system since."""
    fatal = next((line for line in lines if _PANIC.search(line.text)), None)
    if fatal is None or any(event.name == "RESET" and event.at >= fatal.at for event in events):
        return None
    return fatal


def emulator_fault(texts: Iterable[str]) -> str:
    """A sentence about the first oops whose processor was in a state that no guest can bring about; or nothing.

    Seen once, in QEMU 7.2's TCG: reserved bits and the direction flag were set when the guest's kernel found its slabs
    overwritten.
    """
    for text in texts:
        if (match := _EFLAGS.search(text)) and int(match[1], 16) & _NEVER_SET:
            return (
                f"The emulator itself has failed: its processor's EFLAGS are {match[1]}, with bits that no instruction"
                " can set, and what the guest did after that proves nothing."
            )
    return ""


def new_boot_begun(lines: Sequence[Line], events: Sequence[Event]) -> bool:
    """Whether the old system is gone, so that the agent may be asked without disturbing its way down."""
    return (
        jump_time(lines) is not None
        or event_time(events, "RESET") is not None
        or kernel_version([line.text for line in lines]) is not None
    )


def after_the_restart(lines: Sequence[Line], events: Sequence[Event]) -> tuple[str, ...]:
    """The console lines of the new system: what the old one mounted and repaired is its own affair."""
    begun = [
        index for index, line in enumerate(lines) if _JUMP.search(line.text) or _BANNER.search(line.text)
    ]
    reset = event_time(events, "RESET")
    first = begun[0] if begun else 0
    return tuple(line.text for line in lines[first:] if reset is None or begun or line.at >= reset)


@dataclass(frozen=True)
class Facts:
    """What is known when the waiting is over.

    None for a boot id or a command line means that nobody answered.
    """

    powered_off: bool
    reset: bool
    old_boot_id: str
    new_boot_id: str | None
    new_cmdline: str | None
    nonce: str | None


def classify(facts: Facts) -> Kind:
    """How the machine restarted.

    A kexec is proved by three things at once: no reset, another boot id, our nonce.
    """
    if facts.powered_off:
        return Kind.POWEROFF
    if facts.new_boot_id is None or facts.new_boot_id == facts.old_boot_id:
        return Kind.NONE
    if facts.reset:
        return Kind.FIRMWARE
    if facts.nonce is not None and facts.nonce not in (facts.new_cmdline or ""):
        return Kind.NONE
    return Kind.KEXEC
