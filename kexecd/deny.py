# SPDX-License-Identifier: MIT
"""The deny list: kernels into which no kexec is made on this machine, because one has failed.

/var/lib/kexecd/deny.json. The same kernel is one with the same content; its version is compared only where one side has
no digest. The same machine is one with the same firmware (kexecd.kernel.machine): another version of that is another
chance.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

from kexecd.handoff import STATE_DIR, Unreadable
from kexecd.kernel import files

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

DENY = "deny.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """One kernel on one machine. since: seconds since the epoch. nonce: of the attempt that failed."""

    machine: str
    kernel_sha256: str
    version: str
    entry_id: str
    reason: str
    since: float
    nonce: str

    def is_of(self, machine: str, kernel_sha256: str, version: str) -> bool:
        """Whether it is about this kernel on this machine."""
        if self.machine != machine:
            return False
        if self.kernel_sha256 and kernel_sha256:
            return self.kernel_sha256 == kernel_sha256
        return bool(version) and self.version == version

    def is_called(self, which: str) -> bool:
        """Whether a person means it by `which`: the version, the entry, the nonce, or the digest's beginning."""
        digest = len(which) >= 8 and self.kernel_sha256.startswith(which)
        return which in (self.version, self.entry_id, self.nonce) or digest


def denials(state_dir: str = STATE_DIR) -> tuple[Denial, ...]:
    """Oldest first. Raises Unreadable: what was denied is not known then."""
    try:
        text = files.read_text(os.path.join(state_dir, DENY))
        return () if text is None else tuple(_denial(fields) for fields in json.loads(text)["denied"])
    except OSError as error:
        raise Unreadable(os.strerror(error.errno or 0).lower()) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unreadable("it is damaged") from error


def denied(machine: str, *, digest: Callable[[], str], version: str, state_dir: str = STATE_DIR) -> Denial | None:
    """The denial of this kernel on this machine, the newest. digest: asked for only if something is denied here.

    Raises Unreadable, and what `digest` does.
    """
    here = [denial for denial in denials(state_dir) if denial.machine == machine]
    sha256 = digest() if here else ""
    return next((denial for denial in reversed(here) if denial.is_of(machine, sha256, version)), None)


def add(denial: Denial, state_dir: str = STATE_DIR) -> None:
    """Instead of an earlier one of the same kernel. Raises OSError. Whoever calls it holds kexecd.handoff.locked."""
    try:
        before = denials(state_dir)
    except Unreadable:
        before = ()  # nobody can tell any more what it said; what is known now is better than nothing
    kernel = (denial.machine, denial.kernel_sha256, denial.version)
    others = [one for one in before if (one.machine, one.kernel_sha256, one.version) != kernel]
    _write((*others, denial), state_dir)


def forgive(which: str, state_dir: str = STATE_DIR) -> tuple[Denial, ...]:
    """Take off the list whatever is called so (Denial.is_called); returns it. Raises OSError and Unreadable."""
    before = denials(state_dir)
    forgiven = tuple(denial for denial in before if denial.is_called(which))
    if forgiven:
        _write(tuple(denial for denial in before if denial not in forgiven), state_dir)
    return forgiven


def forgive_all(state_dir: str = STATE_DIR) -> tuple[Denial, ...]:
    """Empty the list, whatever it is like; returns what it said. Raises OSError."""
    try:
        before = denials(state_dir)
    except Unreadable:
        before = ()
    if os.path.isdir(state_dir):
        files.remove(os.path.join(state_dir, DENY))
    return before


def _write(list_: tuple[Denial, ...], state_dir: str) -> None:
    record = {"schema": SCHEMA, "denied": [asdict(denial) for denial in list_]}
    files.write_json(os.path.join(state_dir, DENY), record, mode=0o600)


def _denial(fields: dict[str, Any]) -> Denial:
    return Denial(
        machine=str(fields["machine"]),
        kernel_sha256=str(fields["kernel_sha256"]),
        version=str(fields["version"]),
        entry_id=str(fields["entry_id"]),
        reason=str(fields["reason"]),
        since=float(fields["since"]),
        nonce=str(fields["nonce"]),
    )
