# SPDX-License-Identifier: MIT
"""The first half of the flow, as every command walks it: settings -> entries -> choice -> target.

With `--from DIR` all of it is another installed system's, mounted at DIR: its settings, its kernels, its command line.
Of this machine only its architecture counts then.

The modules of that half are imported where it is walked: a restart into an image that is in memory already needs none
of them, and they take twice as long as all the others of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kexecd.errors import ExitCode, NoEntry, Refusal
from kexecd.kernel import sysfs
from kexecd.kernel.files import join_root
from kexecd.model import BootEntry, BootTarget, Choice, Found, Source

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from argparse import Namespace

    from kexecd.config.settings import Settings
    from kexecd.kernel.cmdline import Edits

TRIAL_PANIC = 30
"""Seconds: a trial has a way back, whatever the policy says."""

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen below one root.

    loader: the boot loader in charge, None where there is none. problems: what the sources did not understand.
    foreign: it is another system's root, of which nothing runs. panic: how many seconds after a panic the new kernel
    is to restart (Policy.confirm_panic).
    """

    settings: Settings
    entries: tuple[BootEntry, ...]
    choice: Choice
    loader: Found | None = None
    problems: tuple[str, ...] = ()
    root: str = "/"
    foreign: bool = False
    panic: int = 0


def look(root: str, explicit: str | None = None, *, foreign: bool = False) -> Look:
    """What could be booted below `root`, and what would be. Raises BadConfig."""
    from kexecd import bootmount  # late, as all of these: see above
    from kexecd.config.policy import Choosing, read_policy
    from kexecd.config.settings import read_settings
    from kexecd.discover import select, sources

    settings = read_settings(root)
    policy = read_policy(root)
    newest = policy.choice is Choosing.NEWEST
    offer = sources.look(
        root,
        settings.boot_dir,
        release=sysfs.kernel_release(),
        machine=sysfs.architecture(),
        shadowing=bootmount.unmounted(root, settings.boot_dir) if foreign or root == "/" else (),
    )
    choice = select.choose(offer, settings, explicit=explicit, newest=newest, root=root)
    problems = tuple(problem for found in offer.found for problem in found.problems)
    entries = offer.entries
    if choice.entry and choice.entry not in entries:  # the configuration names it
        entries = (choice.entry, *entries)
    return Look(settings, entries, choice, offer.loader, problems, root, foreign, policy.confirm_panic)


@contextlib.contextmanager
def boot_partitions(root: str = "/") -> Iterator[None]:
    """Have this machine's boot partitions mounted for a look and a load, unless the settings do not want it."""
    from kexecd import bootmount  # late: see above
    from kexecd.config.settings import read_settings

    settings = read_settings(root)
    with bootmount.mounted(settings.boot_dir) if root == "/" and settings.mount_boot else contextlib.nullcontext():
        yield


def look_for(options: Namespace, root: str = "/") -> Look:
    """The same, as the options of one command want it (see kexecd.cli.main). Raises NoEntry too."""
    foreign = options.from_root is not None
    place = _other_root(options.from_root, root) if foreign else root
    kernel = _path(options.kernel, place) if options.kernel else None
    seen = look(place, kernel or options.entry, foreign=foreign)
    if foreign and not seen.entries and not any(os.path.exists(join_root(place, path)) for path in OS_RELEASE):
        why = "it is not the root of an installed system: it has no /etc/os-release and no kernel"
        raise NoEntry(f"cannot boot from {place}", why)
    initrds = tuple(_path(path, place) for path in options.initrd or () if path)
    if kernel and (options.initrd or seen.choice.entry is None):
        # What is named file by file is taken as it is named; opening the files says what is wrong with them.
        entry = BootEntry(id=kernel, title=kernel, version="", source=Source.EXPLICIT, kernel=kernel, initrds=initrds)
        return replace(seen, choice=Choice(entry, "it is named on the command line"))
    if options.initrd and seen.choice.entry:
        entry = replace(seen.choice.entry, initrds=initrds)
        return replace(seen, choice=replace(seen.choice, entry=entry))
    return seen


def names_image(options: Namespace) -> bool:
    """Whether the options say anything about what is to be booted, so that an image in memory is not meant."""
    named = (options.entry, options.kernel, options.initrd, options.from_root, options.cmdline)
    return any(value is not None for value in named) or bool(options.remove or options.set or any(options.append or ()))


def chosen(seen: Look) -> BootEntry:
    """The entry that is to be booted. Raises NoEntry."""
    if seen.choice.entry is None:
        what = f"nothing is chosen to boot from {seen.root}" if seen.foreign else "nothing is chosen to boot"
        where = "" if seen.root == "/" else f" --root {seen.root}"
        hint = f"`kexecctl entries{where}` lists what was found, and why not"
        raise NoEntry(what, seen.choice.reason, hint=hint)
    return seen.choice.entry


def target_for(options: Namespace, seen: Look, root: str = "/") -> BootTarget:
    """The entry made final; its files are open, and the caller's. Raises a Refusal."""
    from kexecd.handoff import new_nonce  # late: see above
    from kexecd.target import make_target

    return make_target(
        chosen(seen),
        seen.settings,
        running_cmdline=None if seen.foreign else sysfs.running_cmdline(root),
        nonce=new_nonce(),
        root=seen.root,
        edits=edits(options),
        machine=sysfs.architecture() if root == "/" else "",
        deep=True,
        panic=seen.panic or (TRIAL_PANIC if getattr(options, "trial", False) else 0),
    )


def edits(options: Namespace) -> Edits:
    from kexecd.kernel.cmdline import Edits  # late: see above

    return Edits(
        line=options.cmdline,
        remove=tuple(options.remove or ()),
        set=tuple(options.set or ()),
        append=" ".join(options.append or ()),
    )


def _other_root(directory: str, root: str) -> str:
    """The root of the other system. Raises NoEntry where there is no such directory."""
    if root != "/":
        raise Refusal("cannot use --from", "it does not go with --root", exit_code=ExitCode.USAGE)
    place = os.path.realpath(directory)
    if place == "/" or not os.path.isdir(place):
        why = "it is this system" if place == "/" else "there is no such directory"
        raise NoEntry(f"cannot boot from {directory}", why, hint="mount the other system's root, and name where")
    return place


def _path(path: str, root: str) -> str:
    """A path as it is named, seen from inside the root; the shell completes one that begins with the root itself."""
    if root == "/":
        return os.path.abspath(path)
    outside = os.path.abspath(path)
    if outside.startswith(f"{root}/") and not os.path.lexists(join_root(root, path)):
        return outside[len(root) :]
    return os.path.normpath(f"/{path.lstrip('/')}")
