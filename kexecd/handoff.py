# SPDX-License-Identifier: MIT
"""What the old kernel leaves for the new one: who asked for which restart, joined to the new boot by a nonce.

Written before the commit point, to a disk, because nothing else outlives the jump; the nonce rides on the new command
line, so that a boot by any other way cannot be taken for ours.

The record is the attempt's as long as that is open: the new boot notes in it that it has come up, and why it gives
itself up where it does. What became of the attempt is told once (kexecd/wayback/settle.py); then `seen_in` is set.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from kexecd.kernel import files, flocks, sysfs
from kexecd.model import NONCE_KEY, Way

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

STATE_DIR = "/var/lib/kexecd"
PENDING = "pending.json"
ONE_SHOT = "one-shot.json"  # what kexecd.wayback.oneshot holds back

PATIENCE = 3.0
"""Seconds to wait for whoever has the records locked: that is over a few small writes. All who wait for it get 5 s and
more for the whole of what they do (kexecd.cli.service, kexecd.wayback), so that they still can say who has it."""

LONGEST = 600
"""Characters of a reason that are kept: a few lines of a kernel's last words, and no log."""


class How(StrEnum):
    """How this boot came about, as far as the last request tells."""

    NOT_YET = "not yet"  # it is still the boot that the restart was asked for in
    KEXEC = "kexec"
    OTHER = "other"  # restarted, but not by our jump: through the firmware, or into something else
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PendingHandoff:
    """A restart that has been asked for; /var/lib/kexecd/pending.json.

    Without a nonce: nothing was loaded for it, and the record is there for the reason alone.
    """

    nonce: str
    from_boot_id: str
    from_release: str
    to_entry_id: str
    to_version: str  # as `uname -r` is to say it; empty when not known
    way: Way
    requested_at: float  # seconds since the epoch
    refused: str = ""  # why there was to be no kexec after all; what was decided last before the restart
    seen_in: str = ""  # the boot in which it was told what became of this: it says nothing of later ones
    machine: str = ""  # kexecd.kernel.machine.fingerprint
    kernel_sha256: str = ""  # of the file that was loaded; empty where that is not known
    initrd_sha256: str = ""  # the same; of several, joined with `+` in their order
    limit: float = 0.0  # seconds from the new kernel's start in which it has to be confirmed; 0: nobody confirms it
    trial: bool = False  # asked for by `kexecctl try`
    foreign: bool = False  # into another installed system, which does not report here
    repair: bool = False  # for a person at the console: it never comes as far as to report
    one_shot: str = ""  # the one-shot choice of the boot loader that it has used up, as that calls it
    plan: tuple[str, ...] = ()  # the phases' names
    arrived_in: str = ""  # the boot that the jump led to, written by that boot
    arrived_at: float | None = None  # when its kernel started, in seconds since the epoch, by the clock of that boot
    failure: str = ""  # why the new boot gives itself up, written before it restarts

    @property
    def key(self) -> str:
        """What tells this attempt from every other: its nonce; without one, the boot that was left."""
        return self.nonce or self.from_boot_id

    @property
    def settled(self) -> bool:
        """Whether it has been told what became of it."""
        return bool(self.seen_in)


@dataclass(frozen=True, slots=True)
class Arrival:
    """This boot, seen from the last request.

    seconds: from the request to the start of this boot, by the wall clock; None where that cannot be told.
    """

    how: How
    reason: str
    release: str  # of the kernel that runs now
    pending: PendingHandoff | None = None
    seconds: float | None = None

    @property
    def from_release(self) -> str:
        return self.pending.from_release if self.pending else ""

    @property
    def as_planned(self) -> bool:
        """Whether the jump led into the version that it was meant to."""
        return self.how is How.KEXEC and self.pending is not None and self.pending.to_version in ("", self.release)

    def sentence(self) -> str:
        """For people: "kexec from 6.1.0, 12.3 s after it was asked for"."""
        if self.how is not How.KEXEC:
            return f"{self.how}: {self.reason}"
        when = "" if self.seconds is None else f", {self.seconds:.1f} s after it was asked for"
        wrong = "" if self.as_planned or not self.pending else f", though {self.pending.to_version} was to run"
        return f"kexec from {self.from_release}{when}{wrong}"


class Unreadable(ValueError):
    """The record is there and cannot be understood; the text says why."""


def new_nonce() -> str:
    return os.urandom(8).hex()


def write(pending: PendingHandoff, state_dir: str = STATE_DIR) -> None:
    """Atomic, and on the disk when it returns. Raises OSError. Whoever changes what was there holds `locked`."""
    files.write_json(os.path.join(state_dir, PENDING), asdict(pending), mode=0o600)


def read(state_dir: str = STATE_DIR) -> PendingHandoff | None:
    """None if no restart was asked for; raises Unreadable."""
    try:
        text = files.read_text(os.path.join(state_dir, PENDING))
        return None if text is None else _parse(json.loads(text))
    except OSError as error:
        raise Unreadable(os.strerror(error.errno or 0).lower()) from error
    except KeyError as error:
        raise Unreadable(f"it has no {error.args[0]}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable("it is damaged or cut short") from error


@contextlib.contextmanager
def locked(state_dir: str = STATE_DIR) -> Iterator[None]:
    """Nobody else changes the records in there meanwhile; not for two at once in one process.

    The kernel releases it when its holder ends. Raises OSError, of which kexecd.kernel.flocks.StillHeld is one.
    """
    os.makedirs(state_dir, mode=0o755, exist_ok=True)
    fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flocks.take(fd, state_dir, seconds=PATIENCE)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # not by closing alone: a child that was forked meanwhile has it open too
        os.close(fd)


def expected(state_dir: str = STATE_DIR) -> PendingHandoff | None:
    """What is written down now, as far as it can be read: what a restart that is given up puts back."""
    with contextlib.suppress(Unreadable):
        return read(state_dir)
    return None


def refuse(why: str, state_dir: str = STATE_DIR, *, now: Callable[[], float] = time.time) -> None:
    """Tell the next boot why the kexec that was meant is not done. Raises OSError.

    What the record says of an earlier attempt is gone then (kexecd.wayback.settle.tell_next_boot).
    """
    here = sysfs.boot_id()
    with locked(state_dir):
        pending = expected(state_dir)
        if pending is None or pending.from_boot_id != here:
            pending = PendingHandoff(
                nonce="",
                from_boot_id=here,
                from_release=sysfs.kernel_release(),
                to_entry_id="",
                to_version="",
                way=Way.ORDERLY,
                requested_at=now(),
            )
        write(replace(pending, refused=shortened(why)), state_dir)


def arrived(
    state_dir: str = STATE_DIR,
    *,
    root: str = "/",
    now: Callable[[], float] = time.time,
    uptime: Callable[[], float] = sysfs.uptime,
) -> PendingHandoff | None:
    """Note that this boot is the one that the open attempt led to; None if it is not, or there is none. OSError."""
    with locked(state_dir):
        pending = expected(state_dir)
        if pending is None or pending.settled or not is_arrival(pending, root):
            return None
        if not pending.arrived_in:
            pending = replace(pending, arrived_in=sysfs.boot_id(root), arrived_at=now() - uptime())
            write(pending, state_dir)
        return pending


def is_arrival(pending: PendingHandoff, root: str = "/") -> bool:
    """Whether this boot is the one that it led to.

    A later one may carry the nonce too: a crash kernel's, or one that others have loaded with our command line.
    """
    here = sysfs.boot_id(root)
    mine = bool(pending.nonce) and pending.nonce in _nonces(sysfs.running_cmdline(root))
    return mine and pending.from_boot_id != here and pending.arrived_in in ("", here)


def is_open_here(pending: PendingHandoff, root: str = "/") -> bool:
    """Whether it may still become what it is meant to: it was asked for in this boot, or led to it."""
    return pending.from_boot_id == sysfs.boot_id(root) or is_arrival(pending, root)


def give_up(why: str, state_dir: str = STATE_DIR, *, root: str = "/") -> None:
    """This boot, which the open attempt led to, gives itself up: tell the next one why. Raises OSError.

    What was said first stays: it is nearest to the cause.
    """
    arrived(state_dir, root=root)
    with locked(state_dir):
        pending = expected(state_dir)
        if pending and not pending.settled and not pending.failure and pending.arrived_in == sysfs.boot_id(root):
            write(replace(pending, failure=shortened(why)), state_dir)


def shortened(why: str) -> str:
    """A reason for the records: one line, and not longer than LONGEST."""
    line = " ".join(why.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def forget(state_dir: str = STATE_DIR) -> None:
    """The request is over, one way or the other. Raises OSError."""
    if os.path.isdir(state_dir):
        with locked(state_dir):
            files.remove(os.path.join(state_dir, PENDING))


def sweep(state_dir: str = STATE_DIR) -> None:
    """Take away what writes have left in there that were cut short. Raises OSError."""
    if os.path.isdir(state_dir):
        with locked(state_dir):
            files.sweep(state_dir)


def arrival(
    state_dir: str = STATE_DIR,
    *,
    root: str = "/",
    release: str = "",
    now: Callable[[], float] = time.time,
    uptime: Callable[[], float] = sysfs.uptime,
) -> Arrival:
    """What became of the last request. Raises nothing: this is asked early in a boot that must not fail on it.

    release: what runs now, unless it is this machine's kernel.
    """
    release = release or sysfs.kernel_release()
    nonces = _nonces(sysfs.running_cmdline(root))
    try:
        pending = read(state_dir)
    except Unreadable as error:
        return Arrival(How.UNKNOWN, f"{os.path.join(state_dir, PENDING)} cannot be read: {error}", release)
    here = sysfs.boot_id(root)
    if pending is None or pending.seen_in not in ("", here):
        left = "its record is gone" if nonces else "kexecd was not asked for it"
        return Arrival(How.UNKNOWN, left, release)
    if pending.from_boot_id == here:
        return Arrival(How.NOT_YET, "the restart that was asked for has not happened", release, pending)
    seconds = now() - uptime() - pending.requested_at
    passed = seconds if seconds >= 0 else None  # the clock was set in between
    if pending.nonce and pending.nonce in nonces and pending.arrived_in in ("", here):
        return Arrival(How.KEXEC, f"the command line carries {NONCE_KEY}={pending.nonce}", release, pending, passed)
    if pending.failure:
        return Arrival(How.OTHER, f"the kexec that was asked for failed: {pending.failure}", release, pending, passed)
    if pending.refused:
        return Arrival(How.OTHER, f"there was no kexec: {pending.refused}", release, pending, passed)
    if pending.arrived_in:
        why = "the kexec that was asked for led to an earlier boot, which was not confirmed"
        return Arrival(How.OTHER, why, release, pending, passed)
    other = "another nonce" if nonces else "no nonce: it came through the firmware, or from another kexec"
    reason = f"the jump that was asked for did not happen, since the command line carries {other}"
    return Arrival(How.OTHER, reason, release, pending, passed)


def _nonces(cmdline: str) -> frozenset[str]:
    """More than one where somebody reused our command line for theirs."""
    prefix = f"{NONCE_KEY}="
    return frozenset(word.removeprefix(prefix) for word in cmdline.split() if word.startswith(prefix))


def _parse(fields: Any) -> PendingHandoff:
    if not isinstance(fields, dict):
        raise TypeError("not an object")
    return PendingHandoff(
        nonce=_text(fields, "nonce"),
        from_boot_id=_text(fields, "from_boot_id"),
        from_release=_text(fields, "from_release"),
        to_entry_id=_text(fields, "to_entry_id"),
        to_version=_text(fields, "to_version"),
        way=Way(_text(fields, "way")),
        requested_at=float(fields["requested_at"]),
        # Of what follows an older kexecd's record has less.
        refused=_text(fields, "refused", ""),
        seen_in=_text(fields, "seen_in", ""),
        machine=_text(fields, "machine", ""),
        kernel_sha256=_text(fields, "kernel_sha256", ""),
        initrd_sha256=_text(fields, "initrd_sha256", ""),
        limit=float(fields.get("limit", 0.0)),
        trial=_flag(fields, "trial"),
        foreign=_flag(fields, "foreign"),
        repair=_flag(fields, "repair"),
        one_shot=_text(fields, "one_shot", ""),
        plan=_names(fields, "plan"),
        arrived_in=_text(fields, "arrived_in", ""),
        arrived_at=None if (at := fields.get("arrived_at")) is None else float(at),
        failure=_text(fields, "failure", ""),
    )


def _flag(fields: dict[str, Any], key: str) -> bool:
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise TypeError(key)
    return value


def _names(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    value = fields.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(key)
    return tuple(value)


def _text(fields: dict[str, Any], key: str, default: str | None = None) -> str:
    value = fields[key] if default is None else fields.get(key, default)
    if not isinstance(value, str):
        raise TypeError(key)
    return value
