# SPDX-License-Identifier: MIT
"""A boot entry made final: its files opened once and checked through those descriptors, its command line canonical.

What is checked here is what will be loaded; a name is looked up once and never again. A kernel that is wrapped, such as
a unified kernel image, is taken out of its wrapping first, and what comes out is checked and loaded.

The command line is that of the first of these which has one:

1. the person at the command line (`--cmdline`);
2. the entry itself: its boot loader's, or what a unified kernel image brings;
3. the classic settings (KPARAM, APPEND);
4. /etc/kernel/cmdline, /usr/lib/kernel/cmdline, as kernel-install(8) has it;
5. the running kernel's, and with another system's files (`--from`) none.

A root= that is there is never overridden. Where 3, 4 or 5 has none, ROOTPART gives it, else the running command line;
another system's root= comes from its own command line, ROOTPART or /etc/fstab, and never from this one. Then come the
person's --remove, --set and --append, and in the end the nonce with the words that have the new kernel restart by
itself where it cannot come up; these are for one boot, and whoever goes by its line leaves them out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from kexecd.config.kernel_install import read_cmdline
from kexecd.config.settings import Settings
from kexecd.discover import fstab
from kexecd.errors import BadConfig, BadImage
from kexecd.kernel import cmdline
from kexecd.kernel.cmdline import NO_EDITS, Edits
from kexecd.kernel.files import join_root, open_regular
from kexecd.kernel.image import KernelImage, kernel_image
from kexecd.kernel.initrd import InitrdContent, foreign_modules, in_order, inspect
from kexecd.model import BootEntry, BootTarget, OpenFile

ROOT_PARAMETERS = ("root", "rootflags", "rootfstype")
"""What belongs to a root filesystem: taken over together where a configured command line names none."""

DEVICES = ("/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=")
"""How fstab(5) names a device so that root= may say the same."""

NO_ROOM = "its command line has no room for the words that have it restart by itself where it cannot come up"

INITRD_ONLY = ("UUID=", "LABEL=", "ZFS=", "/dev/disk/", "/dev/mapper/")
"""root= that the kernel alone does not find (Documentation/admin-guide/kernel-parameters.rst)."""


def make_target(
    entry: BootEntry,
    settings: Settings,
    *,
    running_cmdline: str | None,
    nonce: str,
    root: str = "/",
    edits: Edits = NO_EDITS,
    machine: str = "",
    deep: bool = False,
    panic: int = 0,
) -> BootTarget:
    """Open, check and complete `entry`; the caller owns the descriptors (see `close`, `opened`).

    running_cmdline: None where `root` is another system, of which nothing runs; its files are called by their paths
    here then. machine: as `uname -m` says it; an image known to be of another one is refused, any is taken where it is
    empty. deep: also look into compressed initrds. panic: see command_line(); a line that is too long with these words
    goes without.
    Raises BadImage for its files, Unsupported for a wrapping that takes a program which is not there, and BadConfig for
    its command line; then nothing stays open.
    """
    files: list[OpenFile] = []
    try:
        base = _Base(root, named_from_here=running_cmdline is None)
        kernel = _open_kernel(base.open(entry.kernel, "kernel"), machine, files)
        version = kernel.image.version or entry.version  # the image knows its version; a file name only claims one
        brought = [(file, inspect(file.fd, file.path, version=version, deep=deep)) for file in kernel.initrds]
        named = []
        for path in entry.initrds:
            files.append(base.open(path, "initrd"))
            named.append((files[-1], inspect(files[-1].fd, files[-1].path, version=version, deep=deep)))
        initrds = [*(pair for pair in brought if pair[1].early or not named), *named]
        _check_initrds(kernel.file.path, initrds, version)
        if entry.cmdline is None and kernel.cmdline is not None:
            entry = replace(entry, cmdline=kernel.cmdline)
        arch, most = kernel.image.arch or machine, kernel.image.cmdline_size
        whole = _line(entry, settings, running_cmdline, root, edits)
        line = whole.finished(nonce, panic)
        no_room = panic > 0 and not cmdline.fits(line, arch, most)
        line = whole.finished(nonce) if no_room else line
        cmdline.check_length(line, arch, most)
    except BaseException:
        _close(files)
        raise
    used = in_order(initrds)
    _close([file for file in files if file not in (kernel.file, *used)])
    remarks = (*entry.remarks, *_devicetree(entry), *_remarks([content for _, content in initrds], line))
    remarks += (NO_ROOM,) if no_room else ()
    entry = replace(entry, version=version, remarks=tuple(dict.fromkeys(remarks)))
    return BootTarget(entry, kernel.file, used, line, nonce)


def command_line(
    entry: BootEntry,
    settings: Settings,
    *,
    running_cmdline: str | None,
    nonce: str = "",
    root: str = "/",
    edits: Edits = NO_EDITS,
    panic: int = 0,
) -> str:
    """The canonical command line for `entry`, of any length; see above. Raises BadConfig.

    panic: with the words that have the new kernel restart by itself where it cannot come up, so many seconds after a
    panic; 0: without (kexecd.kernel.cmdline.way_back).
    """
    return _line(entry, settings, running_cmdline, root, edits).finished(nonce, panic)


def close(target: BootTarget) -> None:
    _close([target.kernel, *target.initrds])


@contextmanager
def opened(target: BootTarget) -> Iterator[BootTarget]:
    """The target, for a `with`: its files are closed at the end."""
    try:
        yield target
    finally:
        close(target)


@dataclass(frozen=True, slots=True)
class _Base:
    """Where the paths of an entry begin, and whether messages call its files by their paths from here."""

    root: str
    named_from_here: bool

    def open(self, path: str, what: str) -> OpenFile:
        if self.named_from_here:
            return open_regular(join_root(self.root, path), what)
        return open_regular(path, what, root=self.root)


@dataclass(frozen=True, slots=True)
class _Kernel:
    file: OpenFile
    image: KernelImage
    initrds: tuple[OpenFile, ...] = ()
    cmdline: str | None = None


def _open_kernel(file: OpenFile, machine: str, files: list[OpenFile]) -> _Kernel:
    """The kernel proper in `file`, and what it brings along; every file that is open is in `files`."""
    files.append(file)
    image = kernel_image(file.fd, file.path)
    _check_machine(image, file.path, machine)
    if not image.kind.is_wrapped:
        return _Kernel(file, image)
    from kexecd.kernel.unwrap import unwrapped  # late: most kernels are not wrapped

    inner = unwrapped(file, image)
    files += [inner.kernel, *inner.initrds]
    _check_machine(inner.image, inner.kernel.path, machine)
    return _Kernel(inner.kernel, inner.image, inner.initrds, inner.cmdline)


@dataclass(frozen=True, slots=True)
class _Line:
    """What lasts of a command line, and what somebody has added for this one boot."""

    lasting: str
    once: tuple[str, ...]

    def finished(self, nonce: str, panic: int = 0) -> str:
        once = dict.fromkeys((*cmdline.way_back(self.lasting, panic), *self.once))
        return cmdline.canonical(self.lasting, nonce=nonce, once=tuple(once))


def _line(entry: BootEntry, settings: Settings, running: str | None, root: str, edits: Edits) -> _Line:
    source = _completed(entry, settings, running, root, edits)
    appended, once = cmdline.for_once(edits.append)
    return _Line(cmdline.canonical(cmdline.edited(source, replace(edits, append=appended))), once)


def _check_initrds(kernel: str, initrds: Sequence[tuple[OpenFile, InitrdContent]], version: str) -> None:
    for file, content in initrds:
        if content.problem:
            hint = "make this initrd again, and look whether its filesystem is full"
            raise BadImage(f"cannot use {file.path} as initrd", content.problem, hint=hint)
    if why := foreign_modules([content for _, content in initrds], version):
        names = " and ".join(file.path for file, content in initrds if content.module_versions)
        raise BadImage(f"cannot boot {kernel} with {names}", why, hint=f"make or name the initrd of {version}")


def _close(files: Sequence[OpenFile]) -> None:
    for file in files:
        os.close(file.fd)


def _check_machine(image: KernelImage, path: str, machine: str) -> None:
    x86 = machine == "x86_64" or (machine.startswith("i") and machine.endswith("86"))
    same = machine.startswith(image.arch) or (x86 and image.arch == "i386")  # armv7l runs arm, ppc64le ppc64
    if machine and not same:
        raise BadImage(f"cannot boot {path}", f"it is a kernel for {image.arch}, this machine is {machine}")


def _completed(entry: BootEntry, settings: Settings, running: str | None, root: str, edits: Edits) -> str:
    """The command line to edit, with a root= where one is due."""
    if running is not None:
        return _source(entry, settings, running, root)
    line = _source(entry, settings, "", root)
    if edits.line is not None or cmdline.parse(cmdline.edited(line, edits)).has("root"):
        return line
    row = fstab.mounted_at(fstab.read(root), "/")
    device = f"UUID={row.uuid}" if row and row.uuid else row.source.replace('"', "") if row else ""
    if not row or not device.startswith(DEVICES):
        raise BadConfig(
            f"cannot boot from {root}",
            f"its root= cannot be told: its command line has none, and its {fstab.FSTAB} names no device for /",
            hint="say it with --set root=...",
        )
    flags = f"rootflags=subvol={row.subvolume}" if row.subvolume and not cmdline.parse(line).has("rootflags") else ""
    return _with(cmdline.parse(line), (f"root={device}", flags))


def _source(entry: BootEntry, settings: Settings, running: str, root: str) -> str:
    """The first that there is. An entry that comes with a command line knows whether it needs a root=."""
    if entry.cmdline is not None:
        return entry.cmdline
    configured = settings.cmdline
    if configured is None and (written := read_cmdline(root)):
        configured = written.cmdline
    wanted = cmdline.parse(running if configured is None else configured)
    if wanted.has("root"):
        return str(wanted)
    if settings.root is not None:
        return _with(wanted, (f"root={settings.root}",))
    if configured is None:
        return str(wanted)
    old = cmdline.parse(running)
    return _with(wanted, [p.raw for key in ROOT_PARAMETERS if not wanted.has(key) for p in old.all(key)])


def _with(line: cmdline.CommandLine, parameters: Sequence[str]) -> str:
    """The command line with more of the kernel's parameters, in front of a `--`."""
    return cmdline.canonical(str(line), append=" ".join(parameters))


def _remarks(contents: Sequence[InitrdContent], line: str) -> Iterator[str]:
    for content in contents:
        yield from content.remarks
    if contents and all(content.early for content in contents):
        yield "its initrd holds nothing but what the kernel reads early, such as microcode"
    elif contents and all(content.complete and not content.modules for content in contents):
        yield "its initrd holds no modules, so what it takes to mount the root has to be built in"
    device = cmdline.parse(line).value("root") or ""
    if not contents and device.startswith(INITRD_ONLY):
        yield f"it has no initrd, and without one a kernel does not find root={device}"


def _devicetree(entry: BootEntry) -> Iterator[str]:
    # kexec_file_load(2) takes none; on arm64 and the like the kernel hands on the one that it runs with.
    if entry.devicetree:
        yield f"the boot loader would pass on {entry.devicetree}, kexec keeps the device tree that is in use"
