# SPDX-License-Identifier: MIT
"""kexecctl entries: what could be booted, and which one would be."""

from __future__ import annotations

from argparse import Namespace

from kexecd.cli.choosing import Look, boot_partitions, look
from kexecd.cli.output import print_json, print_table, shown
from kexecd.discover.select import LOADERS
from kexecd.errors import ExitCode
from kexecd.model import BootEntry


def entries(options: Namespace) -> ExitCode:
    with boot_partitions(options.root):
        seen = look(options.root)
    if options.json:
        print_json(as_json(seen))
    else:
        _print(seen, verbose=options.verbose)
    return ExitCode.OK if seen.choice.entry else ExitCode.NO_ENTRY


def as_json(seen: Look) -> dict[str, object]:
    """chosen: its id is null where nothing is. boot_loader: null where there is none."""
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
                "remarks": list(entry.remarks),
            }
            for entry in seen.entries
        ],
        "chosen": {"id": chosen.id if chosen else None, "reason": seen.choice.reason},
        "boot_loader": _loader(seen),
        "warnings": _warnings(seen),
    }


def _loader(seen: Look) -> dict[str, object] | None:
    if seen.loader is None:
        return None
    chosen = seen.choice.entry
    return {
        "name": LOADERS[seen.loader.source],
        "source": str(seen.loader.source),
        "next": seen.loader.next or None,
        "reason": seen.loader.reason,
        "differs": chosen is None or chosen not in seen.loader.entries or chosen.id != seen.loader.next,
    }


def _warnings(seen: Look) -> list[str]:
    return [*seen.settings.warnings, *seen.problems]


def _print(seen: Look, *, verbose: bool) -> None:
    # By their order: a kernel can be found by several sources, under one name and for one reason each.
    why_not = (why for _, why in seen.choice.losers)
    rows = [
        (
            "*" if entry == seen.choice.entry else " ",
            str(entry.source),
            entry.version or "?",
            entry.title,
            seen.choice.reason if entry == seen.choice.entry else next(why_not, ""),
        )
        for entry in seen.entries
    ]
    if verbose:
        for entry, row in zip(seen.entries, rows, strict=True):
            print_table([row])
            _print_details(entry)
    else:
        print_table(rows)
    if not seen.choice.entry:
        print(shown(f"nothing to boot: {seen.choice.reason}"))
    loader = _loader(seen)
    if seen.choice.entry and loader and loader["differs"]:
        print(f"differs: {loader['name']} would boot {loader['next'] or 'nobody knows what'}: {loader['reason']}")
    for warning in _warnings(seen):
        print(shown(f"warning: {warning}"))


def _print_details(entry: BootEntry) -> None:
    details = [("id", entry.id), ("kernel", entry.kernel)]
    details += [("initrd", path) for path in entry.initrds]
    details += [("cmdline", entry.cmdline)] if entry.cmdline is not None else []
    details += [("problem", text) for text in entry.problems] + [("remark", text) for text in entry.remarks]
    print_table(details, indent="     ")
