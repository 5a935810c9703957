# SPDX-License-Identifier: MIT
"""Which entry is booted, and one line for each about why or why not.

The order:

1. what is named on the command line;
2. what the configuration names;
3. what the boot loader would boot next, one-shot choices included;
4. what was installed last, where the installation has written that down;
5. the newest kernel that is installed.

The policy can leave out 3 and 4. What was named and cannot be taken is never replaced by something else, and neither is
what the boot loader would boot: then nothing is chosen, and the reason says what to name. Only a kernel that merely
stands in the package's own file of settings may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from kexecd.discover.lookup import problem, version_inside
from kexecd.discover.pairs import BACKUP, RESCUE, has_modules, initrd_beside, no_initrd, parse_name
from kexecd.discover.sources import Offer
from kexecd.discover.version import kernel_key
from kexecd.kernel.files import resolve
from kexecd.model import BootEntry, Choice, Source

LOADERS = {Source.GRUB: "GRUB", Source.BLS: "systemd-boot", Source.UKI: "systemd-boot", Source.EXTLINUX: "extlinux"}

GUESSED = "; that it is {} is only guessed from its entries"
NAME_ONE = "; name an entry, or let kexecd.yaml say `choice: newest`"


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
    offer: Offer,
    settings: Wishes,
    *,
    explicit: str | None = None,
    initrd: str | None = None,
    newest: bool = False,
    root: str = "/",
) -> Choice:
    """The entry to boot: one that is offered, or one made of the path that is named.

    explicit: an entry's id, version or title, or the path of a kernel. initrd: the path of its initrd; empty: none.
    newest: the policy wants the newest kernel, whatever the boot loader would boot.
    """
    chooser = _Chooser(offer, offer.entries, settings, root)
    if explicit is not None:
        return chooser.explicit(explicit, initrd)
    if settings.disabled:
        why = f'{settings.origin("kernel")} switches kexec off with KNAME="-"'
        return chooser.nothing(why, "kexec is switched off")
    if settings.kernel is None:
        return chooser.unnamed(settings.initrd, newest=newest)
    if problem(settings.kernel, root) and settings.stock_kernel:
        # Its initrd goes with it: it would be that of another kernel.
        remark = f"; there is no {settings.kernel}, which {settings.origin('kernel')} came with"
        return chooser.unnamed(None, remark, newest=newest)
    return chooser.configured(settings.kernel)


@dataclass(frozen=True, slots=True)
class _Chooser:
    offer: Offer
    entries: tuple[BootEntry, ...]
    settings: Wishes
    root: str

    def explicit(self, wanted: str, initrd: str | None) -> Choice:
        others = "another one is named on the command line"
        by_name = [entry for entry in self.entries if wanted and wanted in (entry.id, entry.version, entry.title)]
        # Of several with this version, one that can be booted, and of those the one that is listed first.
        entry = next((entry for entry in by_name if not entry.problems), next(iter(by_name), None))
        if entry is None and "/" not in wanted:
            return self.nothing(f"there is no entry, version or title called {wanted}", others)
        if entry is None:
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

    def unnamed(self, initrd: str | None, remark: str = "", *, newest: bool) -> Choice:
        if not newest and self.offer.loader is not None:
            return self._next_of_loader(remark)
        if not newest and (last := self._installed_last()):
            reason = f"it was installed last, as /var/lib/misc/installkernel says{remark}"
            return self._configured_initrd(last, initrd, reason, "another one was installed last")
        entry = self._newest()
        if entry is None:
            return self.nothing(self._none() + remark, "")
        others = f"{entry.version or entry.id} is newer"
        return self._configured_initrd(entry, initrd, f"it is the newest that is installed{remark}", others)

    def _none(self) -> str:
        """Why there is nothing to take: the first entry's problem speaks for the others."""
        if not self.entries:
            return f"no kernel was found in {self.settings.boot_dir}"
        why = next((problem for entry in self.entries for problem in entry.problems), "they are boot loaders' entries")
        return f"no kernel that was found can be taken: {why}"

    def nothing(self, why: str, others: str) -> Choice:
        return Choice(None, why, self._losers(None, others))

    def _next_of_loader(self, remark: str) -> Choice:
        loader = self.offer.loader
        assert loader is not None
        name = LOADERS[loader.source]
        guessed = GUESSED.format(name) if self.offer.guessed else ""
        entry = next((entry for entry in loader.entries if entry.id == loader.next), None)
        if entry is None:
            why = loader.reason or next(iter(loader.problems), "it names no entry")
            what = f"it cannot be told what {name} would boot next: {why}"
            return self.nothing(f"{what}{guessed}{NAME_ONE}", "it is not named")
        others = f"{name} boots another one next"
        if entry.problems:
            alone = sum(other.title == entry.title for other in loader.entries) == 1
            title = entry.title if alone else f"{entry.title} ({entry.id})"
            return self.nothing(f"{name} would boot {title}, but {entry.problems[0]}{guessed}{NAME_ONE}", others)
        why = f", because {loader.reason}" if loader.reason else ""
        return self._won(entry, f"{name} would boot it next{why}{guessed}{remark}", others)

    def _installed_last(self) -> BootEntry | None:
        for found in self.offer.found:
            if found.source is Source.INSTALLKERNEL:
                return next((e for e in found.entries if e.id == found.next and not e.problems), None)
        return None

    def _newest(self) -> BootEntry | None:
        """Of the kernels that carry a version; else the first of those that do not.

        Menu entries of GRUB and extlinux are left out: one kernel has several there, recovery among them.
        """
        sources = (Source.BLS, Source.UKI, Source.VERSIONED, Source.MODULES)
        versioned = [e for e in self.offer.of(*sources) if not e.problems and e.version]
        if versioned:
            return max(versioned, key=lambda entry: kernel_key(entry.version))  # the first one of equals
        return next((e for e in self.offer.of(Source.LINK, Source.GENTOO) if not e.problems), None)

    def _configured_initrd(self, entry: BootEntry, initrd: str | None, reason: str, others: str) -> Choice:
        if initrd:
            if why := self._unfit(initrd, entry):
                return self.nothing(why, others)
            entry = self._joined(entry, initrd)
            reason += f", with the initrd that {self.settings.origin('initrd')} names"
        return self._won(entry, reason, others)

    def _won(self, entry: BootEntry, why: str, others: str) -> Choice:
        return Choice(entry, why, self._losers(entry, others))

    def _losers(self, winner: BootEntry | None, others: str) -> tuple[tuple[str, str], ...]:
        return tuple((entry.id, self._why_not(entry, winner, others)) for entry in self.entries if entry != winner)

    def _why_not(self, entry: BootEntry, winner: BootEntry | None, others: str) -> str:
        if entry.problems:
            return entry.problems[0]
        if winner is not None and resolve(entry.kernel, self.root) == resolve(winner.kernel, self.root):
            return "it is the same kernel"
        return "it is the same version" if winner is not None and winner.version == entry.version != "" else others

    def _at(self, path: str, source: Source) -> BootEntry:
        """The entry of the kernel at `path`, an existing file: a known one, or one with the initrd of its version."""
        place = resolve(path, self.root)
        # A boot loader's entries are left out: whoever names a file means the file, not a menu entry's command line.
        known = (e for e in self.entries if not e.source.is_boot_loader and resolve(e.kernel, self.root) == place)
        if (entry := next(known, None)) is not None:
            return entry
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
