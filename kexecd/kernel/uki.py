# SPDX-License-Identifier: MIT
"""What a unified kernel image is made of: https://uapi-group.org/specifications/specs/unified_kernel_image/ 1.

Taken are .linux, .ucode, .initrd, .cmdline, .uname, .osrel and .profile. Left are what only the stub or a TPM has a use
for (.splash, .sbat, .pcrsig, .pcrpkey) and device trees, which are counted. Of an image with several profiles one is
read, as its stub would: the sections before the first .profile, each replaced by the profile's own of that name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kexecd.errors import BadImage
from kexecd.kernel.pe import PROFILE, Section, read_pe

TEXT_LIMIT = 1 << 16  # bytes; command lines end at 4096, and os-release files are short
HEAD = 64  # bytes; the headers begin in these
DEVICE_TREES = (b".dtb", b".dtbauto")


@dataclass(frozen=True, slots=True, kw_only=True)
class UkiParts:
    """Where the parts of one profile lie in the file, and the texts among them.

    initrds: in the order in which the kernel has to get them, microcode first.
    cmdline: as the stub would hand it on; None where the image brings none.
    profiles: the text of every .profile section, in order: the number of each is its index.
    missing: bytes by which the file is shorter than its headers say.
    """

    arch: str
    signed: bool  # it carries a certificate table; says nothing about whose
    linux: Section
    initrds: tuple[Section, ...] = ()
    cmdline: str | None = None
    uname: str = ""
    osrel: str = ""
    profiles: tuple[str, ...] = ()
    device_trees: int = 0
    missing: int = 0


def sections(fd: int, path: str, profile: int = 0) -> UkiParts:
    """The parts of the image behind `fd`, which is whole; `path` is what messages call it.

    Raises BadImage when it is no unified kernel image, is shorter than its headers say, or has no such profile.
    """
    parts = sections_there(fd, path, profile)
    if parts.missing:
        raise BadImage(_what(path), truncated(parts))
    return parts


def sections_there(fd: int, path: str, profile: int = 0) -> UkiParts:
    """As `sections`, also of an image that was cut short: a boot loader shows it until it tries to load it."""
    try:
        return _sections(fd, _what(path), profile)
    except OSError as error:
        raise BadImage(_what(path), (error.strerror or str(error)).lower(), errno=error.errno or 0) from error


def truncated(parts: UkiParts) -> str:
    return f"the file is truncated: {parts.missing} bytes are missing"


def _what(path: str) -> str:
    return f"cannot use {path} as a unified kernel image"


def _sections(fd: int, what: str, profile: int) -> UkiParts:
    image = read_pe(fd, os.pread(fd, HEAD, 0))
    if image is None:
        raise BadImage(what, "it is no EFI executable")
    if profile and profile >= image.profiles:
        raise BadImage(what, f"it has no profile {profile}")
    chosen = {section.name: section for section in reversed(image.of_profile(profile))}  # the first of each name
    linux = chosen.get(b".linux")
    if linux is None or not linux.size:
        raise BadImage(what, "it has no .linux section")
    cmdline = chosen.get(b".cmdline")
    return UkiParts(
        arch=image.arch,
        signed=image.signed,
        linux=linux,
        initrds=tuple(part for name in (b".ucode", b".initrd") if (part := chosen.get(name)) and part.size),
        cmdline=_as_the_stub(_text(fd, cmdline, what)) if cmdline else None,
        uname=_as_the_stub(_text(fd, chosen.get(b".uname"), what)),
        osrel=_text(fd, chosen.get(b".osrel"), what),
        profiles=tuple(_text(fd, section, what) for section in image.sections if section.name == PROFILE),
        device_trees=sum(section.name in DEVICE_TREES for section in image.sections),
        missing=max(image.needs - os.fstat(fd).st_size, 0),
    )


def _text(fd: int, part: Section | None, what: str) -> str:
    """A section's text, up to its NUL."""
    if part is None:
        return ""
    if part.size > TEXT_LIMIT:
        raise BadImage(what, f"its section {part.name.decode()} has {part.size} bytes, which is no text of this kind")
    return os.pread(fd, part.size, part.offset).partition(b"\0")[0].decode(errors="surrogateescape")


def _as_the_stub(text: str) -> str:
    """systemd-stub(7) makes a blank of every control character and takes the blanks at both ends away."""
    return "".join(" " if char <= " " or char == "\x7f" else char for char in text).strip(" ")
