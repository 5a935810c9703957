# SPDX-License-Identifier: MIT
"""What the files of units tell: which have to be stopped by PID 1, and which are the ground that others stand on.

By PID 1 those that ask for more than a TERM to whoever is in them. The ground is what belongs to the early boot and
says so with DefaultDependencies=no: it keeps disks and the network up, and stopping it takes them away. For one, LVM's
blk-availability.service unmounts whatever lies on md and dm, whoever still writes to it.

Read from the files and not asked of PID 1, which takes 15 ms for each unit on a slow machine. In doubt a unit has to be
stopped by PID 1: a setting in any file that could be the unit's counts, whichever of them is in force. The places are
those of systemd.unit(5), "System Unit Search Path"; the settings those of systemd.service(5) and systemd.kill(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

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


GROUND = ("no", "false", "0", "off")
"""The values of DefaultDependencies with which a unit is none of those that come after the early boot."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a unit's files say of its end. pid_1: PID 1 has to stop it; also where that cannot be told."""

    pid_1: bool
    ground: bool = False


def wishes(unit: str, root: str = "/") -> Wishes:
    """Of a service or a scope."""
    known = pid_1 = ground = False
    for path, is_dropin in _files(unit, root):
        try:
            text = read_text(path, root=root)
        except OSError:
            pid_1 = True
            continue
        if text is None:
            continue
        known = known or not is_dropin
        for line in text.splitlines():
            key, _, value = line.partition("=")
            pid_1 = pid_1 or _counts(key.strip(), value.strip())
            ground = ground or (key.strip() == "DefaultDependencies" and value.strip() in GROUND)
    return Wishes(pid_1 or not known, ground)


def _counts(key: str, value: str) -> bool:
    harmless = HARMLESS.get(key)
    return harmless is not None and value != "" and value not in harmless


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
