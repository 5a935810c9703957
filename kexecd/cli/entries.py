# SPDX-License-Identifier: MIT
"""kexecctl entries: what could be booted, and which one would be."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

from kexecd.cli.choosing import Look, look
from kexecd.cli.output import print_json, print_table
from kexecd.errors import ExitCode


def entries(options: Namespace) -> ExitCode:
    seen = look(options.root)
    if seen.choice.entry and seen.choice.entry not in seen.entries:  # the configuration names it
        seen = replace(seen, entries=(seen.choice.entry, *seen.entries))
    if options.json:
        print_json(as_json(seen))
    else:
        _print(seen)
    return ExitCode.OK if seen.choice.entry else ExitCode.NO_ENTRY


def as_json(seen: Look) -> dict[str, object]:
    chosen = seen.choice.entry
    return {
        "entries": [
            {
                "id": entry.id,
                "title": entry.title,
                "version": entry.version,
                "source": str(entry.source),
                "kernel": entry.kernel,
                "initrd": list(entry.initrds),
                "cmdline": entry.cmdline,
                "default": entry == chosen,
                "problems": list(entry.problems),
            }
            for entry in seen.entries
        ],
        "chosen": {"id": chosen.id if chosen else None, "reason": seen.choice.reason},
        "warnings": list(seen.settings.warnings),
    }


def _print(seen: Look) -> None:
    why_not = dict(seen.choice.losers)
    rows = []
    for entry in seen.entries:
        mark = "*" if entry == seen.choice.entry else " "
        remark = seen.choice.reason if entry == seen.choice.entry else why_not.get(entry.id, "")
        files = " + ".join((entry.kernel, *entry.initrds))
        rows.append((mark, entry.version or entry.id, files, remark))
    print_table(rows)
    if not seen.choice.entry:
        print(f"nothing to boot: {seen.choice.reason}")
    for warning in seen.settings.warnings:
        print(f"warning: {warning}")
