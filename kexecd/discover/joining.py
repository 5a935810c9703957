# SPDX-License-Identifier: MIT
"""The initrd for a kernel whose name has no version: never that of another version.

Scripts that go by fixed names look for a kernel and for an initrd independently of each other. What they would join is
taken where both are of one version, or where neither name claims one; else the initrd of the kernel's own version is
taken, and where there is none the entry says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from kexecd.discover.lookup import problem, version_inside
from kexecd.discover.pairs import has_modules, initrd_beside, initrd_version, no_initrd, parse_name
from kexecd.kernel.files import resolve


@dataclass(frozen=True, slots=True)
class Joined:
    """The initrd of one kernel, empty for none; and the sentences about it, as a BootEntry has them."""

    initrd: str = ""
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def version_of(kernel: str, root: str = "/") -> str:
    """The version of a kernel, as the name that it leads to says, or else its header; empty when neither does."""
    return version_in_name(resolve(kernel, root)) or version_inside(kernel, root)


def version_in_name(kernel: str) -> str:
    parsed = parse_name(kernel.rpartition("/")[2])
    return parsed.release if parsed else ""


def join(
    kernel: str,
    version: str,
    theirs: str,
    *,
    said: str,
    root: str,
    boot_dir: str,
    expected: bool,
) -> Joined:
    """The initrd that goes with `kernel`, which is of `version` as far as that is known.

    theirs: the path of the initrd that it would be joined with by name; empty: none.
    said: that it would be, in words.
    expected: whether other kernels of this machine have an initrd.
    """
    place = resolve(kernel, root)
    own = initrd_beside(place, version, root, boot_dir)
    if not theirs:
        return _own(own, version, root, expected=expected)
    their_version = initrd_version(theirs, root)
    if their_version and their_version == version and not (own and problem(theirs, root)):
        return Joined(theirs, _problems(theirs, root))
    if own:
        same = resolve(own, root) == resolve(theirs, root)
        return Joined(own, _problems(own, root), () if same else (said,))
    if their_version:
        lacking = f"there is no initrd for {version}" if version else "nothing says which version it is"
        return Joined(problems=(f"{lacking}; {said}, that of {their_version}",))
    if version_in_name(kernel):
        return Joined(problems=(f"there is no initrd for {version}; {said}, whose name has no version",))
    # Neither name claims a version: such a pair is what somebody keeps up by hand.
    return Joined(theirs, _problems(theirs, root), (f"nothing but its name says that {theirs} belongs to it",))


def _own(initrd: str, version: str, root: str, *, expected: bool) -> Joined:
    if initrd:
        return Joined(initrd, _problems(initrd, root))
    lacking = expected and version and has_modules(version, root)
    return Joined(problems=(no_initrd(version),) if lacking else ())


def _problems(path: str, root: str) -> tuple[str, ...]:
    return (why,) if (why := problem(path, root)) else ()
