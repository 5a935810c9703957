# SPDX-License-Identifier: MIT
"""extlinux.conf and syslinux.cfg: the labels of extlinux, syslinux and U-Boot, and which one boots by default.

Format: https://wiki.syslinux.org/wiki/index.php?title=Config and ?title=Menu; U-Boot's subset of it is in its
doc/README.pxe. Supported are DEFAULT, ONTIMEOUT, TIMEOUT, PROMPT, UI, INCLUDE, MENU INCLUDE, LABEL and in it LINUX,
KERNEL, INITRD, APPEND, FDT, DEVICETREE, MENU LABEL and MENU DEFAULT. What a label starts otherwise is a problem of that
label; what only dresses the menu is skipped.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, field

from kexecd.discover.lookup import problem, version_inside
from kexecd.discover.menu import printable
from kexecd.discover.pairs import parse_name
from kexecd.kernel import cmdline
from kexecd.kernel.files import join_root, read_text
from kexecd.model import BootEntry, Found, Source

CONFIGS = (
    "/boot/extlinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/boot/syslinux/extlinux.conf",
    "/extlinux/extlinux.conf",
    "/syslinux/syslinux.cfg",
    "/boot/extlinux.conf",
)

MOST_NESTED = 16  # MAX_NEST_LEVEL in U-Boot's boot/pxe_utils.c
MOST_FILES = 64
MOST_PROBLEMS = 16

NO_KERNELS = (".c32", ".com", ".cbt", ".bs", ".bss", ".0")  # what KERNEL takes for something else by its name
ELSEWHERE = ("localboot", "com32", "boot", "bss", "pxe", "fdimage", "comboot", "config")  # starts no Linux
TREES = ("fdtdir", "devicetreedir")
SKIPPED = frozenset(
    "allowoptions autoboot clear console display f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 fallback font implicit "
    "ipappend kaslrseed kbdmap localcmd nocomplete noescape nohalt say serial sysappend totaltimeout".split()
)


def find(root: str = "/") -> Found | None:
    """The labels of the first configuration that is there, in its order; None where there is none."""
    for path in CONFIGS:
        config = _Config(root, posixpath.dirname(path))
        if config.read(path):
            entries = _without_doubles([config.entry(label) for label in config.named()], config)
            following, reason = config.next()
            return Found(Source.EXTLINUX, tuple(entries), following, reason, tuple(config.problems[:MOST_PROBLEMS]))
    return None


def _without_doubles(entries: list[BootEntry], config: _Config) -> list[BootEntry]:
    """The first of a name is the one that can be named."""
    first: dict[str, BootEntry] = {}
    for entry in entries:
        if first.setdefault(entry.id, entry) is not entry:
            config.complain(f"the label {entry.id} is there twice")
    return list(first.values())


@dataclass(slots=True)
class _Label:
    name: str
    title: str = ""
    linux: str = ""  # what LINUX or KERNEL says
    surely: bool = False  # it was LINUX
    initrds: list[str] = field(default_factory=list)
    append: str | None = None
    devicetree: str = ""
    trees: bool = False  # the loader chooses a device tree by itself
    overlays: bool = False
    other: str = ""  # the keyword by which it starts something else


@dataclass(slots=True)
class _Config:
    root: str
    directory: str
    labels: list[_Label] = field(default_factory=list)
    append: str = ""  # for labels without one of their own
    default: str = ""
    on_timeout: str = ""
    timeout: bool = False
    asks: bool = False  # it shows a menu or a prompt
    menu_default: str = ""
    files: int = 0  # how many were read
    open: list[str] = field(default_factory=list)  # the one that is read, and those that include it
    help: bool = False  # inside TEXT HELP
    problems: list[str] = field(default_factory=list)

    def complain(self, why: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(why)

    def read(self, path: str) -> bool:
        """Take a file in; false if there is none."""
        try:
            text = read_text(path, root=self.root)
        except (OSError, ValueError) as error:
            self.complain(f"{path} cannot be read: {(getattr(error, 'strerror', None) or str(error)).lower()}")
            return True
        if text is None:
            return False
        self.files += 1
        self.open.append(path)
        for number, line in enumerate(text.split("\n"), 1):
            words = line.split(None, 1)
            if not words or words[0].startswith("#"):
                continue
            try:
                self._line(words[0].lower(), words[1].strip() if len(words) > 1 else "")
            except ValueError as error:
                self.complain(f"{path}:{number}: {error}")
        self.open.pop()
        return True

    def _line(self, key: str, value: str) -> None:
        """Raises ValueError with what is wrong with it."""
        if key == "text" and value.lower() == "help":
            self.help = True
        elif key == "endtext":
            self.help = False
        elif self.help or key in SKIPPED:
            return
        elif key == "label":
            self.labels.append(_Label(value))
            if not value:
                raise ValueError("a label has no name")
        elif key == "menu":
            self._menu(value)
        elif key == "include":
            self._include(value)
        elif key == "default":
            self.default = value
        elif key == "ontimeout":
            self.on_timeout = value
        elif key == "timeout":
            self.timeout = value.strip("0") != ""
        elif key == "prompt":
            self.asks = self.asks or value.strip("0") != ""
        elif key == "ui":
            self.asks = True
        elif key == "append" and not self.labels:
            self.append = "" if value == "-" else value
        elif not self.labels or not self._in_label(self.labels[-1], key, value):
            raise ValueError(f"the keyword {printable(key[:40])} is not known here")

    def _menu(self, value: str) -> None:
        key, value = (*value.split(None, 1), "", "")[:2]
        key = key.lower()
        if key == "include":
            self._include(value)
        elif self.labels and key == "label":
            self.labels[-1].title = value.replace("^", "", 1)  # the mark of its hot key
        elif self.labels and key == "default":
            self.menu_default = self.menu_default or self.labels[-1].name

    def _include(self, value: str) -> None:
        name = value.split(maxsplit=1)[0] if value else ""
        if not name:
            raise ValueError("it includes nothing")
        path = self._place(name)
        if path in self.open:
            raise ValueError(f"{path} is not included into itself")
        if len(self.open) >= MOST_NESTED or self.files >= MOST_FILES:
            raise ValueError(f"{path} is not included, there are too many files in files")
        if not self.read(path):
            raise ValueError(f"there is no {path} to include")

    def _in_label(self, label: _Label, key: str, value: str) -> bool:
        if key in ("linux", "kernel"):
            label.linux, _, options = value.partition(" ")
            label.surely, label.other = key == "linux", ""
            label.append = options.strip() or label.append
        elif key == "initrd":
            label.initrds = value.split(",")
        elif key == "append":
            label.append = "" if value == "-" else value
        elif key in ("fdt", "devicetree"):
            label.devicetree = value
        elif key in TREES:
            label.trees = True
        elif key in ("fdtoverlays", "devicetree-overlay"):
            label.overlays = True
        elif key in ELSEWHERE:
            label.other = key
        else:
            return False
        return True

    def named(self) -> list[_Label]:
        return [label for label in self.labels if label.name]

    def entry(self, label: _Label) -> BootEntry:
        append = self.append if label.append is None else label.append
        line = cmdline.parse(append)
        initrds = label.initrds or (line.value("initrd") or "").split(",")
        kernel = self._place(label.linux) if label.linux else ""
        places = tuple(self._place(path.strip()) for path in initrds if path.strip())
        problems = []
        if label.other or not kernel:
            problems.append(f"it starts something else than Linux, by {(label.other or 'nothing').upper()}")
        elif not label.surely and kernel.lower().endswith(NO_KERNELS):
            problems.append(f"it starts {kernel}, which is a program of the boot loader")
        elif why := problem(kernel, self.root):
            problems.append(why)
        devicetree = self._place(label.devicetree) if label.devicetree else ""
        files = (*places, devicetree) if devicetree else places
        problems += [why for path in files if (why := problem(path, self.root))]
        remarks = ["the boot loader would choose a device tree, kexec keeps the running one"] * label.trees
        remarks += ["the boot loader would apply device tree overlays, kexec does not"] * label.overlays
        name = parse_name(posixpath.basename(kernel))
        version = name.release if name else ""
        return BootEntry(
            id=label.name,
            title=printable(label.title or label.name),
            version=version or ("" if problems else version_inside(kernel, self.root)),
            source=Source.EXTLINUX,
            kernel=kernel,
            initrds=places,
            # What was loaded is no parameter for the kernel that is loaded otherwise.
            cmdline=cmdline.canonical(append, drop=frozenset({"initrd"})),
            devicetree=devicetree,
            problems=tuple(problems),
            remarks=tuple(remarks),
        )

    def next(self) -> tuple[str, str]:
        """The label that boots when nobody touches a key, and why."""
        names = {label.name for label in self.named()}
        wishes = [("DEFAULT", self.default), ("MENU DEFAULT", self.menu_default)]
        if self.timeout and (self.asks or self.default.lower().endswith(NO_KERNELS)):
            wishes.insert(0, ("ONTIMEOUT", self.on_timeout))
        for key, wanted in wishes:
            name = wanted if wanted in names else wanted.partition(" ")[0]
            if name in names:
                return name, f"{key} names {printable(name)}"
            shown = printable(wanted)
            if wanted and not wanted.lower().split()[0].endswith(NO_KERNELS):
                return "", f"{key} names {shown}, which is no label"
        if not names:
            return "", "there is no label"
        return self.named()[0].name, "it is the first label, and none is the default"

    def _place(self, path: str) -> str:
        """A path as seen from inside the root; an absolute one begins at the root of the configuration's filesystem."""
        if not path.startswith("/"):
            return "/" + posixpath.normpath(f"{self.directory}/{path}").lstrip("/")
        path = "/" + posixpath.normpath(path).lstrip("/")
        if not self.directory.startswith("/boot") or path.startswith("/boot/"):
            return path
        below = f"/boot{path}"
        if self._boot_is_a_partition() or (problem(path, self.root) and not problem(below, self.root)):
            return below
        return path

    def _boot_is_a_partition(self) -> bool:
        try:
            devices = {os.stat(join_root(self.root, path)).st_dev for path in ("/", "/boot")}
        except OSError:
            return False
        return len(devices) > 1
