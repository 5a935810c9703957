# SPDX-License-Identifier: MIT
"""The classic settings: what Gentoo's and Debian's kexec services are configured with, read as they read it.

Gentoo (sys-apps/kexec-tools, its init script and its kexec.conf): /etc/conf.d/kexec, or /etc/conf.d/kexec.RUNLEVEL
instead of it (openrc-run(8), FILES), and /etc/kexec.conf; either may be a symbolic link to the other. A value that is
empty is not set. Debian (kexec-tools, /etc/init.d/kexec-load): /etc/default/kexec, then what run-parts(8) lists of
/etc/default/kexec.d.

Each setting comes from the first file that has it, Gentoo's before Debian's, except that kernel and initrd belong
together: a kernel of one dialect is never joined to an initrd of the other.

Otherwise than the scripts: a root= in KPARAM or APPEND is not overridden by ROOTPART, and where ROOTPART is not set no
root device is guessed from /proc/mounts, whose answer is wrong for LVM, ZFS, overlays and NFS: the root= of the running
command line is the one that is known to work. Of /etc/rc.conf, which OpenRC sources too, nothing is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace

from kexecd.config import confd, kexec_options
from kexecd.config.confd import Assignment
from kexecd.config.kexec_options import KexecOptions
from kexecd.errors import BadConfig
from kexecd.kernel.files import join_root

CONF_D = "/etc/conf.d/kexec"
KEXEC_CONF = "/etc/kexec.conf"
DEFAULT = "/etc/default/kexec"
DEFAULT_D = "/etc/default/kexec.d"

STOCK_KERNELS = frozenset({(DEFAULT, "/vmlinuz"), (DEFAULT, "/boot/vmlinuz"), (KEXEC_CONF, "bzimage")})
"""What the packages themselves write into these files: nobody's decision."""

LOOKALIKES = {
    "yes": frozenset({"yes", "true", "on", "1", "y"}),
    "true": frozenset({"yes", "true", "on", "1", "y"}),
    "no": frozenset({"no", "false", "off", "0", "n"}),
}
"""What people write and mean the literal that the classic scripts compare to."""

Setting = str | bool | KexecOptions | None
Found = dict[str, Assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings; paths begin with a slash."""

    boot_dir: str = "/boot"
    kernel: str | None = None  # None: to be found
    initrd: str | None = None  # None: the kernel's own; empty: none at all
    cmdline: str | None = None  # None: the running one
    root: str | None = None
    load_during_shutdown: bool = True
    mount_boot: bool = True
    kexec_options: KexecOptions = KexecOptions()
    load_kexec: bool = True  # whether an ordinary reboot is to load an image; says nothing about kexecctl reboot
    use_grub_config: bool = False
    disabled: bool = False  # KNAME="-": no kexec, unless a kernel is named on the command line
    stock_kernel: bool = False  # the kernel is only what the package's own file names
    warnings: tuple[str, ...] = ()  # sentences without a full stop
    origins: tuple[tuple[str, str], ...] = ()  # (setting, file:line) of those that are set

    def origin(self, dest: str) -> str:
        """Where a setting comes from: `file:line`, or `default`."""
        return next((origin for name, origin in self.origins if name == dest), "default")


def _text(value: str, origin: str) -> str:
    return value


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `literal`: the value that the scripts compare a yes or no to; every other one means the contrary.

    parse: takes the value and its place; raises BadConfig.
    """

    dest: str
    gentoo: str
    debian: str
    default: str
    help: str
    literal: str = ""
    parse: Callable[[str, str], Setting] = _text

    def read(self, assignment: Assignment) -> Setting:
        value = assignment.value
        return value == self.literal if self.literal else self.parse(value, assignment.origin)


ROWS = (
    Row("boot_dir", "BOOTPART", "", "/boot", "the directory of the kernels, which may be a mount point"),
    Row("kernel", "KNAME", "KERNEL_IMAGE", "as choice says", "the kernel; `-` for no kexec"),
    Row("initrd", "INITRD", "INITRD", "the kernel's own", "the initrd"),
    Row("cmdline", "KPARAM", "APPEND", "the running one", "the kernel command line"),
    Row("root", "ROOTPART", "", "the running one", "root= for a command line that has none"),
    Row("load_during_shutdown", "LOAD_DURING_SHUTDOWN", "", "yes", "no: load when the service starts", "yes"),
    Row("mount_boot", "DONT_MOUNT_BOOT", "", "no", "yes: the boot directory is not mounted to read a kernel", "no"),
    Row("kexec_options", "KEXEC_OPT_ARGS", "", "", "options for kexec(8), where it is used", parse=kexec_options.parse),
    Row("load_kexec", "", "LOAD_KEXEC", "true", "whether an ordinary reboot is to load an image", "true"),
    Row("use_grub_config", "", "USE_GRUB_CONFIG", "false", "whether grub.cfg names the kernel", "true"),
)


def read_settings(root: str = "/", *, runlevel: str = "") -> Settings:
    """The settings of the machine whose root directory is `root`; without any file, the defaults.

    Where both dialects exist Gentoo's files come first, then Debian's (see above).
    runlevel: OpenRC's name of the one that is entered, for its own file in /etc/conf.d.
    Raises BadConfig for a file that is not made of assignments.
    """
    gentoo, debian = _gentoo(root, runlevel), _debian(root)
    return _settings(gentoo, debian, root)


def _gentoo(root: str, runlevel: str) -> Found:
    if "/" in runlevel or "\0" in runlevel:
        raise BadConfig(f"cannot read the settings for runlevel {runlevel!r}", "that is no name of a runlevel")
    conf_d = CONF_D
    found = confd.read(f"{CONF_D}.{runlevel}", root=root) if runlevel else None
    if found is not None:
        conf_d = f"{CONF_D}.{runlevel}"
    else:
        found = confd.read(CONF_D, root=root)
    first = _last_of_each(found or ())
    if confd.same_file(conf_d, KEXEC_CONF, root=root):
        return first
    return _last_of_each(confd.read(KEXEC_CONF, root=root) or ()) | first


def _last_of_each(assignments: tuple[Assignment, ...]) -> Found:
    return {name: last for name, last in {a.name: a for a in assignments}.items() if last.value}


def _debian(root: str) -> Found | None:
    """None: there is no such file."""
    assignments = confd.read(DEFAULT, root=root)
    snippets = _run_parts(root)
    if assignments is None and not snippets:
        return None
    assignments = assignments or ()
    for path in snippets:
        assignments += confd.read(path, root=root, earlier=assignments) or ()
    return {a.name: a for a in assignments}


def _run_parts(root: str) -> list[str]:
    """The files that `run-parts --list` names, in its order, which is that of the C locale."""
    try:
        names = sorted(name for name in os.listdir(join_root(root, DEFAULT_D)) if _is_run_parts_name(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise confd.unreadable(DEFAULT_D, error) from error
    return [f"{DEFAULT_D}/{name}" for name in names if _is_regular(join_root(root, f"{DEFAULT_D}/{name}"))]


def _is_run_parts_name(name: str) -> bool:
    return name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False  # a dangling link, which run-parts passes over too


def _settings(gentoo: Found, debian: Found | None, root: str) -> Settings:
    values: dict[str, Setting] = {}
    origins: list[tuple[str, str]] = []
    warnings: list[str] = []
    taken: Found = {}
    theirs = dict(debian or {})
    if debian is not None and "LOAD_KEXEC" not in debian:
        values["load_kexec"] = False  # an unset variable is not the literal `true` either
    if (use := theirs.get("USE_GRUB_CONFIG")) and use.value == "true":
        for name in ("KERNEL_IMAGE", "INITRD", "APPEND"):
            theirs.pop(name, None)
        warnings.append(
            f"{use.origin}: USE_GRUB_CONFIG is true, so KERNEL_IMAGE, INITRD and APPEND are not used;"
            " what GRUB would boot next is found by kexecd's own reading of grub.cfg"
        )
    for row in ROWS:
        assignment = _pick(row, gentoo, theirs)
        if assignment is None:
            continue
        taken[row.dest] = assignment
        values[row.dest] = row.read(assignment)
        origins.append((row.dest, assignment.origin))
        if row.literal and assignment.value != row.literal and assignment.value.lower() in LOOKALIKES[row.literal]:
            warnings.append(_literal_warning(row, assignment))
    _place_paths(values, taken)
    settings = Settings(
        **values,  # type: ignore[arg-type] # one row is one field; a test holds their types
        warnings=(*warnings, *_warnings(taken)),
        origins=tuple(origins),
    )
    return _with_options(settings, taken, root)


def _pick(row: Row, gentoo: Found, debian: Found) -> Assignment | None:
    ours = gentoo.get(row.gentoo)
    theirs = debian.get(row.debian)
    if row.dest == "initrd":
        # With its kernel: Gentoo's belongs to Gentoo's, and Debian's empty one says that there is none.
        if "KNAME" in gentoo:
            return ours
        if (kernel := debian.get("KERNEL_IMAGE")) and kernel.value:
            return theirs
    if ours is not None:
        return ours
    return theirs if theirs is not None and (theirs.value or row.literal) else None


def _place_paths(values: dict[str, Setting], taken: Found) -> None:
    """Give the paths the place that the scripts give them: below BOOTPART without a slash in Gentoo's, else below /."""
    if (boot := taken.get("boot_dir")) is not None:
        values["boot_dir"] = "/" + boot.value.strip("/")
    boot_dir = str(values.get("boot_dir", "/boot")).rstrip("/")
    for dest in ("kernel", "initrd"):
        if (assignment := taken.get(dest)) is None or not assignment.value:
            continue
        bare = "/" not in assignment.value and not assignment.file.startswith(DEFAULT)
        values[dest] = f"{boot_dir if bare else ''}/{assignment.value.lstrip('/')}"
    if (kernel := taken.get("kernel")) is not None:
        values["stock_kernel"] = (kernel.file, kernel.value) in STOCK_KERNELS
        if kernel.name == "KNAME" and kernel.value == "-":
            values["kernel"], values["disabled"] = None, True


def _literal_warning(row: Row, assignment: Assignment) -> str:
    return (
        f'{assignment.origin}: {assignment.name}="{assignment.value}" is not the literal "{row.literal}",'
        f" so it means the contrary; write {row.literal}"
    )


def _warnings(taken: Found) -> list[str]:
    warnings = []
    cmdline, root = taken.get("cmdline"), taken.get("root")
    if cmdline is not None and root is not None and _has_root(cmdline.value):
        warnings.append(
            f"{root.origin}: {cmdline.name} has a root= of its own ({cmdline.origin}), so ROOTPART is not used"
        )
    for dest in ("kernel", "initrd"):
        path = taken.get(dest)
        if path is not None and "/" in path.value and not path.value.startswith("/"):
            warnings.append(
                f'{path.origin}: {path.name}="{path.value}" has a slash, so it is looked for in / and not in BOOTPART'
            )
    return warnings


def _with_options(settings: Settings, taken: Found, root: str) -> Settings:
    """With what KEXEC_OPT_ARGS says about initrd and command line. A variable comes before: kexec takes the last."""
    assignment = taken.get("kexec_options")
    if assignment is None:
        return settings
    origin, options = assignment.origin, settings.kexec_options
    warnings, origins, changes = list(options.warnings), list(settings.origins), dict[str, str]()
    cmdline, kernel, initrd = taken.get("cmdline"), taken.get("kernel"), taken.get("initrd")
    if options.append is not None and cmdline is not None:
        warnings.append(f"{origin}: {cmdline.name} is set ({cmdline.origin}), so --append is not used")
    elif options.append is not None:
        changes["cmdline"] = kexec_options.with_running(options.append, root)
        origins.append(("cmdline", origin))
    if options.reuse_cmdline and cmdline is not None:
        changes["cmdline"] = kexec_options.with_running(cmdline.value, root)
    if options.initrd is not None and initrd is not None:
        warnings.append(f"{origin}: {initrd.name} is set ({initrd.origin}), so --initrd is not used")
    elif options.initrd is not None and kernel is not None and kernel.name != "KNAME":
        warnings.append(f"{origin}: --initrd is not used for the kernel that {kernel.origin} names")
    elif options.initrd is not None:
        changes["initrd"] = options.initrd
        origins.append(("initrd", origin))
    return replace(
        settings,
        cmdline=changes.get("cmdline", settings.cmdline),
        initrd=changes.get("initrd", settings.initrd),
        warnings=(*settings.warnings, *warnings),
        origins=tuple(origins),
    )


def _has_root(cmdline: str) -> bool:
    from kexecd.kernel.cmdline import parse  # late: only where somebody set both

    return parse(cmdline).has("root")
