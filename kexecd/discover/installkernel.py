# SPDX-License-Identifier: MIT
"""The kernel that was installed last, as Gentoo's sys-kernel/installkernel writes it down.

/var/lib/misc/installkernel: one line for each installation, the last one counts; fields apart by tabs (its plugins
99-write-log.install, for systemd's kernel-install and for the traditional installkernel, and their reader
kexec-auto-load of sys-apps/kexec-tools):

    date  tool  version  configuration  layout  initrd-generator  uki-generator  boot  kernel  initrd  plugins

`boot` is the directory that `kernel` and `initrd` are in, unless they begin with a slash; `unknown` stands for a file
that was not there, `notset` for any other value. Layouts: compat, grub, efistub and bls have a kernel and an initrd,
uki has both in one file; of any other one nothing but the version is written down.
"""

from __future__ import annotations

from dataclasses import dataclass

from kexecd.discover.lookup import problem
from kexecd.discover.pairs import (
    expects_initrd,
    has_modules,
    initrd_beside,
    initrd_version,
    no_initrd,
    with_microcode,
)
from kexecd.kernel.files import read_text
from kexecd.model import BootEntry, Found, Source

PATH = "/var/lib/misc/installkernel"
CMDLINES = ("/etc/kernel/cmdline", "/usr/lib/kernel/cmdline")
UKI = "uki"
UNKNOWN = "unknown"
NOT_SET = "notset"
FIELDS = 10  # the least that a line has; the plugins came later


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the file; what it does not say is empty, paths begin with a slash."""

    date: str
    version: str
    layout: str
    boot_dir: str
    kernel: str
    initrd: str


def parse(line: str) -> Record | None:
    """What a line says, or None if it is none of this format."""
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) < FIELDS or not all(field.isprintable() for field in fields):
        return None
    date, _, version, _, layout, _, _, boot, kernel, initrd = fields[:FIELDS]
    boot_dir = "/" + boot.strip("/") if boot not in ("", NOT_SET, UNKNOWN) else "/boot"
    if version in ("", NOT_SET) or "/" in version:
        return None
    return Record(date, version, layout, boot_dir, _path(kernel, boot_dir), _path(initrd, boot_dir))


def find(root: str = "/", boot_dir: str = "/boot") -> Found:
    """The kernel that was installed last, as the only entry and the next one; its id is its path."""
    try:
        text = read_text(PATH, root=root)
    except OSError as error:
        return Found(Source.INSTALLKERNEL, problems=(f"{PATH}: {(error.strerror or str(error)).lower()}",))
    lines = (text or "").split("\n")
    number = next((n for n in range(len(lines), 0, -1) if lines[n - 1].strip()), 0)
    if not number:
        return Found(Source.INSTALLKERNEL, reason=f"{PATH} has no line" if text is not None else f"there is no {PATH}")
    record = parse(lines[number - 1])
    if record is None:
        why = f"{PATH}:{number}: this is no line of {FIELDS} fields apart by tabs, with a version"
        return Found(Source.INSTALLKERNEL, reason="its last line is not understood", problems=(why,))
    if not record.kernel:
        layout = f"layout {record.layout}" if record.layout not in ("", NOT_SET) else "no layout"
        why = f"{PATH}:{number}: it does not say where the kernel {record.version} is ({layout})"
        return Found(Source.INSTALLKERNEL, reason="its last line names no kernel", problems=(why,))
    entry = _entry(record, root, boot_dir)
    reason = f"{PATH}:{number}: it was installed last, {record.date}" if record.date else f"{PATH}:{number}"
    return Found(Source.INSTALLKERNEL, (entry,), entry.id, reason)


def _entry(record: Record, root: str, boot_dir: str) -> BootEntry:
    problems, remarks = [problem(record.kernel, root)], []
    initrd = record.initrd if record.layout != UKI else ""
    named = initrd_version(initrd, root) if initrd else ""
    if named and named != record.version:
        problems.append(f"{PATH} names {initrd} for the kernel {record.version}")
        initrd = ""
    elif initrd:
        problems.append(problem(initrd, root))
    elif record.layout != UKI:
        initrd = initrd_beside(record.kernel, record.version, root, boot_dir)
        if initrd:
            remarks.append(f"its initrd was not written down; {initrd} is that of its version")
        elif has_modules(record.version, root) and expects_initrd(root, boot_dir):
            problems.append(no_initrd(record.version))
    if record.layout == UKI:
        remarks.append("it is a unified kernel image, with its initrd and its command line inside")
    elif cmdline := next((path for path in CMDLINES if not problem(path, root)), ""):
        remarks.append(f"kexec-auto-load would take the command line from {cmdline}; here the running one is reused")
    return BootEntry(
        id=record.kernel,
        title=f"Linux {record.version}",
        version=record.version,
        source=Source.INSTALLKERNEL,
        kernel=record.kernel,
        initrds=with_microcode(initrd, root),
        problems=tuple(text for text in problems if text),
        remarks=tuple(remarks),
    )


def _path(name: str, boot_dir: str) -> str:
    if name in ("", UNKNOWN, NOT_SET):
        return ""
    return name if name.startswith("/") else f"{boot_dir.rstrip('/')}/{name}"
