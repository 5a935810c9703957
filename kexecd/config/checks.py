# SPDX-License-Identifier: MIT
"""The names of the checks, and what an administrator may say to each: kexecd.yaml, `checks:`, and `--ignore NAME`.

A name once given is not changed: it stands in people's configuration. What each looks at: kexecd.preflight.table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from kexecd.config.rows import Kind, Row, nearest
from kexecd.errors import ExitCode, Refusal


class CheckId(StrEnum):
    """In the order in which they are made (kexecd.preflight.table)."""

    CAPABILITY = "capability"
    KEXEC_SUPPORT = "kexec-support"
    LOAD_DISABLED = "load-disabled"
    LOAD_LIMIT = "load-limit"
    LOCKDOWN = "lockdown"
    SECURE_BOOT = "secure-boot"
    KEXEC_TOOLS = "kexec-tools"
    LIVE_UPDATE = "live-update"
    BOOT_ENTRY = "boot-entry"
    IMAGE_FILES = "image-files"
    COMMAND_LINE = "command-line"
    MEMORY = "memory"
    HANDOVER_SPACE = "handover-space"
    LIVE_UPDATE_FORMAT = "live-update-format"
    MODULES = "modules"
    ROOT_DEVICE = "root-device"
    ROOT_DRIVER = "root-driver"
    STALE_IMAGE = "stale-image"
    FOREIGN_IMAGE = "foreign-image"
    BOOT_LOADER = "boot-loader"
    BOOT_COUNTING = "boot-counting"
    REMARKS = "remarks"
    SETTINGS = "settings"
    BOOT_SOURCES = "boot-sources"
    HYPERVISOR = "hypervisor"
    MACHINE = "machine"
    DRIVERS = "drivers"
    HIBERNATION = "hibernation"
    RAID = "raid"
    ZFS = "zfs"
    NETWORK_MOUNTS = "network-mounts"
    PACKAGE_MANAGER = "package-manager"
    INTERRUPTED_UPGRADE = "interrupted-upgrade"
    RECORD_SPACE = "record-space"
    UNWRITTEN_DATA = "unwritten-data"
    HANDED_OVER = "handed-over"
    INHIBITORS = "inhibitors"
    GUESTS = "guests"
    SESSIONS = "sessions"
    CRASH_KERNEL = "crash-kernel"
    FIRMWARE_WISH = "firmware-wish"
    FIRMWARE_UPDATE = "firmware-update"
    FIRMWARE_DEBT = "firmware-debt"
    DENIED = "denied"
    LAST_KEXEC = "last-kexec"
    CLOCK = "clock"
    WATCHDOG = "watchdog"
    FOREIGN_SCRIPTS = "foreign-scripts"
    OWN_HOOKS = "own-hooks"


class Answer(StrEnum):
    """What a finding of a check is to mean, instead of what it means by itself."""

    IGNORE = "ignore"  # the check is not made
    WARN = "warn"  # it is told, and nothing more
    REFUSE = "refuse"  # there is no kexec


@dataclass(frozen=True, slots=True)
class CheckRule:
    """One line of `checks:`; origin: file:line."""

    check: CheckId
    answer: Answer
    origin: str = ""


PREFIX = "checks."


def rows() -> tuple[Row, ...]:
    """One for each check: what may stand behind its name."""
    return tuple(map(_row, CheckId))


def example() -> list[str]:
    """Lines of the commented default file."""
    what = "# What the findings of a check are to mean (docs/checks.md). An example, no default."
    return ["", what, f"#{PREFIX[:-1]}:", f"#  {CheckId.SESSIONS}: {_row(CheckId.SESSIONS).written}"]


def ignored(names: Iterable[str]) -> tuple[CheckRule, ...]:
    """What `--ignore` names. Raises Refusal for a name that no check has."""
    rules = []
    for name in names:
        if name not in tuple(CheckId):
            why = f"there is no such check{nearest(name, CheckId)}"
            raise Refusal(f"cannot ignore {name}", why, exit_code=ExitCode.USAGE)
        rules.append(CheckRule(CheckId(name), Answer.IGNORE, "--ignore"))
    return tuple(rules)


def _row(check: CheckId) -> Row:
    return Row(PREFIX + check, Kind.WORD, Answer.IGNORE, "", words=Answer)
