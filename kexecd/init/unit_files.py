# SPDX-License-Identifier: MIT
"""Which units have to be stopped by PID 1: those whose files ask for more than a TERM to whoever is in them.

Read from the files and not asked of PID 1, which takes 15 ms for each unit on a slow machine. In doubt a unit has to be
stopped by PID 1: a setting in any file that could be the unit's counts, whichever of them is in force. The places are
those of systemd.unit(5), "System Unit Search Path"; the settings those of systemd.service(5) and systemd.kill(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from kexecd.kernel.files import join_root, read_text

DIRECTORIES = (
    "/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient",
    "/run/systemd/generator.early", "/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator",
    "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/generator.late",
)

HARMLESS = {
    "ExecStop": (),
    "ExecStopPost": (),
    "KillSignal": ("SIGTERM", "TERM", "15"),
    # With `process` and `none` systemd asks fewer of them; at a shutdown it asks the others right after that.
    "KillMode": ("control-group", "process", "none"),
    "SendSIGHUP": ("no", "false", "0", "off"),
}  # fmt: skip
"""The settings that count, and the values of each with which a TERM is all that is needed; an empty one clears it."""


def needs_pid_1(unit: str, root: str = "/") -> bool:
    """Whether stopping a service or scope takes more than a TERM to everybody in it, or whether that cannot be told."""
    known = False
    for path, is_dropin in _files(unit, root):
        try:
            text = read_text(path, root=root)
        except OSError:
            return True
        if text is None:
            continue
        known = known or not is_dropin
        if any(_counts(line) for line in text.splitlines()):
            return True
    return not known


def _counts(line: str) -> bool:
    key, separator, value = line.partition("=")
    harmless = HARMLESS.get(key.strip())
    return bool(separator) and harmless is not None and value.strip() != "" and value.strip() not in harmless


def _files(unit: str, root: str) -> Iterator[tuple[str, bool]]:
    """Everything that may be a file of the unit, whether it is there or not, and whether it is a drop-in."""
    stem, _, kind = unit.rpartition(".")
    names = [unit]
    if "@" in stem:
        names.append(f"{stem.partition('@')[0]}@.{kind}")
    parts = stem.split("-")
    prefixes = [f"{'-'.join(parts[:count])}-.{kind}" for count in range(1, len(parts))]
    for directory in DIRECTORIES:
        if not os.path.isdir(join_root(root, directory)):
            continue
        yield from ((f"{directory}/{name}", False) for name in names)
        for name in (*names, *prefixes, kind):
            place = f"{directory}/{name}.d"
            try:
                entries = os.listdir(join_root(root, place))
            except OSError:
                continue
            yield from ((f"{place}/{entry}", True) for entry in entries if entry.endswith(".conf"))
