# SPDX-License-Identifier: MIT
"""Kernels that lie beside their modules, in /usr/lib/modules/VERSION or /lib/modules/VERSION.

That is where Fedora, openSUSE, Arch, Gentoo's distribution kernels and newer ones of Debian have the packaged kernel;
the copy or link in /boot is made of it, and may be missing or not mounted. Their initrd is that of exactly their
version: beside them (dracut's initrd, the initramfs.img of image-based systems), or in /boot, where Arch's is called
after the `pkgbase` file of the directory and counts only if the kernel of that name there is of this version.
"""

from __future__ import annotations

import os

from kexecd.discover.lookup import problem, version_inside
from kexecd.discover.pairs import (
    MODULES,
    initrd_beside,
    initrd_in_modules,
    initrd_names,
    parse_name,
    with_microcode,
)
from kexecd.discover.version import kernel_key
from kexecd.kernel.files import join_root, read_text, resolve
from kexecd.model import BootEntry, Found, Source

KERNELS = ("vmlinuz", "bzImage", "Image", "image", "vmlinux")  # the last three: arm64, s390x, ppc64le
PKGBASE = "pkgbase"
PKGBASE_LIMIT = 256  # bytes


def find(root: str = "/", boot_dir: str = "/boot") -> Found:
    """The kernels beside their modules, the newest first; an entry's id is the path of its kernel.

    Where /lib leads to /usr/lib each of them counts once.
    """
    place = "/" + boot_dir.strip("/")
    found: dict[str, BootEntry] = {}
    problems = []
    for modules in MODULES:
        try:
            versions = os.listdir(join_root(root, modules))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problems.append(f"{modules} cannot be read: {(error.strerror or str(error)).lower()}")
            continue
        for version in filter(_is_version, versions):
            if kernel := _kernel(f"{modules}/{version}", root):
                found.setdefault(resolve(kernel, root), _entry(kernel, version, root, place))
    entries = sorted(found.values(), key=lambda entry: kernel_key(entry.version), reverse=True)
    return Found(Source.MODULES, tuple(entries), reason="modules do not say which is next", problems=tuple(problems))


def _is_version(name: str) -> bool:
    return name[:1].isdigit() and name.isascii() and name.isprintable() and " " not in name


def _kernel(directory: str, root: str) -> str:
    place = join_root(root, directory)
    return next((f"{directory}/{name}" for name in KERNELS if os.path.lexists(f"{place}/{name}")), "")


def _entry(kernel: str, version: str, root: str, boot_dir: str) -> BootEntry:
    initrd = _initrd(kernel, version, root, boot_dir)
    # Unlike those in /boot, none of them is built for its machine alone: without an initrd they find no root.
    lacking = "" if initrd else f"there is no initrd for {version} in {boot_dir} or beside the kernel"
    problems = (problem(kernel, root), problem(initrd, root) if initrd else lacking)
    return BootEntry(
        id=kernel,
        title=f"Linux {version}",
        version=version,
        source=Source.MODULES,
        kernel=kernel,
        initrds=with_microcode(initrd, root),
        problems=tuple(text for text in problems if text),
    )


def _initrd(kernel: str, version: str, root: str, boot_dir: str) -> str:
    directory = kernel.rpartition("/")[0]
    return (
        initrd_in_modules(version, root)
        or initrd_beside(kernel, version, root, boot_dir)
        or _of_package(directory, version, root, boot_dir)
    )


def _of_package(directory: str, version: str, root: str, boot_dir: str) -> str:
    """Arch: /boot/initramfs-linux.img, if /boot/vmlinuz-linux is the kernel of this version."""
    try:
        package = (read_text(f"{directory}/{PKGBASE}", root=root, limit=PKGBASE_LIMIT) or "").strip()
    except OSError:
        return ""
    place = boot_dir.rstrip("/")
    kernel = parse_name(f"vmlinuz-{package}")
    if kernel is None or "/" in package or version_inside(f"{place}/vmlinuz-{package}", root) != version:
        return ""
    there = join_root(root, place or "/")
    return next((f"{place}/{name}" for name in initrd_names(kernel) if os.path.lexists(f"{there}/{name}")), "")
