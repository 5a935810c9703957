# SPDX-License-Identifier: MIT
"""Boot Loader Specification, type 1: https://uapi-group.org/specifications/specs/boot_loader_specification/ 1.

A file in loader/entries/ of a boot partition is an entry. Who reads it decides what it says: systemd-boot takes quotes
around a value away and nothing else; GRUB, in Fedora's and its kin (blscfg), expands variables. Not supported are
`uki-url`, and a `profile` other than the first.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cmp_to_key
from typing import Any

from kexecd.discover.lookup import problem, version_inside
from kexecd.discover.menu import OUT_OF_TRIES, Item, key_values, names, partitions, printable, split_counters
from kexecd.discover.pairs import RESCUE
from kexecd.errors import Refusal
from kexecd.kernel import uki
from kexecd.kernel.files import open_regular, read_text
from kexecd.model import BootEntry, Source

ENTRY_LIMIT = 1 << 16  # bytes of one file

ARCHITECTURES = {"x64": "x86_64", "ia32": "i386", "aa64": "aarch64", "arm": "arm"}
"""EFI's names that differ from those of `uname -m`."""

GRUB_VARIABLES = ("kernelopts", "tuned_params", "tuned_initrd")
"""What Fedora's entries use. The latter two are only set where TuneD is, and empty otherwise."""

KINDS = {
    "efi": "it starts an EFI program, which cannot be booted by kexec",
    "uki-url": "its kernel would come from the network, which kexecd does not fetch",
}

_VARIABLE = re.compile(r"(?<!\\)\$(?:\{(\w+)\}|(\w+))", re.ASCII)


def entries(root: str = "/", variables: Mapping[str, str] | None = None, *, machine: str = "") -> tuple[BootEntry, ...]:
    """All entries of type 1 below `root`, in the order of the specification.

    variables: GRUB's, where GRUB reads them; None: somebody does who knows no variables. machine: as `uname -m` says
    it; empty: an entry for any is taken.
    """
    return tuple(item.entry for item in sorted(read(root, [], variables, machine=machine), key=lambda item: item.place))


def read(
    root: str, problems: list[str], variables: Mapping[str, str] | None = None, *, machine: str = ""
) -> Iterator[Item]:
    """The entries of type 1 in no order; what could not be looked at is told in `problems`."""
    for partition in partitions(root):
        for name in names(f"{partition}/loader/entries", ".conf", root, problems):
            yield _Reader(partition, name, root, variables, machine).item()


def grub_order(found: Iterable[BootEntry]) -> tuple[BootEntry, ...]:
    """As GRUB's blscfg shows entries of type 1, and under its names for them, which are the files' without `.conf`.

    The names are compared like those of packages (NAME-VERSION-RELEASE, by rpm's rules), and the newest comes first;
    sort-key and the like mean nothing to it.
    """
    named = [replace(entry, id=entry.id.removesuffix(".conf")) for entry in found]
    return tuple(sorted(named, key=lambda entry: _package_key(entry.id), reverse=True))


@dataclass(slots=True)
class _Reader:
    partition: str
    name: str
    root: str
    variables: Mapping[str, str] | None
    machine: str

    def item(self) -> Item:
        stem, left, done = split_counters(self.name[: -len(".conf")])
        path = f"{self.partition}/loader/entries/{self.name}"
        entry = BootEntry(id=f"{stem}.conf", title=printable(stem), version="", source=Source.BLS, kernel="")
        item = Item(entry=entry, name=self.name, left=left, done=done)
        try:
            text = read_text(path, root=self.root, limit=ENTRY_LIMIT)
        except OSError as error:
            why = f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
            return replace(item, entry=replace(entry, problems=(why,)), shown=False)
        if text is None:
            return replace(item, entry=replace(entry, problems=(f"there is no {path}",)), shown=False)
        keys: dict[str, list[str]] = {}
        for key, value in key_values(text, unquote=self.variables is None):
            keys.setdefault(key, []).append(value)
        return self._with(item, keys)

    def _with(self, item: Item, keys: dict[str, list[str]]) -> Item:
        last = {key: values[-1] for key, values in keys.items()}
        problems, remarks = [OUT_OF_TRIES] * item.bad, self._remarks(keys)
        kinds = [kind for kind in ("linux", "uki", "efi", "uki-url") if kind in keys]
        kernel = self._place(last[kinds[0]]) if kinds and kinds[0] != "uki-url" else ""
        foreign = self._foreign(last.get("architecture", ""))
        missing = problem(kernel, self.root) if kernel else ""
        hidden = [why for why in (foreign, missing) if why]
        if len(kinds) != 1:
            hidden.append(f"it names both {kinds[0]} and {kinds[1]}" if kinds else "it names nothing to boot")
        problems += hidden
        problems += [KINDS[kind] for kind in kinds if kind in KINDS]
        if last.get("profile", "0").strip("0"):
            problems.append(f"it asks for profile {last['profile']} of its image, and kexecd only takes the first")
        texts = {key: self._expanded(key, keys.get(key, []), problems, remarks) for key in ("options", "initrd")}
        initrds = self._initrds(texts["initrd"], last.get(kinds[0], "") if kinds else "")
        problems += [why for path in initrds if (why := problem(path, self.root))]
        devicetree = self._place(last["devicetree"]) if "devicetree" in last else ""
        if devicetree and (why := problem(devicetree, self.root)):
            problems.append(why)
        version = last.get("version", "")
        rescue = "rescue" in f"{item.entry.id} {version}"
        if rescue:
            problems.append(RESCUE)
        if rescue or not re.fullmatch(r"[0-9][!-~]*", version):  # NixOS has a sentence here
            version = version_inside(kernel, self.root) if kernel and not missing else ""
        entry = replace(
            item.entry,
            title=printable(last.get("title") or item.entry.title),
            version=version,
            kernel=kernel,
            initrds=initrds,
            cmdline=" ".join(filter(None, texts["options"])) or self._built_in(kernel, missing),
            devicetree=devicetree,
            problems=tuple(problems),
            remarks=tuple(remarks),
        )
        return replace(
            item,
            entry=entry,
            sort_key=last.get("sort-key", ""),
            machine_id=last.get("machine-id", ""),
            version=last.get("version", ""),
            shown=not hidden,
        )

    def _place(self, path: str) -> str:
        """Where a file of the entry is: its path begins at the root of the partition."""
        path = posixpath.normpath("/" + path.replace("\\", "/").lstrip("/"))
        here = self.partition + path
        # Where /boot is no partition of its own, a path in it begins with /boot all the same.
        return path if path.startswith(f"{self.partition}/") and problem(here, self.root) else here

    def _foreign(self, architecture: str) -> str:
        """Why the entry is not for this machine; empty if it is, or if nobody asked."""
        wanted = ARCHITECTURES.get(architecture.lower(), architecture.lower())
        machine = "i386" if re.fullmatch(r"i[3-6]86", self.machine) else self.machine
        if not wanted or not machine or machine == wanted or (wanted == "arm" and machine.startswith("armv")):
            return ""
        return f"it is for {architecture}, this machine is {self.machine}"

    def _remarks(self, keys: dict[str, list[str]]) -> list[str]:
        remarks = []
        if "devicetree-overlay" in keys:
            remarks.append("the boot loader would apply device tree overlays, kexec does not")
        if "extra" in keys:
            files = ", ".join(printable(path.rpartition("/")[2]) for path in keys["extra"])
            remarks.append(f"the boot loader would pass on {files}, kexec does not")
        return remarks

    def _expanded(self, key: str, values: list[str], problems: list[str], remarks: list[str]) -> list[str]:
        """The lines of a key with the values of GRUB's variables, which may use variables themselves."""
        if self.variables is None:
            used = {match[1] or match[2] for value in values for match in _VARIABLE.finditer(value)}
            needed = sorted(used & set(GRUB_VARIABLES))
            problems += [f"GRUB's variable ${name} is in its {key}, and only GRUB knows it" for name in needed]
            return values
        if key == "options" and not values:
            values = [self.variables.get("default_kernelopts", "")]
        known, unset = self.variables, set[str]()

        def value_of(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in known:
                unset.add(name)
            return known.get(name, "")

        for _ in range(2):
            values = [_VARIABLE.sub(value_of, value).strip() for value in values]
        unset -= {"tuned_params", "tuned_initrd"}
        remarks += [f"${name} is in its {key}, and GRUB has no value for it" for name in sorted(unset)]
        return values

    def _initrds(self, values: list[str], kernel: str) -> tuple[str, ...]:
        """GRUB takes several in one line, and with `early_initrd` more of them, from the same directory, first."""
        if self.variables is None:
            return tuple(self._place(value) for value in values)
        words = [word for value in values for word in value.split()]
        beside = posixpath.dirname(words[0] if words else kernel)
        early = [f"{beside}/{name}" for name in self.variables.get("early_initrd", "").split()]
        return tuple(self._place(word) for word in (*early, *words))

    def _built_in(self, kernel: str, missing: str) -> str:
        """The command line of an entry that gives none: what the kernel brings, where it is a unified image."""
        if not kernel or missing:
            return ""
        try:
            file = open_regular(kernel, "kernel", root=self.root)
        except Refusal:
            return ""
        try:
            return uki.sections(file.fd, kernel).cmdline or ""
        except Refusal:
            return ""
        finally:
            os.close(file.fd)


def _package_key(name: str) -> Any:
    parts = name.rsplit("-", 2)
    return [_rpm_key(part) for part in (*parts, "", "")[:3]]


def _rpm_compare(a: str, b: str) -> int:
    """By rpm's rules, as GRUB has them: runs of digits and of letters; `~` is before everything, `+` after an end."""
    runs = [re.findall(r"~|\+|[0-9]+|[A-Za-z]+", text) for text in (a, b)]
    for x, y in itertools.zip_longest(*runs, fillvalue=""):
        if x == y:
            continue
        for lowest in ("~", "", "+"):
            if lowest in (x, y):
                return -1 if x == lowest else 1
        if x.isdigit() and y.isdigit():
            x, y = x.lstrip("0"), y.lstrip("0")
            if x == y:
                continue
            return -1 if (len(x), x) < (len(y), y) else 1
        # A number is newer than a word.
        return -1 if (x.isdigit(), x) < (y.isdigit(), y) else 1
    return 0


_rpm_key: Any = cmp_to_key(_rpm_compare)
