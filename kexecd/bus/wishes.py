# SPDX-License-Identifier: MIT
"""What a call of org.kexecd.Manager1 comes to: one of kexecctl's command lines, made here word by word.

Nothing that a caller says becomes a word of it but two: a number of seconds, and the id of a boot entry, and that only
if `kexecctl entries` knows it (kexecd.bus.manager). Paths, command lines, kernels and hooks cannot be said at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kexecd.model import Way

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LONGEST_ID = 4096
"""Characters of an entry's id; it may be a path."""


class Action(StrEnum):
    """What polkit is asked about; config/polkit/org.kexecd.policy says who may."""

    INSPECT = "org.kexecd.inspect"
    LOAD = "org.kexecd.load"
    UNLOAD = "org.kexecd.unload"
    CANCEL = "org.kexecd.cancel"
    REBOOT = "org.kexecd.reboot"
    REBOOT_FAST = "org.kexecd.reboot-fast"
    REBOOT_NOW = "org.kexecd.reboot-now"


ACTION_OF = {Way.ORDERLY: Action.REBOOT, Way.FAST: Action.REBOOT_FAST, Way.NOW: Action.REBOOT_NOW}


class Unfit(Exception):
    """Arguments that make no sense; the message says which, and what would."""


@dataclass(frozen=True, slots=True)
class Wish:
    """argv: for kexecctl. entry: the id that is to be known before it runs; it is the last word then.

    seconds: how long it may take. interactive: whether a person may be asked for it.
    """

    action: Action
    argv: tuple[str, ...]
    seconds: float
    entry: str = ""
    interactive: bool = False


ENTRIES = Wish(Action.INSPECT, ("entries", "--json"), 60.0)

_INTERACTIVE = {"interactive": "b"}
_HOW = {"within": "d", "firmware": "b"} | _INTERACTIVE
"""The options that there are, and their types."""


def entries() -> Wish:
    return ENTRIES


def unload() -> Wish:
    return Wish(Action.UNLOAD, ("unload", "--json"), 60.0)


def cancel() -> Wish:
    return Wish(Action.CANCEL, ("cancel", "--json"), 120.0)


def load(entry: str, options: Mapping[str, Any]) -> Wish:
    """Raises Unfit."""
    given = _options(options, _INTERACTIVE)
    if len(entry) > LONGEST_ID:
        raise Unfit(f"an entry's id has at most {LONGEST_ID} characters")
    words = ("load", "--json", "--", entry) if entry else ("load", "--json")
    return Wish(Action.LOAD, words, 300.0, entry=entry, interactive=bool(given.get("interactive")))


def reboot(mode: str, options: Mapping[str, Any]) -> Wish:
    """Raises Unfit."""
    return _restart("reboot", mode, options, 600.0)


def plan(mode: str, options: Mapping[str, Any]) -> Wish:
    """Raises Unfit."""
    return _restart("plan", mode, options, 60.0)


def check(mode: str, options: Mapping[str, Any]) -> Wish:
    """Raises Unfit."""
    return _restart("check", mode, options, 60.0)


def _restart(command: str, mode: str, options: Mapping[str, Any], seconds: float) -> Wish:
    if mode not in tuple(Way):
        raise Unfit(f"there is no mode {_quoted(mode)}; it is one of {', '.join(Way)}")
    way, given = Way(mode), _options(options, _HOW)
    words = [command, "--json"]
    if way is not Way.ORDERLY:
        words.append(f"--{way}")
    if given.get("firmware"):
        words.append("--firmware")
    if "within" in given:
        within = float(given["within"])
        if not 0 < within <= 3600:  # nor is it that of what is not a number
            raise Unfit("the option within takes 1 to 3600 seconds")
        words.append(f"--within={within!r}")
    action = ACTION_OF[way] if command == "reboot" else Action.INSPECT
    return Wish(action, tuple(words), seconds, interactive=bool(given.get("interactive")))


def _options(options: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """The values without their types. Raises Unfit."""
    given = {}
    for name, (kind, value) in options.items():
        if name not in known:
            raise Unfit(f"there is no option {_quoted(name)}; there are {', '.join(known)}")
        if kind != known[name]:
            raise Unfit(f"the option {name} has the type {known[name]}, not {_quoted(kind)}")
        given[name] = value
    return given


def _quoted(text: str) -> str:
    """What a caller has said, for a sentence."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
