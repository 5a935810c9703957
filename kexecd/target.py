# SPDX-License-Identifier: MIT
"""A boot entry made final: its files opened once and checked through those descriptors, its command line canonical.

What is checked here is what will be loaded; a name is looked up once and never again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from kexecd.config.settings import Settings
from kexecd.errors import BadImage
from kexecd.kernel import cmdline
from kexecd.kernel.files import open_regular
from kexecd.kernel.image import KernelImage, initrd_kind, kernel_image
from kexecd.model import BootEntry, BootTarget, OpenFile

ROOT_PARAMETERS = ("root", "rootflags", "rootfstype")
"""What belongs to a root filesystem: taken over together where a configured command line names none."""


def make_target(
    entry: BootEntry,
    settings: Settings,
    *,
    running_cmdline: str,
    nonce: str,
    root: str = "/",
    append: str = "",
    machine: str = "",
) -> BootTarget:
    """Open, check and complete `entry`; the caller owns the descriptors (see `close`, `opened`).

    machine: as `uname -m` says it; an image known to be of another one is refused, any is taken where it is empty.
    Raises BadImage for its files and BadConfig for its command line, and then nothing stays open.
    """
    files: list[OpenFile] = []
    try:
        kernel = _open(entry.kernel, "kernel", root, files)
        image = kernel_image(kernel.fd, kernel.path)
        _check_machine(image, kernel.path, machine)
        for path in entry.initrds:
            initrd = _open(path, "initrd", root, files)
            initrd_kind(initrd.fd, initrd.path)
        line = cmdline.canonical(_source(entry, settings, running_cmdline), nonce=nonce, append=append)
        cmdline.check_length(line, image.arch or machine, image.cmdline_size)
    except BaseException:
        _close(files)
        raise
    # The image knows its version; a file name only claims one.
    entry = replace(entry, version=image.version or entry.version)
    return BootTarget(entry, kernel, tuple(files[1:]), line, nonce)


def close(target: BootTarget) -> None:
    _close([target.kernel, *target.initrds])


@contextmanager
def opened(target: BootTarget) -> Iterator[BootTarget]:
    """The target, for a `with`: its files are closed at the end."""
    try:
        yield target
    finally:
        close(target)


def _open(path: str, what: str, root: str, files: list[OpenFile]) -> OpenFile:
    file = open_regular(path, what, root=root)
    files.append(file)
    return file


def _close(files: list[OpenFile]) -> None:
    for file in files:
        os.close(file.fd)


def _check_machine(image: KernelImage, path: str, machine: str) -> None:
    x86 = machine == "x86_64" or (machine.startswith("i") and machine.endswith("86"))
    same = machine.startswith(image.arch) or (x86 and image.arch == "i386")  # armv7l runs arm, ppc64le ppc64
    if machine and not same:
        raise BadImage(f"cannot boot {path}", f"it is a kernel for {image.arch}, this machine is {machine}")


def _source(entry: BootEntry, settings: Settings, running: str) -> str:
    """The command line to start from: the entry's own, else the configured one, else the running one.

    A root= that is there is never overridden, and an entry that comes with a command line knows whether it needs one.
    """
    if entry.cmdline is not None:
        return entry.cmdline
    wanted = cmdline.parse(running if settings.cmdline is None else settings.cmdline)
    if wanted.has("root"):
        return str(wanted)
    if settings.root is not None:
        return _with(wanted, (f"root={settings.root}",))
    if settings.cmdline is None:
        return str(wanted)
    old = cmdline.parse(running)
    return _with(wanted, [p.raw for key in ROOT_PARAMETERS if not wanted.has(key) for p in old.all(key)])


def _with(line: cmdline.CommandLine, parameters: tuple[str, ...] | list[str]) -> str:
    """The command line with more of the kernel's parameters, in front of a `--`."""
    return cmdline.canonical(str(line), append=" ".join(parameters))
