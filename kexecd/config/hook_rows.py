# SPDX-License-Identifier: MIT
"""What kexecd.yaml says about hooks: the keys of one row of its `hooks:` list, and what they come to.

A row with a command is a hook of its own. One without adjusts the executable of that name in /etc/kexecd/hooks.d, whose
priority is in its file's name, and which gets every call (kexecd.config.hooks).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kexecd.config.rows import PRIORITIES, Kind, Row


class HookCall(StrEnum):
    """What a hook is called for (docs/hooks.md)."""

    PREPARE = "prepare"  # before anything is asked to quit: it may say no
    FREEZE = "freeze"  # everything else has quit: the last chance to write
    CANCEL = "cancel"  # there will be no restart: take prepare back
    FINISH = "finish"  # in the new kernel


class OnFailure(StrEnum):
    """What a hook's failure means."""

    VETO = "veto"  # before anything is asked to quit, the restart is given up
    WARN = "warn"  # it is told


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRow:
    """One row of the list. origin: file:line. timeout: seconds."""

    name: str
    origin: str
    command: tuple[str, ...] = ()
    priority: int = PRIORITIES["DEFAULT"]
    timeout: float = 10.0
    on_failure: OnFailure = OnFailure.VETO
    calls: frozenset[HookCall] = frozenset(HookCall)


PREFIX = "hooks."

ROWS = (
    Row("hooks.name", Kind.NAME, "backup", "What it is called."),
    Row(
        "hooks.command",
        Kind.COMMAND,
        "[/usr/local/sbin/backup, --last]",
        "What is started; no shell reads it. Without it: the executable of that name in /etc/kexecd/hooks.d.",
    ),
    Row("hooks.priority", Kind.PRIORITY, "DEFAULT", "Its place; hooks of one priority run in parallel."),
    Row("hooks.timeout", Kind.SECONDS, "10", "How long one call may take before it is killed.", 1, 86400),
    Row(
        "hooks.on-failure",
        Kind.WORD,
        "veto",
        "When prepare fails: give up the restart, or tell it and go on.",
        words=OnFailure,
    ),
    Row("hooks.calls", Kind.WORDS, "[prepare, freeze, cancel, finish]", "What it is called for.", words=HookCall),
)

IN_FILE_NAME = ("hooks.priority", "hooks.calls")
"""What a row without a command cannot set."""


def example() -> list[str]:
    """Lines of the commented default file: one hook, with every key."""
    what = "# Steps of your own, beside the executables in /etc/kexecd/hooks.d (docs/hooks.md). An example, no default."
    lines = ["", what, "#hooks:"]
    for row in ROWS:
        key = row.key.removeprefix(PREFIX)
        lines += [f"#  # {row.help}" if row is ROWS[0] else f"#    # {row.help}"]
        lines += [f"#  - {key}: {row.written}" if row is ROWS[0] else f"#    {key}: {row.written}"]
    return lines
