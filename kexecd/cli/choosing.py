# SPDX-License-Identifier: MIT
"""The first half of the flow, as every command walks it: settings -> entries -> choice -> target."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass, replace

from kexecd.config.settings import Settings, read_settings
from kexecd.discover import pairs, select
from kexecd.errors import NoEntry
from kexecd.handoff import new_nonce
from kexecd.kernel import sysfs
from kexecd.model import BootEntry, BootTarget, Choice, Source
from kexecd.target import make_target


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen below one root."""

    settings: Settings
    entries: tuple[BootEntry, ...]
    choice: Choice


def look(root: str, explicit: str | None = None) -> Look:
    """What could be booted below `root`, and what would be. Raises BadConfig."""
    settings = read_settings(root)
    entries = pairs.entries(root, settings.boot_dir)
    return Look(settings, entries, select.choose(entries, settings, explicit=explicit, root=root))


def look_for(options: Namespace, root: str = "/") -> Look:
    """The same, as the options of one command want it (see kexecd.cli.main)."""
    seen = look(root, _absolute(options.kernel, root) if options.kernel else options.entry)
    if options.kernel and (options.initrd or seen.choice.entry is None):
        # What is named file by file is taken as it is named; opening the files says what is wrong with them.
        seen = replace(seen, choice=Choice(_named(options, root), "it is named on the command line"))
    if options.cmdline is not None and seen.choice.entry:
        entry = replace(seen.choice.entry, cmdline=options.cmdline)
        seen = replace(seen, choice=replace(seen.choice, entry=entry))
    return seen


def chosen(seen: Look) -> BootEntry:
    """The entry that is to be booted. Raises NoEntry."""
    if seen.choice.entry is None:
        raise NoEntry(
            "nothing is chosen to boot", seen.choice.reason, hint="`kexecctl entries` lists what was found, and why not"
        )
    return seen.choice.entry


def target_for(options: Namespace, seen: Look, root: str = "/") -> BootTarget:
    """The entry made final; its files are open, and the caller's. Raises a Refusal."""
    return make_target(
        chosen(seen),
        seen.settings,
        running_cmdline=sysfs.running_cmdline(root),
        nonce=new_nonce(),
        root=root,
        append=options.append,
        machine=sysfs.architecture() if root == "/" else "",
    )


def _named(options: Namespace, root: str) -> BootEntry:
    kernel = _absolute(options.kernel, root)
    initrds = tuple(_absolute(path, root) for path in options.initrd or ())
    return BootEntry(id=kernel, title=kernel, version="", source=Source.EXPLICIT, kernel=kernel, initrds=initrds)


def _absolute(path: str, root: str) -> str:
    return os.path.abspath(path) if root == "/" else path
