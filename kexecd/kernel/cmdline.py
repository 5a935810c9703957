# SPDX-License-Identifier: MIT
"""The kernel command line: its syntax, its canonical form, how it is edited, how long it may be.

Syntax: next_arg() in lib/cmdline.c. Blanks part the parameters unless they are inside double quotes, wherever these
stand; there is no escape. `--` ends the kernel's parameters, what follows is init's
(Documentation/admin-guide/kernel-parameters.rst). A parameter keeps the spelling that it came with, so that what is not
ours goes through unchanged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kexecd.errors import BadConfig
from kexecd.model import NONCE_KEY

SPACES = " \t\n\v\f\r"  # isspace() in include/linux/ctype.h, without 0xa0, which is part of UTF-8 characters

STALE = frozenset({"BOOT_IMAGE", "initrd", NONCE_KEY})
"""Parameters that tell about the boot that is ending: what GRUB, syslinux or the EFI stub loaded, and our nonce."""

PANIC = "panic"
WAY_BACK = ("rd.shell=0", "rd.emergency=reboot")
"""What has an initrd of dracut's restart the machine where it would open a shell (dracut.cmdline(7)). The one that
initramfs-tools makes goes by panic=, as the kernel does (initramfs-tools(7), kernel-parameters.rst)."""

ONCE = frozenset({"kho=off", *WAY_BACK})
"""Words that are for one boot when they follow the nonce, as panic= is: whoever goes by that boot's line leaves them
out. Without the handover the boot after that one would have nothing to carry memory with, and nobody would know why."""

REPAIR = frozenset(
    (
        *("single", "s", "S", "1", "-s", "emergency", "-b", "rescue", "softlevel=single"),
        *("systemd.unit=rescue.target", "systemd.unit=emergency.target"),
    )
)
SHELLS = ("/bin/sh", "/bin/bash", "/bin/dash", "/usr/bin/sh", "/usr/bin/bash", "/sbin/sulogin")

ELFCOREHDR_RESERVE = 30  # bytes; MAX_ELFCOREHDR_STR_LEN in arch/x86/kernel/kexec-bzimage64.c, kept free in any case

COMMAND_LINE_SIZE = {  # bytes with the NUL; arch/*/include/{uapi/,}asm/setup.h
    "x86_64": 2048,
    "i386": 2048,
    "aarch64": 2048,
    "arm": 1024,
    "riscv64": 1024,
    "ppc64": 2048,
    "s390x": 896,  # the smallest that CONFIG_COMMAND_LINE_SIZE can be
    "loongarch64": 4096,
}
GENERIC_COMMAND_LINE_SIZE = 512  # include/uapi/asm-generic/setup.h


@dataclass(frozen=True, slots=True)
class Parameter:
    key: str
    value: str | None  # None: it has no `=`
    raw: str

    @property
    def unterminated(self) -> bool:
        """Whether a quote is open at its end: it would swallow whatever is put behind it."""
        return self.raw.count('"') % 2 == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What the person at the command line wants otherwise, in the order in which it is done.

    line: instead of every other source. remove: KEY, or KEY=VALUE for only that one. set: KEY=VALUE, instead of all
    with this key; what is set twice stands there twice. append: parameters for the end.
    """

    line: str | None = None
    remove: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    append: str = ""

    def __bool__(self) -> bool:
        return self != NO_EDITS


NO_EDITS = Edits()


@dataclass(frozen=True, slots=True)
class CommandLine:
    kernel: tuple[Parameter, ...]
    init: tuple[Parameter, ...] = ()  # what follows `--`
    dashes: str = ""  # how `--` was spelled; empty where there is none

    def __str__(self) -> str:
        kernel = [parameter.raw for parameter in self.kernel]
        dashes = [self.dashes or "--"] if self.dashes or self.init else []
        return " ".join([*kernel, *dashes, *(parameter.raw for parameter in self.init)])

    def has(self, key: str) -> bool:
        return any(parameter.key == key for parameter in self.kernel)

    def all(self, key: str) -> tuple[Parameter, ...]:
        return tuple(parameter for parameter in self.kernel if parameter.key == key)

    def value(self, key: str) -> str | None:
        """The value given last, which is the one that counts for nearly every parameter."""
        values = [parameter.value for parameter in self.kernel if parameter.key == key]
        return values[-1] if values else None


def parse(text: str) -> CommandLine:
    """Any text is a command line; a NUL ends it, as it does in the kernel."""
    parameters = [_parameter(raw) for raw in _split(text.partition("\0")[0])]
    for index, parameter in enumerate(parameters):
        if parameter.key == "--" and parameter.value is None:
            return CommandLine(tuple(parameters[:index]), tuple(parameters[index + 1 :]), parameter.raw)
    return CommandLine(tuple(parameters))


def canonical(
    running: str,
    *,
    nonce: str = "",
    append: str = "",
    once: tuple[str, ...] = (),
    drop: frozenset[str] = STALE,
    keep_once: bool = False,
) -> str:
    """The command line for the next boot, made of the running one. Ten kexecs in a row leave it unchanged.

    Parameters with a key in `drop` go, `append`, the nonce and behind it `once` come, in front of a `--`; nothing else
    is touched or reordered, and what stands there twice stays there twice. Raises BadConfig when `append` has a quote
    that is never closed.
    """
    line, addition = parse(running), parse(append)
    if any(parameter.unterminated for parameter in (*addition.kernel, *addition.init)):
        raise BadConfig(f"cannot append {append} to the kernel command line", "a double quote is never closed")
    lasting = line.kernel if keep_once or NONCE_KEY not in drop else _lasting(line.kernel)
    kernel = [parameter for parameter in lasting if parameter.key not in drop]
    init = [parameter for parameter in (*line.init, *addition.init) if parameter.key != NONCE_KEY]
    new = list(addition.kernel)
    if nonce:
        new.append(Parameter(NONCE_KEY, nonce, f"{NONCE_KEY}={nonce}"))
    new += parse(" ".join(once)).kernel
    before = len(kernel) - 1 if kernel and kernel[-1].unterminated else len(kernel)
    kernel[before:before] = new
    init.sort(key=lambda parameter: parameter.unterminated)  # at most one is, and it stands last
    return str(CommandLine(tuple(kernel), tuple(init), line.dashes or addition.dashes))


def to_show(text: str) -> str:
    """Without what nobody could have asked for, as the nonce; with the words that are for this one boot."""
    return canonical(text, keep_once=True)


def way_back(text: str, panic: int) -> tuple[str, ...]:
    """The words that have a kernel restart by itself where it cannot come up, as far as this line lacks them.

    panic: seconds after a panic; 0: none of these words. Whoever asks the initrd for a shell gets one.
    """
    if not panic:
        return ()
    line = parse(text)
    words = () if line.has("rd.break") else WAY_BACK
    wanted = (f"{PANIC}={panic}", *words)
    return tuple(word for word in wanted if not line.has(word.partition("=")[0]))


def stands_still(text: str) -> bool:
    """Whether a kernel with this line stays as it is after a panic, for all that the line says."""
    value = parse(text).value(PANIC)
    return value is None or value.lstrip("-").strip("0") == ""


def asks_for_repair(text: str) -> bool:
    """Whether this boot is for a person at the console: it never comes up as it usually does.

    systemd(1) and kernel-command-line(7); init(8) of sysvinit; OpenRC's softlevel=single.
    """
    line = parse(text)
    words = {parameter.raw for parameter in line.kernel} | {parameter.raw for parameter in line.init}
    return bool(words & REPAIR) or line.has("rd.break") or line.value("init") in SHELLS


def for_once(text: str) -> tuple[str, tuple[str, ...]]:
    """What somebody appends, without the words that are for one boot, and these."""
    words = [parameter.raw for parameter in parse(text).kernel]
    if not ONCE.intersection(words):
        return text, ()
    rest = CommandLine(tuple(p for p in parse(text).kernel if p.raw not in ONCE), parse(text).init)
    return str(rest), tuple(word for word in words if word in ONCE)


def edited(line: str, edits: Edits) -> str:
    """`line`, or what `edits` has instead of it, with its changes. Raises BadConfig for one that makes no sense.

    What follows `--` is init's, and stays.
    """
    for text in (edits.line or "", *edits.remove, *edits.set, edits.append):
        _check(text)
    parsed = parse(line if edits.line is None else edits.line)
    # What was for another boot goes first: behind its nonce nobody could tell our words from what is appended now.
    lasting = [parameter for parameter in _lasting(parsed.kernel) if parameter.key != NONCE_KEY]
    kernel = [parameter for parameter in lasting if not any(_is_meant(parameter, what) for what in edits.remove)]
    news: dict[str, list[Parameter]] = {}
    for text in edits.set:
        new = _assignment(text)
        news.setdefault(_spelled(new.key), []).append(new)
    for key, parameters in news.items():
        place = next((at for at, parameter in enumerate(kernel) if _spelled(parameter.key) == key), len(kernel))
        if place == len(kernel) and kernel and kernel[-1].unterminated:
            place -= 1
        kept = [parameter for parameter in kernel[place:] if _spelled(parameter.key) != key]
        kernel[place:] = [*parameters, *kept]
    return canonical(str(CommandLine(tuple(kernel), parsed.init, parsed.dashes)), append=edits.append, drop=frozenset())


def difference(old: str, new: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that `new` has and `old` has not, and the other way round; what is STALE in either does not count."""
    before, after = (
        [parameter.raw for part in (line.kernel, line.init) for parameter in part]
        for line in (parse(to_show(old)), parse(to_show(new)))
    )
    return _beyond(after, before), _beyond(before, after)


def limit(arch: str, cmdline_size: int = 0) -> int:
    """How many bytes a command line for kexec may have, without the NUL.

    arch: as `uname -m` says it. cmdline_size: what the header of an x86 image says about itself, 0 where there is none.
    """
    if arch in ("x86_64", "i386"):
        # bzImage64_load() compares the length with the NUL to the size without it.
        return max((cmdline_size or COMMAND_LINE_SIZE[arch] - 1) - ELFCOREHDR_RESERVE - 1, 0)
    return COMMAND_LINE_SIZE.get(arch, GENERIC_COMMAND_LINE_SIZE) - 1


def check_length(cmdline: str, arch: str, cmdline_size: int = 0) -> None:
    """Raises BadConfig when the new kernel would not take a command line of this length."""
    length, most = _length(cmdline), limit(arch, cmdline_size)
    if length > most:
        raise BadConfig(
            "cannot use this kernel command line",
            f"it has {length} bytes, {length - most} more than the {most} that the new kernel takes",
            hint="shorten it; what the settings say with KPARAM or APPEND replaces the running one",
        )


def fits(cmdline: str, arch: str, cmdline_size: int = 0) -> bool:
    """Whether the new kernel would take a command line of this length."""
    return _length(cmdline) <= limit(arch, cmdline_size)


def _length(cmdline: str) -> int:
    return len(cmdline.encode(errors="surrogateescape"))


def _check(text: str) -> None:
    if any(character in text for character in "\0\n\r"):
        raise BadConfig(f"cannot put {text!r} on the kernel command line", "it contains a NUL or the end of a line")
    if text.count('"') % 2:
        raise BadConfig(f"cannot put {text} on the kernel command line", "a double quote is never closed")


def _assignment(text: str) -> Parameter:
    """KEY=VALUE as a parameter, in quotes where it takes them."""
    key, equals, value = text.partition("=")
    quoted = f'{key}="{value}"' if '"' not in value and any(space in value for space in SPACES) else text
    parameters = parse(quoted).kernel
    if not key or not equals or len(parameters) != 1 or parameters[0].key != key:
        what, why = f"cannot set {text} on the kernel command line", "it is not one parameter with a value"
        raise BadConfig(what, why, hint="use KEY=VALUE; --append takes anything")
    return parameters[0]


def _is_meant(parameter: Parameter, what: str) -> bool:
    meant = _parameter(what)
    return _spelled(parameter.key) == _spelled(meant.key) and meant.value in (None, parameter.value)


def _spelled(key: str) -> str:
    """parameq() in kernel/params.c: to the kernel - and _ are the same."""
    return key.replace("-", "_")


def _lasting(parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Without what was meant for the boot of that nonce alone."""
    kept: list[Parameter] = []
    seen: set[str] | None = None  # the keys behind the nonce, as long as they are ours; what comes again is somebody's
    for parameter in parameters:
        if parameter.key == NONCE_KEY:
            seen = set()
        elif seen is not None and parameter.key not in seen and (parameter.raw in ONCE or parameter.key == PANIC):
            seen.add(parameter.key)
            continue
        else:
            seen = None
        kept.append(parameter)
    return tuple(kept)


def _beyond(words: list[str], others: list[str]) -> tuple[str, ...]:
    left = Counter(others)
    beyond = []
    for word in words:
        left[word] -= 1
        if left[word] < 0:
            beyond.append(word)
    return tuple(beyond)


def _split(text: str) -> list[str]:
    words: list[str] = []
    start, quoted = -1, False
    for at, char in enumerate(text):
        if char in SPACES and not quoted:
            if start >= 0:
                words.append(text[start:at])
            start = -1
            continue
        if start < 0:
            start = at
        if char == '"':
            quoted = not quoted
    return [*words, text[start:]] if start >= 0 else words


def _parameter(raw: str) -> Parameter:
    body = raw[1:] if raw.startswith('"') else raw
    equals = body.find("=", 1)  # next_arg() does not see one in the first place
    if equals < 0:
        return Parameter(_unquoted_end(body) if body is not raw else body, None, raw)
    key, value = body[:equals], body[equals + 1 :]
    if value.startswith('"'):
        value = _unquoted_end(value[1:])
    elif body is not raw:
        value = _unquoted_end(value)
    return Parameter(key, value, raw)


def _unquoted_end(text: str) -> str:
    return text[:-1] if text.endswith('"') else text
