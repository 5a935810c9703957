# SPDX-License-Identifier: MIT
"""The entries of grub.cfg, and which of them GRUB boots next.

grub.cfg and what it reads are run (`interpreter`), then each entry for itself; what an entry loads is looked for in our
tree. Nothing is raised: what was not understood is a problem of the entry that it stands in, or, where the menu itself
may be another one, of all, and then it cannot be told what is next. When the entry that is next cannot be loaded, GRUB
tries those that `fallback` names; here it stays the one, with its problem.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kexecd.discover.grub.commands import COMMANDS
from kexecd.discover.grub.filesystems import Filesystems
from kexecd.discover.grub.interpreter import Interpreter, interpreter
from kexecd.discover.grub.loaded import MEMORY_TEST, NOTHING, File, command_line
from kexecd.discover.grub.machine import Bls, look
from kexecd.discover.grub.menu import Item, Menu, default_item, path_id
from kexecd.discover.lookup import problem, version_inside
from kexecd.discover.menu import printable
from kexecd.discover.pairs import parse_name
from kexecd.kernel.files import join_root, resolve
from kexecd.model import BootEntry, Found, Source

CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/efi/grub/grub.cfg", "/boot/efi/grub/grub.cfg")
EFI_DIRECTORIES = ("/boot/efi/EFI", "/efi/EFI", "/boot/EFI")
"""Where grub-install leaves a short grub.cfg that leads to the other one, and Red Hat once had it as a whole."""

MOST_ENTRIES = 2000
DEEPEST = 8  # submenus in each other

NAMELESS = "(without a name)"
PASSWORD = "GRUB asks for a password before it starts this one"


@dataclass(slots=True)
class _Node:
    """An item of the menu, with what it leads to."""

    id: str
    entry: BootEntry | None
    menu: _Level | None = None


@dataclass(slots=True)
class _Level:
    menu: Menu
    nodes: list[_Node]


def find(root: str = "/", *, bls: Bls | None = None, arch: str = "") -> Found | None:
    """What GRUB would show and boot; None where there is no grub.cfg.

    bls: reads the entries that `blscfg` puts into the menu; without it they cannot be told. arch: as `uname -m` says
    it, by default this machine's.
    """
    arch = arch or os.uname().machine
    configs = _configs(root)
    if not configs:
        return None
    found = _run(root, configs[0], bls, arch)
    if len(configs) > 1:
        named = f"which of {' and '.join(configs)} GRUB reads cannot be told"
        return replace(found, next="", reason=named, problems=(*found.problems, named))
    return found


def _configs(root: str) -> list[str]:
    """The configuration that GRUB reads; several where it cannot be told."""
    whole = _distinct(CONFIGS, root)
    short = _distinct((f"{place}/{name}/grub.cfg" for place in EFI_DIRECTORIES for name in _names(place, root)), root)
    if len(whole) < 2 and (whole or len(short) < 2):
        return whole or short
    led = [_leads_to(config, root) for config in short]
    chosen = {name: None for files in led for name in files if name in {resolve(path, root) for path in whole or short}}
    if len(chosen) == 1:
        return list(chosen)
    # A copy for firmware that looks nowhere else: EFI/BOOT.
    return whole or [name for name in short if "/boot/" not in name.lower().removeprefix("/boot")] or short


def _leads_to(config: str, root: str) -> list[str]:
    run = interpreter(look(Filesystems(root, config), None, ""), COMMANDS)
    run.configuration(config)
    return [resolve(path, root) for path in run.read_files[1:]]


def _distinct(paths: Iterable[str], root: str) -> list[str]:
    files: dict[str, str] = {}
    for path in paths:
        if os.path.exists(join_root(root, path)):
            files.setdefault(resolve(path, root), path)
    return list(files.values())


def _names(directory: str, root: str) -> list[str]:
    try:
        return sorted(os.listdir(join_root(root, directory)))
    except OSError:
        return []


def _run(root: str, config: str, bls: Bls | None, arch: str) -> Found:
    filesystems = Filesystems(root, config)
    run = interpreter(look(filesystems, bls, arch), COMMANDS)
    reader = _Reader(run, root)
    top = reader.level(run.configuration(config), ())
    chosen, reason = _next(top, run)
    problems = tuple(dict.fromkeys(map(printable, reader.problems)))
    return Found(Source.GRUB, tuple(reader.entries), chosen, printable(reason), problems)


class _Reader:
    """Opens each submenu and runs each entry, in the order of the menu."""

    def __init__(self, run: Interpreter, root: str) -> None:
        self.entries: list[BootEntry] = []
        self.problems: list[str] = []
        self._run = run
        self._root = root
        self._ids: set[str] = set()

    def level(self, menu: Menu, above: tuple[str, ...]) -> _Level:
        level = _Level(menu, [])
        if len(above) > DEEPEST:
            menu.doubts.append("submenus nested too deeply")
            menu.items.clear()
        for item in menu.items:
            if len(self.entries) >= MOST_ENTRIES:
                menu.doubts.append(f"more than {MOST_ENTRIES} entries")
                break
            self._run.menu = menu
            level.nodes.append(self._node(item, above))
        self.problems += menu.doubts
        return level

    def _node(self, item: Item, above: tuple[str, ...]) -> _Node:
        ids = (*above, item.id)
        name = path_id(ids)
        if item.submenu:
            return _Node(name, None, self.level(self._run.submenu(item, name), ids))
        name = self._unused(name)
        entry = replace(item.entry, id=name) if item.entry else self._entry(item, name)
        self.entries.append(entry)
        return _Node(name, entry)

    def _unused(self, name: str) -> str:
        """GRUB cannot tell two of one id apart either; it takes the first."""
        name = printable(name) or NAMELESS
        number, unused = 1, name
        while unused in self._ids:
            number += 1
            unused = f"{name} ({number})"
        self._ids.add(unused)
        return unused

    def _entry(self, item: Item, name: str) -> BootEntry:
        loaded = self._run.entry(item, name)
        title, problems = printable(item.title), list(loaded.doubts)
        if loaded.kernel is None:
            problems.append(loaded.other or NOTHING)
            shown = tuple(map(printable, problems))
            return BootEntry(id=name, title=title, version="", source=Source.GRUB, kernel="", problems=shown)
        kernel = self._file(loaded.kernel, problems)
        readable = len(problems) == len(loaded.doubts)
        initrds = [self._file(file, problems) for file in loaded.initrds]
        devicetree = self._file(loaded.devicetree, problems) if loaded.devicetree else ""
        file_name = loaded.kernel.path.rpartition("/")[2]
        if file_name.startswith("memtest"):
            problems.append(MEMORY_TEST)
        parsed = parse_name(file_name)
        version = parsed.release if parsed else ""
        superusers = self._run.menu.variables.get("superusers")
        return BootEntry(
            id=name,
            title=title,
            version=version or (version_inside(kernel, self._root) if readable else ""),
            source=Source.GRUB,
            kernel=kernel,
            initrds=tuple(initrd for initrd in initrds if initrd),
            cmdline=command_line(loaded.arguments),
            devicetree=devicetree,
            problems=tuple(dict.fromkeys(map(printable, problems))),
            remarks=(PASSWORD,) if superusers and item.restricted else (),
        )

    def _file(self, file: File, problems: list[str]) -> str:
        """Where the file is in our tree, empty if that cannot be told; adds what is wrong with it."""
        name, why = self._run.machine.filesystems.locate(file.device, file.path)
        if why := why or problem(name, self._root):
            problems.append(why)
        return name


def _next(top: _Level, run: Interpreter) -> tuple[str, str]:
    """The id of the entry that boots when nobody touches a key, and why; or empty, and why it cannot be told."""
    config = top.menu.file
    reason = _said(top.menu.variables.get("default"), run, config)
    level, first = top, True
    while True:
        if level.menu.doubts:
            return "", level.menu.doubts[0]
        if not level.nodes:
            return "", f"the menu of {config} is empty" if first else f"{reason}, and that submenu is empty"
        default = level.menu.variables.get("default")
        index, named = default_item(level.menu.items, default, run.dialect)
        if not named and first:
            reason += ", which nothing in the menu is called: GRUB takes the first entry" if default else ""
        elif not named:
            reason += ", a submenu, of which GRUB takes the first entry"
        node = level.nodes[index]
        if node.menu is None:
            return node.id, reason
        level, first = node.menu, False


def _said(default: str, run: Interpreter, config: str) -> str:
    if not default:
        return f"{config} names no default: GRUB takes the first entry"
    for variable, often in (("next_entry", ", for one boot"), ("saved_entry", "")):
        if variable in run.default_word and run.environment.get(variable) == default:
            return f'GRUB\'s environment block says {variable}="{default}"{often}'
    return f'{config} says default="{default}"'
