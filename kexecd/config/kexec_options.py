# SPDX-License-Identifier: MIT
"""KEXEC_OPT_ARGS: options of kexec(8), each taken for what it means here.

kexec(8) and kexec/kexec.h of kexec-tools 2.0.32, arch/*/include/arch/options.h for those of one architecture. What says
which image is loaded and how is ours; what only kexec-tools knows is handed to it where it is used; what would boot,
unload or look instead of loading is refused with its place. The value is split at blanks, as the unquoted $NAME of the
classic scripts is: quotes mean nothing in it. As in getopt_long(3) a long option may be shortened as long as it is the
only one that begins so, and short ones may be written together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum, auto

from kexecd.errors import BadConfig
from kexecd.kernel import cmdline
from kexecd.kernel.sysfs import running_cmdline

VARIABLE = "KEXEC_OPT_ARGS"


class Method(StrEnum):
    """How an image may be loaded."""

    AUTO = "auto"  # kexec_file_load(2), and kexec-tools for the formats that it does not know
    FILE = "file"  # kexec_file_load(2) and nothing else
    TOOLS = "tools"  # kexec_load(2) through kexec-tools and nothing else


class Does(StrEnum):
    """What becomes of an option."""

    METHOD = auto()
    REUSE = auto()
    APPEND = auto()
    INITRD = auto()
    DEVICETREE = auto()
    PASSED = auto()  # to kexec-tools, where it is used
    NOTHING = auto()  # it asks for what is done in any case
    IDLE = auto()  # it changes nothing here, and whoever wrote it should hear why
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Option:
    """One option of kexec(8), with all its names; `why` ends a sentence that begins with its name."""

    names: tuple[str, ...]
    does: Does
    takes_value: bool = False
    why: str = ""
    method: Method = Method.AUTO


def _passed(*names: str, value: bool = False) -> Option:
    return Option(names, Does.PASSED, value)


def _refused(why: str, *names: str, value: bool = False) -> Option:
    return Option(names, Does.REFUSED, value, why)


OPTIONS = (
    # How, and what: ours.
    Option(("-s", "--kexec-file-syscall"), Does.METHOD, method=Method.FILE),
    Option(("-c", "--kexec-syscall"), Does.METHOD, method=Method.TOOLS),
    Option(("-a", "--kexec-syscall-auto"), Does.METHOD, method=Method.AUTO),
    Option(("--reuse-cmdline",), Does.REUSE),
    Option(("--append", "--command-line"), Does.APPEND, takes_value=True),
    Option(("--initrd", "--ramdisk"), Does.INITRD, takes_value=True),
    Option(("--dtb", "--devicetreeblob"), Does.DEVICETREE, takes_value=True),
    Option(("-l", "--load"), Does.NOTHING),
    # Without effect: they change what `kexec -e` does before it jumps, and it is not used.
    Option(("-x", "--no-ifdown"), Does.IDLE, why="no interface is taken down by the jump"),
    Option(("-y", "--no-sync"), Does.IDLE, why="disks are always written back before the jump"),
    Option(("--hotplug",), Does.IDLE, why="it is about crash kernels"),
    # Known to kexec-tools alone.
    _passed("-d", "--debug"),
    _passed("-i", "--no-checks"),
    _passed("-t", "--type", value=True),
    _passed("--mem-min", value=True),
    _passed("--mem-max", value=True),
    _passed("--no-cma"),
    _passed("--force-dtb"),
    _passed("--module", value=True),
    _passed("--args-elf"),
    _passed("--args-linux"),
    _passed("--args-none"),
    _passed("--real-mode"),
    _passed("--entry-32bit"),
    _passed("--console-vga"),
    _passed("--console-serial"),
    _passed("--serial", value=True),
    _passed("--serial-baud", value=True),
    _passed("--reset-vga"),
    _passed("--elf32-core-headers"),
    _passed("--elf64-core-headers"),
    _passed("--pass-memmap-cmdline"),
    _passed("--noefi"),
    _passed("--reuse-video-type"),
    _passed("--dt-no-old-root"),
    _passed("--atags"),
    _passed("--image-size", value=True),
    _passed("--page-offset", value=True),
    _passed("--gamecube"),
    _passed("--reuse-node", value=True),
    # Not an option of a load at all.
    _refused("jumps at once, without any shutdown", "-e", "--exec"),
    _refused("jumps at once, without any shutdown", "-f", "--force"),
    _refused("unloads the image instead of loading one", "-u", "--unload"),
    _refused("loads a crash kernel", "-p", "--load-panic"),
    _refused("prints the status instead of loading", "-S", "--status"),
    _refused("prints a help text instead of loading", "-h", "--help"),
    _refused("prints a version instead of loading", "-v", "--version"),
    _refused("prints the size of the crash kernel's memory instead of loading", "--print-ckr-size"),
    _refused("takes the initrd of the kernel that runs for another kernel", "--reuseinitrd"),
    _refused("is about coming back from the kernel that is loaded", "--entry", value=True),
    _refused("is about coming back from the kernel that is loaded", "--load-preserve-context"),
    _refused("is about coming back from the kernel that is loaded", "--load-jump-back-helper"),
    _refused("is about updating a hypervisor", "--load-live-update"),
    _refused("jumps at once, without any shutdown", "--exec-live-update"),
)

NAMES = {name: option for option in OPTIONS for name in option.names}


@dataclass(frozen=True, slots=True, kw_only=True)
class KexecOptions:
    """What the options come to. Paths are as they were written, and begin with a slash."""

    method: Method = Method.AUTO
    reuse_cmdline: bool = False
    append: str | None = None  # the command line, or what is added to the one that is reused
    initrd: str | None = None
    devicetree: str = ""
    passed: tuple[str, ...] = ()  # for kexec-tools, each a whole word
    warnings: tuple[str, ...] = ()  # sentences without a full stop

    @property
    def for_tools(self) -> tuple[str, ...]:
        """Everything that kexec-tools is to be given on top of the files and the command line."""
        return (*self.passed, *((f"--dtb={self.devicetree}",) if self.devicetree else ()))


def parse(value: str, origin: str = VARIABLE) -> KexecOptions:
    """What the options in `value` come to; `origin` is what messages call their place. Raises BadConfig."""
    found = KexecOptions()
    words = iter(_split(value))
    for word in words:
        for name, given in _options(word, origin):
            found = _take(found, name, given, words, origin)
    if not found.devicetree:
        return found
    if found.method is Method.FILE:
        raise _refusal(origin, "`--dtb` is not for kexec_file_load(2), which `-s` insists on", "remove one of them")
    return replace(found, method=Method.TOOLS)  # kexec_file_load(2) takes no device tree


def with_running(addition: str, root: str = "/") -> str:
    """The running command line with what it lacks of `addition`: the kexec after this one must not add it again.

    Raises BadConfig for a quote that is never closed.
    """
    running = running_cmdline(root)
    there = {parameter.raw for parameter in cmdline.parse(running).kernel}
    new = (parameter.raw for parameter in cmdline.parse(addition).kernel if parameter.raw not in there)
    return cmdline.canonical(running, append=" ".join(new))


def _split(value: str) -> list[str]:
    """Field splitting by the default $IFS."""
    return [word for word in value.replace("\t", " ").replace("\n", " ").split(" ") if word]


def _options(word: str, origin: str) -> Iterator[tuple[str, str | None]]:
    """The options in one word: a long one, or short ones together; with the value that is written into it."""
    if word.startswith("--") and len(word) > 2:
        name, equals, given = word.partition("=")
        yield _full_name(name, origin), given if equals else None
        return
    if not word.startswith("-") or word in ("-", "--"):
        hint = "quotes mean nothing here, so a value cannot have blanks; for a command line there is KPARAM"
        raise _refusal(origin, f"`{word}` is no option, and kexec would take it for the kernel", hint)
    for at in range(1, len(word)):
        name = f"-{word[at]}"
        if (option := NAMES.get(name)) and option.takes_value:
            yield name, word[at + 1 :] or None
            return
        yield name, None


def _full_name(name: str, origin: str) -> str:
    if name in NAMES:
        return name
    candidates = sorted(full for full in NAMES if full.startswith(name))
    if len({id(NAMES[full]) for full in candidates}) > 1:
        raise _refusal(origin, f"`{name}` may be " + " or ".join(candidates), "write the whole name")
    return candidates[0] if candidates else name


def _take(found: KexecOptions, name: str, given: str | None, words: Iterator[str], origin: str) -> KexecOptions:
    option = NAMES.get(name)
    if option is None:
        why = f"{origin}: {name} is not known here; kexec-tools gets it as it is, where it is used"
        word = name if given is None else f"{name}={given}"
        return replace(found, passed=(*found.passed, word), warnings=(*found.warnings, why))
    if option.takes_value and given is None and (given := next(words, None)) is None:
        raise _refusal(origin, f"`{name}` has no value", f"write {name}=VALUE")
    if given is not None and not option.takes_value:
        raise _refusal(origin, f"`{name}` takes no value", f"write {name} alone")
    given = given or ""
    match option.does:
        case Does.METHOD:
            return replace(found, method=option.method)
        case Does.REUSE:
            return replace(found, reuse_cmdline=True)
        case Does.APPEND:
            return replace(found, append=given)  # the last one counts, as for kexec
        case Does.INITRD:
            return replace(found, initrd=_path(name, given, origin))
        case Does.DEVICETREE:
            return replace(found, devicetree=_path(name, given, origin))
        case Does.PASSED:
            return replace(found, passed=(*found.passed, *_as_words(name, given, option)))
        case Does.NOTHING:
            return found
        case Does.IDLE:
            why = f"{origin}: {name} changes nothing here: {option.why}"
            return replace(found, warnings=(*found.warnings, why))
        case Does.REFUSED:
            raise _refusal(origin, f"`{name}` {option.why}", f"remove it from {VARIABLE}")


def _path(name: str, given: str, origin: str) -> str:
    if not given:
        raise _refusal(origin, f"`{name}` has an empty value", f"write {name}=FILE, or remove it")
    return f"/{given.lstrip('/')}"


def _as_words(name: str, given: str, option: Option) -> tuple[str, ...]:
    if not option.takes_value:
        return (name,)
    return (f"{name}={given}",) if name.startswith("--") else (name, given)


def _refusal(origin: str, found: str, hint: str) -> BadConfig:
    return BadConfig(f"cannot take {origin}", f"in {VARIABLE}, {found}", hint=hint)
