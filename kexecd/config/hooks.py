# SPDX-License-Identifier: MIT
"""The administrator's own steps: rows of `hooks:` in kexecd.yaml, and the executables in /etc/kexecd/hooks.d.

An executable is named `NN-name`, as run-parts(8) has it: 00 comes first, 50 is the default's place, 99 comes last. What
a package manager or an editor has left is passed over, and so is what is not executable; what could be run by mistake,
or could have been written by somebody else than root, is refused.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field, replace

from kexecd.config.hook_rows import HookCall, HookRow, OnFailure
from kexecd.config.policy import read_policy
from kexecd.config.rows import NAME, PRIORITIES
from kexecd.config.trust import Look, look
from kexecd.errors import BadConfig
from kexecd.kernel.files import join_root

DIRECTORY = "/etc/kexecd/hooks.d"

LEFTOVERS = (
    *(".dpkg-old", ".dpkg-new", ".dpkg-dist", ".dpkg-tmp", ".dpkg-bak", ".ucf-old", ".ucf-new", ".ucf-dist"),
    *(".rpmnew", ".rpmsave", ".rpmorig", ".pacnew", ".pacsave", ".apk-new", ".bak", ".old", ".orig", ".swp", "~"),
)
"""How the names end of what dpkg, rpm, pacman, apk and editors leave beside a file."""

KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One of them. command: an absolute path and its arguments. origin: its path, or file:line. timeout: seconds."""

    name: str
    command: tuple[str, ...]
    priority: int = PRIORITIES["DEFAULT"]
    timeout: float = 10.0
    on_failure: OnFailure = OnFailure.VETO
    calls: frozenset[HookCall] = frozenset(HookCall)
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Hooks:
    """hooks: in order. remarks: what was passed over and why, as sentences."""

    hooks: tuple[Hook, ...] = ()
    remarks: tuple[str, ...] = ()


def read_hooks(root: str = "/") -> tuple[Hook, ...]:
    """The hooks of the machine whose root directory is `root`, in order. Raises BadConfig, with every mistake."""
    return find_hooks(root).hooks


def find_hooks(root: str = "/") -> Hooks:
    """The same, with what was passed over."""
    reading = _Reading(root)
    rows = read_policy(root).hooks
    reading.directory()
    for row in rows:
        reading.row(row)
    if reading.mistakes:
        raise BadConfig("cannot take the hooks", "; ".join(reading.mistakes), hint="; ".join(reading.remedies))
    order = sorted(reading.hooks.values(), key=lambda hook: (hook.priority, hook.name))
    return Hooks(tuple(order), tuple(reading.remarks))


def priority_of(number: int) -> int:
    """What NN in a file's name stands for: 00 is FIRST, 50 is DEFAULT, 99 is LAST, and the steps between are even."""
    first, middle, last = PRIORITIES.values()
    if number <= 50:
        return first + number * (middle - first) // 50
    return middle + (number - 50) * (last - middle) // 49


@dataclass(slots=True)
class _Reading:
    """mistakes and remedies: each once, in the order in which they were found."""

    root: str
    hooks: dict[str, Hook] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    mistakes: dict[str, None] = field(default_factory=dict)
    remedies: dict[str, None] = field(default_factory=dict)

    def directory(self) -> None:
        try:
            seen = look(DIRECTORY, self.root)
            if not stat.S_ISDIR(seen.status.st_mode):
                self.mistake(f"{DIRECTORY} is not a directory")
                return
            self.judge(seen)
            names = sorted(os.listdir(join_root(self.root, DIRECTORY)))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise BadConfig(f"cannot read {DIRECTORY}", _strerror(error), errno=error.errno or 0) from error
        for name in names:
            if why := _foreign(name):
                self.remarks.append(f"{DIRECTORY}/{name} is passed over: {why}")
            else:
                self.executable(name)

    def executable(self, name: str) -> None:
        path = f"{DIRECTORY}/{name}"
        if not self.usable(path, path, optional=True):
            return
        number, short = _split(name)
        if number is None and re.match(r"\d+-", name):
            self.remarks.append(f"{path} has the default priority: its name does not begin with two digits and a `-`")
        priority = PRIORITIES["DEFAULT"] if number is None else priority_of(number)
        self.add(Hook(name=short, command=(path,), priority=priority, origin=path))

    def row(self, row: HookRow) -> None:
        """A hook of kexecd.yaml, or what is set there for an executable."""
        if row.command:
            if self.usable(row.command[0], f"{row.origin}: {row.command[0]}"):
                self.add(
                    Hook(
                        name=row.name,
                        command=row.command,
                        priority=row.priority,
                        timeout=row.timeout,
                        on_failure=row.on_failure,
                        calls=row.calls,
                        origin=row.origin,
                    )
                )
        elif known := self.hooks.get(row.name):
            self.hooks[row.name] = replace(known, timeout=row.timeout, on_failure=row.on_failure)
        else:
            self.mistake(f"{row.origin}: {row.name} has no command, and no executable in {DIRECTORY} has that name")

    def add(self, hook: Hook) -> None:
        if known := self.hooks.get(hook.name):
            self.mistake(f"{known.origin} and {hook.origin} are two hooks of the name {hook.name}")
        else:
            self.hooks[hook.name] = hook

    def usable(self, path: str, called: str, *, optional: bool = False) -> bool:
        """Whether it is a program that root alone decides about; one that is not executable may be no hook at all."""
        try:
            seen = look(path, self.root)
        except OSError as error:
            self.mistake(f"{called} cannot be used: {_strerror(error)}")
            return False
        mode = seen.status.st_mode
        if kind := next((kind for test, kind in KINDS if test(mode)), ""):
            self.mistake(f"{called} is {kind} and no program")
        elif not mode & 0o111 and optional:
            self.remarks.append(f"{path} is passed over: it is not executable")
        elif not mode & 0o111:
            self.mistake(f"{called} is not executable")
        else:
            self.judge(seen)
            return not seen.distrust
        return False

    def judge(self, seen: Look) -> None:
        for distrust in seen.distrust:
            self.mistake(distrust.why)
            self.remedies[distrust.remedy] = None

    def mistake(self, text: str) -> None:
        self.mistakes[text] = None


def _foreign(name: str) -> str:
    """Why a file of this name is no hook; empty if it may be one."""
    if name.startswith("."):
        return "it is hidden"
    if name.endswith(LEFTOVERS):
        return "it was left by a package manager or an editor"
    if not NAME.fullmatch(_split(name)[1]):
        return "its name is not made of 1 to 64 letters, digits, `_`, `.` and `-`"
    return ""


def _split(name: str) -> tuple[int | None, str]:
    """The number and the rest of `NN-name`; None where there is no number."""
    found = re.fullmatch(r"([0-9]{2})-(.+)", name, re.DOTALL)
    return (int(found[1]), found[2]) if found else (None, name)


def _strerror(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
