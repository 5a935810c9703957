# SPDX-License-Identifier: MIT
"""What the old kernel leaves for the new one: who asked for which restart, joined to the new boot by a nonce.

Written before the commit point, to a disk, because nothing else outlives the jump; the nonce rides on the new command
line, so that a boot by any other way cannot be taken for ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from kexecd.kernel import files, sysfs
from kexecd.model import NONCE_KEY, Way

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

STATE_DIR = "/var/lib/kexecd"
PENDING = "pending.json"


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
    seen_in: str = ""  # the boot in which `kexecctl finish` has told what became of it: it says nothing of later ones


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
    """Atomic, and on the disk when it returns. Raises OSError."""
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


def expected(state_dir: str = STATE_DIR) -> PendingHandoff | None:
    """What is written down now, as far as it can be read: what a restart that is given up puts back."""
    with contextlib.suppress(Unreadable):
        return read(state_dir)
    return None


def refuse(why: str, state_dir: str = STATE_DIR, *, now: Callable[[], float] = time.time) -> None:
    """Tell the next boot why the kexec that was meant is not done. Raises OSError."""
    pending, here = expected(state_dir), sysfs.boot_id()
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
    write(replace(pending, refused=why), state_dir)


def seen(state_dir: str = STATE_DIR) -> None:
    """This boot has been told what became of the request; those that follow have nothing to do with it. OSError."""
    pending = expected(state_dir)
    if pending and not pending.seen_in:
        write(replace(pending, seen_in=sysfs.boot_id()), state_dir)


def forget(state_dir: str = STATE_DIR) -> None:
    """The request is over, one way or the other. Raises OSError."""
    if os.path.isdir(state_dir):
        files.remove(os.path.join(state_dir, PENDING))


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
    if pending.nonce and pending.nonce in nonces:
        return Arrival(How.KEXEC, f"the command line carries {NONCE_KEY}={pending.nonce}", release, pending, passed)
    if pending.refused:
        return Arrival(How.OTHER, f"there was no kexec: {pending.refused}", release, pending, passed)
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
        refused=_text(fields, "refused") if "refused" in fields else "",  # an older kexecd's has neither
        seen_in=_text(fields, "seen_in") if "seen_in" in fields else "",
    )


def _text(fields: dict[str, Any], key: str) -> str:
    if not isinstance(fields[key], str):
        raise TypeError(key)
    return str(fields[key])
