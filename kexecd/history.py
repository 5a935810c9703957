# SPDX-License-Identifier: MIT
"""What became of each restart that was to be a kexec: /var/lib/kexecd/history.jsonl, one Attempt on a line.

A line is appended and is on the disk then; one that a power cut has torn is not read, and spoils none that follows. Of
more than MOST lines the newest MOST are kept. A later line about the same attempt replaces the earlier one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from kexecd.handoff import STATE_DIR
from kexecd.kernel import files
from kexecd.model import Way

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

HISTORY = "history.jsonl"
SCHEMA = 1

MOST = 1000
"""Lines; a machine that restarts every day fills them in three years."""

LARGEST = 16 << 20  # bytes that are read of it at most; MOST lines with the longest reasons are a tenth of it


class Outcome(StrEnum):
    """What became of an attempt."""

    CONFIRMED = "confirmed"  # the kernel that was meant came up, and was found healthy
    FAILED = "failed"  # there was a jump, or there may have been, and nobody confirmed what came of it
    REFUSED = "refused"  # no jump was tried: the reason is known, and is not the kernel's
    UNCONFIRMED = "unconfirmed"  # it came up, and was restarted in order before anybody could say how it did

    @property
    def was_kexec(self) -> bool:
        """Whether the new kernel ran, and was not given up."""
        return self in (Outcome.CONFIRMED, Outcome.UNCONFIRMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One restart that was to be a kexec, from the request to what became of it. Times: seconds since the epoch."""

    nonce: str  # of one that was refused before anything was loaded: empty
    outcome: Outcome
    reason: str  # a sentence without a full stop
    machine: str  # kexecd.kernel.machine.fingerprint
    from_release: str
    from_boot_id: str
    to_entry_id: str
    to_version: str
    kernel_sha256: str
    way: Way
    trial: bool
    requested_at: float
    arrived_at: float | None  # when the new kernel started; None where it never reported
    settled_at: float
    settled_in: str  # the boot in which this was written
    boot_id: str  # of the boot that the kexec led to; empty where that never reported

    @property
    def key(self) -> str:
        """What tells it from every other: its nonce; without one, the boot that was left."""
        return self.nonce or self.from_boot_id


def append(attempt: Attempt, state_dir: str = STATE_DIR) -> None:
    """On the disk when it returns. Raises OSError. Whoever calls it holds kexecd.handoff.locked."""
    path = os.path.join(state_dir, HISTORY)
    line = _line(attempt)
    os.makedirs(state_dir, mode=0o755, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(fd).st_size
        # What a power cut has torn off gets an end of its own, so that this line begins a new one.
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        _write_all(fd, b"\n" + line if torn else line)
        os.fsync(fd)
    finally:
        os.close(fd)
    if size == 0:
        files.sync_directory(state_dir)
    lines = _lines(state_dir)
    if len(lines) > MOST:
        files.write_atomic(path, b"".join(one + b"\n" for one in lines[-MOST:]), mode=0o600)


def attempts(state_dir: str = STATE_DIR) -> tuple[Attempt, ...]:
    """Oldest first, each once; empty where nothing can be read. What is not understood is left out."""
    found: dict[str, Attempt] = {}
    try:
        lines = _lines(state_dir)
    except OSError:
        return ()
    for line in lines:
        if attempt := _parse(line):
            found[attempt.key] = attempt
    return tuple(found.values())


def of(key: str, state_dir: str = STATE_DIR) -> Attempt | None:
    """The attempt with this nonce; see Attempt.key."""
    return next((attempt for attempt in reversed(attempts(state_dir)) if attempt.key == key), None)


def debt(past: Sequence[Attempt], boot: str) -> int:
    """How many kexecs led from the last boot that the firmware had its turn in to this one, as far as `past` tells.

    Each attempt names the boot that it left and the one that it led to; `boot` is the end of that chain.
    """
    into = {attempt.boot_id: attempt for attempt in past if attempt.outcome.was_kexec and attempt.boot_id}
    count = 0
    while attempt := into.pop(boot, None):
        count, boot = count + 1, attempt.from_boot_id
    return count


def _line(attempt: Attempt) -> bytes:
    return json.dumps({"schema": SCHEMA, **asdict(attempt)}, sort_keys=True).encode() + b"\n"


def _lines(state_dir: str) -> list[bytes]:
    """Raises OSError."""
    text = files.read_text(os.path.join(state_dir, HISTORY), limit=LARGEST) or ""
    return [line.encode(errors="surrogateescape") for line in text.split("\n") if line.strip("\0 ")]


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _parse(line: bytes) -> Attempt | None:
    """None for a line that was torn, or is of a later schema."""
    try:
        fields = json.loads(line)
        return _attempt(fields) if fields["schema"] == SCHEMA else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _attempt(fields: dict[str, Any]) -> Attempt:
    arrived = fields["arrived_at"]
    return Attempt(
        nonce=str(fields["nonce"]),
        outcome=Outcome(fields["outcome"]),
        reason=str(fields["reason"]),
        machine=str(fields["machine"]),
        from_release=str(fields["from_release"]),
        from_boot_id=str(fields["from_boot_id"]),
        to_entry_id=str(fields["to_entry_id"]),
        to_version=str(fields["to_version"]),
        kernel_sha256=str(fields["kernel_sha256"]),
        way=Way(fields["way"]),
        trial=bool(fields["trial"]),
        requested_at=float(fields["requested_at"]),
        arrived_at=None if arrived is None else float(arrived),
        settled_at=float(fields["settled_at"]),
        settled_in=str(fields["settled_in"]),
        boot_id=str(fields["boot_id"]),
    )
