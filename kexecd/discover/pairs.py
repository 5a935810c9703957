# SPDX-License-Identifier: MIT
"""Kernels in /boot that carry their version in their name, each with the initrd of exactly that version.

The names are those of `make install`, Debian's and Red Hat's kernel packages, dracut, mkinitcpio, genkernel
(kernel-genkernel-ARCH-VERSION) and Gentoo's installkernel. Only names are looked at, and what kind of file they lead
to: whether an image is whole is found when it is opened to be booted (kexecd.target).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kexecd.discover.lookup import problem, version_inside
from kexecd.discover.version import kernel_key
from kexecd.errors import NoEntry
from kexecd.kernel.files import join_root, resolve
from kexecd.model import BootEntry, Found, Source

PREFIXES = ("vmlinuz-", "kernel-", "bzImage-", "Image-", "vmlinux-")
"""Of kernels of one version the first is preferred; vmlinux is often the one with debugging symbols."""

UNVERSIONED = "vmlinuz-"  # Arch and Alpine: vmlinuz-linux-lts, whose version is inside
GENKERNEL = "genkernel-"

INITRDS = ("initrd.img-{}", "initramfs-{}.img", "initrd-{}.img", "initramfs-{}", "initrd-{}")
GENKERNEL_ARCHES = ("x86_64", "amd64", "x86", "i686", "arm64", "aarch64", "riscv64", "ppc64le", "ppc64")
GENKERNEL_INITRDS = ("initramfs-genkernel-{}-{}", "initramfs-genkernel-{}-{}.img")
MICROCODE = ("intel-ucode.img", "intel-uc.img", "amd-ucode.img", "amd-uc.img")
"""Arch's and Alpine's names, and Gentoo's. Each is for one maker's processors, and the others pass over it."""

SIGNED = (".efi.signed", ".signed", ".efi")  # the same kernel, for an EFI firmware; not part of its version
BACKUPS = (".old", ".bak", ".backup", ".orig", ".save", "~")
NOT_KERNELS = (  # signatures, checksums, debugging symbols, and what a package manager has not put in place yet
    *(".sig", ".asc", ".hmac", ".sha256", ".sha512", ".config", ".map", ".gz", ".xz", ".zst", ".bz2"),
    *(".tmp", ".part", ".new", ".dpkg-tmp", ".dpkg-new", ".dpkg-old", ".dpkg-bak", ".dpkg-dist"),
    *(".rpmnew", ".rpmsave", ".rpmorig"),
)
MODULES = ("/usr/lib/modules", "/lib/modules")
MODULES_INITRDS = ("initramfs.img", "initrd", "initrd.img")
"""What dracut calls them where it has a directory for each version, and image-based systems."""

RESCUE = "it is a rescue kernel"
BACKUP = "it is a backup copy"


@dataclass(frozen=True, slots=True)
class Name:
    """What the name of a kernel file says."""

    version: str  # the part that its initrd's name shares
    rank: int  # the place of its prefix in PREFIXES
    arch: str = ""  # of genkernel's names
    signed: bool = False
    backup: bool = False

    @property
    def release(self) -> str:
        """As `uname -r` would say it: the version without a mark of a copy; empty when it is no version."""
        version = next((self.version[: -len(end)] for end in BACKUPS if self.version.endswith(end)), self.version)
        return version if version[:1].isdigit() and not self.rescue else ""

    @property
    def rescue(self) -> bool:
        return "rescue" in self.version


def parse_name(name: str) -> Name | None:
    """What a file name says about a kernel, or None if it is not one of a kernel with a version."""
    rank, prefix = next(((n, prefix) for n, prefix in enumerate(PREFIXES) if name.startswith(prefix)), (0, ""))
    if not prefix or not name.isascii() or not name.isprintable() or " " in name or name.endswith(NOT_KERNELS):
        return None
    version, arch = name[len(prefix) :], ""
    if version.startswith(GENKERNEL):
        arch, _, version = version[len(GENKERNEL) :].partition("-")
    signed = next((end for end in SIGNED if version.endswith(end)), "")
    version = version.removesuffix(signed)
    if not version or not (version[0].isdigit() or prefix == UNVERSIONED):
        return None
    return Name(version, rank, arch, bool(signed), version.endswith(BACKUPS))


def initrd_names(name: Name) -> tuple[str, ...]:
    """The names that an initrd of exactly this kernel may have, the likeliest first."""
    names = tuple(pattern.format(name.version) for pattern in INITRDS)
    if name.backup:  # initramfs-6.1.img.old beside vmlinuz-6.1.old
        release, mark = name.release, name.version[len(name.release) :]
        names += tuple(pattern.format(release) + mark for pattern in INITRDS if release)
    if name.arch:
        return tuple(pattern.format(name.arch, name.version) for pattern in GENKERNEL_INITRDS) + names
    genkernel = (pattern.format(arch, name.version) for arch in GENKERNEL_ARCHES for pattern in GENKERNEL_INITRDS)
    return (*names, *genkernel)


def initrd_version(path: str, root: str = "/") -> str:
    """The version in the name of an initrd, with links followed; empty if its name has none."""
    name = resolve(path, root).rpartition("/")[2]
    versions = []
    if name.startswith("initramfs-" + GENKERNEL):
        versions.append(name.removeprefix("initramfs-" + GENKERNEL).partition("-")[2].removesuffix(".img"))
    for pattern in INITRDS:
        prefix, suffix = pattern.split("{}")
        if name.startswith(prefix) and name.endswith(suffix):
            versions.append(name.removeprefix(prefix).removesuffix(suffix))
    return next((version for version in versions if version[:1].isdigit() and "rescue" not in version), "")


def with_microcode(initrd: str, root: str = "/") -> tuple[str, ...]:
    """The initrd, and in front of it the microcode that lies beside it, as boot loaders are set up to load them."""
    directory = initrd.rpartition("/")[0]
    early = (f"{directory}/{name}" for name in MICROCODE)
    return (*(path for path in early if not problem(path, root)), initrd) if initrd else ()


def find(root: str = "/", boot_dir: str = "/boot") -> Found:
    """The kernels of `entries`, as a source. No name says which one is next."""
    try:
        return Found(Source.VERSIONED, entries(root, boot_dir), reason="names with versions do not say which is next")
    except NoEntry as refusal:
        return Found(Source.VERSIONED, problems=(f"{refusal.what}: {refusal.why}",))


def expects_initrd(root: str = "/", boot_dir: str = "/boot") -> bool:
    """Whether kernels of this machine have initrds, so that one without its own lacks something."""
    try:
        return any(map(_is_of_a_kernel, os.listdir(join_root(root, boot_dir))))
    except OSError:
        return False


def _is_of_a_kernel(name: str) -> bool:
    """Whether a name is that of an initrd, be its kernel there or not; one for dumps serves no kernel that boots."""
    return name.startswith(("initrd", "initramfs")) and "kdump" not in name


def entries(root: str = "/", boot_dir: str = "/boot") -> tuple[BootEntry, ...]:
    """The kernels in `boot_dir` below `root`, the newest first. An entry's id is the name of its file.

    Raises NoEntry when the directory cannot be read; one that does not exist holds nothing.
    """
    boot_dir = "/" + boot_dir.strip("/")
    try:
        names = frozenset(os.listdir(join_root(root, boot_dir)))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise NoEntry(f"cannot look for kernels in {boot_dir}", why, errno=error.errno or 0) from error
    parsed = {name: kernel for name in names if (kernel := parse_name(name))}
    kernels = {name: kernel for name, kernel in parsed.items() if not _is_pointer(name, kernel, boot_dir, root)}
    initrds = {name: _initrd(kernel, names) for name, kernel in kernels.items()}
    expects = any(map(_is_of_a_kernel, names))
    found = [
        _entry(name, kernels[name], initrds[name], boot_dir, root, expects_initrd=expects)
        for name in sorted(kernels, key=lambda name: (kernels[name].signed, kernels[name].rank, name))
    ]
    # Sorting is stable: within one version the order above stays.
    found.sort(key=lambda entry: kernel_key(entry.version), reverse=True)
    found.sort(key=lambda entry: kernels[entry.id].backup or kernels[entry.id].rescue)
    return tuple(found)


def _is_pointer(name: str, parsed: Name, boot_dir: str, root: str) -> bool:
    """A name without a version that only points at another kernel here."""
    return not parsed.release and resolve(f"{boot_dir}/{name}", root) != f"{resolve(boot_dir, root).rstrip('/')}/{name}"


def _initrd(name: Name, names: frozenset[str]) -> str:
    return next((initrd for initrd in initrd_names(name) if initrd in names), "")


def _entry(name: str, parsed: Name, initrd: str, boot_dir: str, root: str, *, expects_initrd: bool) -> BootEntry:
    place = boot_dir.rstrip("/")
    kernel = f"{place}/{name}"
    version = parsed.release or version_inside(kernel, root)
    initrd = f"{place}/{initrd}" if initrd else initrd_in_modules(version, root)
    problems = [problem(kernel, root)]
    if initrd:
        problems.append(problem(initrd, root))
    elif expects_initrd and version and has_modules(version, root):
        # Where no kernel has one, they have what they need built in: that is how many a Gentoo machine is set up.
        problems.append(no_initrd(version))
    if parsed.rescue:
        problems.append(RESCUE)
    if parsed.backup:
        problems.append(BACKUP)
    return BootEntry(
        id=name,
        title=f"Linux {version or parsed.version}",
        version=version,
        source=Source.VERSIONED,
        kernel=kernel,
        initrds=with_microcode(initrd, root),
        problems=tuple(text for text in problems if text),
    )


def no_initrd(version: str) -> str:
    return f"there is no initrd for {version}, though there are others"


def has_modules(version: str, root: str = "/") -> bool:
    """Whether modules of this version are installed; of no version there are none."""
    return bool(version) and any(os.path.isdir(join_root(root, f"{directory}/{version}")) for directory in MODULES)


def initrd_beside(kernel: str, version: str, root: str = "/", boot_dir: str = "/boot") -> str:
    """The initrd of exactly `version`: in the directory of `kernel`, else in `boot_dir`, else beside its modules."""
    directory, _, name = kernel.rpartition("/")
    candidates = initrd_names(parsed) if (parsed := parse_name(name)) else ()
    if version:
        candidates += initrd_names(Name(version, 0))
    for place in (directory, boot_dir.rstrip("/")):
        for candidate in candidates:
            if os.path.lexists(f"{join_root(root, place)}/{candidate}"):
                return f"{place}/{candidate}"
    return initrd_in_modules(version, root)


def initrd_in_modules(version: str, root: str = "/") -> str:
    """The initrd of `version` beside its modules; empty if there is none."""
    if not version or "/" in version:
        return ""
    paths = (f"{directory}/{version}/{name}" for directory in MODULES for name in MODULES_INITRDS)
    return next((path for path in paths if os.path.lexists(join_root(root, path))), "")
