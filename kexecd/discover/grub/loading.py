# SPDX-License-Identifier: MIT
"""GRUB's commands that load something to be started: written down, nothing is opened."""

from __future__ import annotations

import re
from collections.abc import Callable

from kexecd.discover.grub.control import Call
from kexecd.discover.grub.filesystems import split_path
from kexecd.discover.grub.interpreter import Interpreter
from kexecd.discover.grub.lexer import NotUnderstood
from kexecd.discover.grub.loaded import File, Loaded

ESCAPED = re.compile(r"\\x[0-9a-fA-F]{2}")
"""Red Hat's GRUB hands \\x20 on as it is, upstream's does not: which of them reads the file cannot be told."""

LINUX = ("linux", "linuxefi", "linux16")
INITRD = ("initrd", "initrdefi", "initrd16")

_MULTIBOOT = "it starts a hypervisor, or another kernel than Linux, through Multiboot"
OTHERS = {
    "chainloader": "it starts another boot loader",
    "ntldr": "it starts another boot loader",
    "freedos": "it starts another operating system",
    "plan9": "it starts another operating system",
    "kfreebsd": "it starts another operating system",
    "kfreebsd_loadenv": "it starts another operating system",
    "knetbsd": "it starts another operating system",
    "kopenbsd": "it starts another operating system",
    "xnu_kernel": "it starts another operating system",
    "xnu_kernel64": "it starts another operating system",
    "appleloader": "it starts another boot loader",
    "multiboot": _MULTIBOOT,
    "multiboot2": _MULTIBOOT,
    "xen_hypervisor": _MULTIBOOT,
    "kernel": "it starts another operating system",
    "fwsetup": "it opens the firmware's settings",
    "halt": "it switches the machine off",
    "reboot": "it restarts the machine",
    "exit": "it leaves GRUB",
    "configfile": "it opens another menu",
    "normal": "it opens another menu",
    "legacy_configfile": "it opens another menu",
    "syslinux_configfile": "it opens another menu",
}
"""Commands after which there is no Linux kernel to start, and what they do, as a sentence."""

BELONGS = frozenset(
    "module module2 xen_module xen_linux xen_initrd drivemap parttool kfreebsd_module kfreebsd_module_elf"
    " kopenbsd_ramdisk knetbsd_module xnu_mkext xnu_kext xnu_splash".split()
)
"""Commands that only mean something beside one of those."""


def _loading(run: Interpreter, call: Call) -> Loaded:
    """What the entry that is run has loaded. A kernel that is loaded outside of an entry is nothing that we follow."""
    if run.loaded is None:
        raise NotUnderstood(f"{call.name} outside of a menu entry")
    return run.loaded


def _file(run: Interpreter, path: str) -> File:
    return File(*split_path(path, run.variables.get("root")))


def _linux(run: Interpreter, call: Call) -> int:
    loaded = _loading(run, call)
    if not call.arguments:
        raise NotUnderstood(f"{call.name} without a file")
    path, *arguments = call.arguments
    if escaped := next((text for text in (*(word.raw for word in call.words), *arguments) if ESCAPED.search(text)), ""):
        run.doubt(f"{escaped}, which not every GRUB hands on alike", call.at)
    loaded.kernel, loaded.arguments, loaded.initrds, loaded.other = _file(run, path), tuple(arguments), (), ""
    return 0


def _initrd(run: Interpreter, call: Call) -> int:
    loaded = _loading(run, call)
    if strange := next((path for path in call.arguments if path.startswith("newc:")), ""):
        raise NotUnderstood(strange)
    loaded.initrds = tuple(_file(run, path) for path in call.arguments)
    return 0


def _devicetree(run: Interpreter, call: Call) -> int:
    loaded = _loading(run, call)
    loaded.devicetree = _file(run, call.arguments[0]) if call.arguments else None
    return 0


def other(run: Interpreter, call: Call) -> int:
    """Something that kexec cannot take. The menu is not followed there either."""
    if call.name == "fwsetup" and call.arguments == ["--is-supported"]:
        return int(not run.machine.firmware_setup)
    what = OTHERS[call.name]
    file = next((argument for argument in call.arguments if not argument.startswith("-")), "")
    loaded = _loading(run, call)
    loaded.kernel, loaded.other = None, f"{what} ({file})" if file else what
    return 0


def _ignored(run: Interpreter, call: Call) -> int:
    _loading(run, call)
    return 0


COMMANDS: dict[str, Callable[[Interpreter, Call], int]] = {
    **dict.fromkeys(OTHERS, other),
    **dict.fromkeys(BELONGS, _ignored),
    **dict.fromkeys(LINUX, _linux),
    **dict.fromkeys(INITRD, _initrd),
    "devicetree": _devicetree,
    "boot": _ignored,
}
