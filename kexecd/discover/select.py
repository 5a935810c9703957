# SPDX-License-Identifier: MIT
"""Which entry is booted, and one line for each about why or why not.

What is named on the command line comes before what the configuration names, and that before the newest kernel that is
installed and speaks for itself. What was named and cannot be taken is never replaced by something else; only a kernel
that merely stands in the package's own file of settings may be missing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Protocol

from kexecd.discover.lookup import problem, version_inside
from kexecd.discover.pairs import BACKUP, RESCUE, has_modules, initrd_beside, no_initrd, parse_name
from kexecd.kernel.files import resolve
from kexecd.model import BootEntry, Choice, Source


class Wishes(Protocol):
    """What the choice needs of the settings; kexecd.config.settings.Settings is such a one."""

    @property
    def kernel(self) -> str | None: ...
    @property
    def initrd(self) -> str | None: ...
    @property
    def boot_dir(self) -> str: ...
    @property
    def disabled(self) -> bool: ...
    @property
    def stock_kernel(self) -> bool: ...

    def origin(self, dest: str) -> str: ...


def choose(
    entries: tuple[BootEntry, ...],
    settings: Wishes,
    *,
    explicit: str | None = None,
    initrd: str | None = None,
    root: str = "/",
) -> Choice:
    """The entry to boot: one of `entries`, which come newest first, or one made of the path that is named.

    explicit: an entry's id, a kernel version, or the path of a kernel. initrd: the path of its initrd; empty: none.
    """
    chooser = _Chooser(entries, settings, root)
    if explicit is not None:
        return chooser.explicit(explicit, initrd)
    if settings.disabled:
        why = f'{settings.origin("kernel")} switches kexec off with KNAME="-"'
        return chooser.nothing(why, "kexec is switched off")
    if settings.kernel is None:
        return chooser.newest(settings.initrd)
    if problem(settings.kernel, root) and settings.stock_kernel:
        # Its initrd goes with it: it would be that of another kernel.
        return chooser.newest(None, f"; there is no {settings.kernel}, which {settings.origin('kernel')} came with")
    return chooser.configured(settings.kernel)


@dataclass(frozen=True, slots=True)
class _Chooser:
    entries: tuple[BootEntry, ...]
    settings: Wishes
    root: str

    def explicit(self, wanted: str, initrd: str | None) -> Choice:
        others = "another one is named on the command line"
        by_name = (entry for entry in self.entries if wanted and wanted in (entry.id, entry.version))
        entry = next(by_name, None)
        if entry is None and "/" not in wanted:
            return self.nothing(f"no entry and no kernel version is called {wanted}", others)
        if entry is None:
            if self.root == "/":
                wanted = os.path.abspath(wanted)
            if why := problem(wanted, self.root):
                return self.nothing(why, others)
            entry = self._at(wanted, Source.EXPLICIT)
        if initrd is not None:
            entry = _with_initrd(entry, initrd)
        although = f", although {entry.problems[0]}" if entry.problems else ""
        return self._won(entry, f"it is named on the command line{although}", others)

    def configured(self, kernel: str) -> Choice:
        origin = self.settings.origin("kernel")
        others = f"{origin} names another one"
        if why := problem(kernel, self.root):
            return self.nothing(f"{why}, which {origin} names", others)
        entry = self._at(kernel, Source.CONFIG)
        if self.settings.initrd is not None:
            if why := self._unfit(self.settings.initrd, entry):
                return self.nothing(why, others)
            entry = self._joined(entry, self.settings.initrd)
        elif serious := [text for text in entry.problems if text not in (RESCUE, BACKUP)]:
            return self.nothing(serious[0], others)
        return self._won(entry, f"{origin} names it", others)

    def newest(self, initrd: str | None, remark: str = "") -> Choice:
        entry = next((entry for entry in self.entries if not entry.problems), None)
        if entry is None:
            found = f"none of the {len(self.entries)} kernels" if len(self.entries) > 1 else "the only kernel"
            why = f"{found} in {self.settings.boot_dir} can be taken" if self.entries else ""
            return self.nothing((why or f"no kernel was found in {self.settings.boot_dir}") + remark, "")
        others = f"{entry.version or entry.id} is newer"
        if initrd:
            if why := self._unfit(initrd, entry):
                return self.nothing(why, others)
            entry = self._joined(entry, initrd)
            remark += f", with the initrd that {self.settings.origin('initrd')} names"
        return self._won(entry, f"it is the newest that is installed{remark}", others)

    def nothing(self, why: str, others: str) -> Choice:
        return Choice(None, why, self._losers("", others))

    def _won(self, entry: BootEntry, why: str, others: str) -> Choice:
        return Choice(entry, why, self._losers(entry.id, others))

    def _losers(self, winner: str, others: str) -> tuple[tuple[str, str], ...]:
        return tuple(
            (entry.id, entry.problems[0] if entry.problems else others) for entry in self.entries if entry.id != winner
        )

    def _at(self, path: str, source: Source) -> BootEntry:
        """The entry of the kernel at `path`: a known one, or a new one with the initrd of its version."""
        place = resolve(path, self.root)
        known = next((entry for entry in self.entries if resolve(entry.kernel, self.root) == place), None)
        if known is not None:
            return known
        parsed = parse_name(place.rpartition("/")[2])
        version = (parsed.release if parsed else "") or version_inside(place, self.root)
        initrd = initrd_beside(place, version, self.root, self.settings.boot_dir)
        lacking = not initrd and any(entry.initrds for entry in self.entries) and has_modules(version, self.root)
        return BootEntry(
            id=path,
            title=f"Linux {version}" if version else path,
            version=version,
            source=source,
            kernel=place,
            initrds=(initrd,) if initrd else (),
            problems=(no_initrd(version),) if lacking else (),
        )

    def _joined(self, entry: BootEntry, initrd: str) -> BootEntry:
        """The entry with the configured initrd; the entry itself where that is what it has."""
        places = {resolve(path, self.root) for path in entry.initrds}
        same = {resolve(initrd, self.root)} == places if initrd else not places
        return entry if same else _with_initrd(replace(entry, source=Source.CONFIG), initrd)

    def _unfit(self, initrd: str, entry: BootEntry) -> str:
        """Why the configured initrd cannot go with the entry; empty if nothing speaks against it."""
        origin = self.settings.origin("initrd")
        if not initrd:
            return ""
        if why := problem(initrd, self.root):
            return f"{why}, which {origin} names"
        place = resolve(initrd, self.root)
        owners = {
            other.version for other in self.entries for path in other.initrds if resolve(path, self.root) == place
        }
        if owners and entry.version not in owners:
            return f"{origin} names the initrd of {min(owners)} for the kernel {entry.version or entry.kernel}"
        return ""


def _with_initrd(entry: BootEntry, initrd: str) -> BootEntry:
    """With another initrd, or none if it is empty. What was wrong with the one that it had is so no more."""
    problems = tuple(text for text in entry.problems if text in (RESCUE, BACKUP))
    return replace(entry, initrds=(initrd,) if initrd else (), problems=problems)
