# SPDX-License-Identifier: MIT
"""A check, what it sees, and what comes of it.

A check yields a Flaw for each thing that it does not like. What that means is the check's severity, unless the flaw
itself or the administrator (kexecd.config.checks) says otherwise; a flaw with a meaning is a Finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from kexecd.config.checks import CheckId
from kexecd.errors import ExitCode, Refusal
from kexecd.preflight.facts import Facts


class Severity(StrEnum):
    """The worst first."""

    REFUSE = "refuse"  # no kexec
    WARN = "warn"  # something may be lost or may not come back; whoever asks for the restart is told
    NOTE = "note"  # good to know


class Scope(StrEnum):
    """When a check is made; `kexecctl check` makes all of them."""

    LOAD = "load"  # before an image is loaded, whoever loads it
    RESTART = "restart"  # before a restart that kexecctl is asked for, also into an image that is in memory
    BOTH = "both"  # it looks at the image in question: before its load, or when it is in memory already


@dataclass(frozen=True, slots=True)
class Flaw:
    """why: a sentence without a full stop. remedy: what to do about it, the same.

    severity, code: where they are others than the check's own. evidence: where it is written that this happens.
    """

    why: str
    remedy: str
    severity: Severity | None = None
    code: ExitCode | None = None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """what: what it looks at. code: the exit code of its refusal; by itself that of what this system forbids."""

    id: CheckId
    severity: Severity
    scope: Scope
    what: str
    look: Callable[[Facts], Iterable[Flaw]]
    code: ExitCode = ExitCode.FORBIDDEN


@dataclass(frozen=True, slots=True)
class Finding:
    """origin: what made it this severe: `file:line` of kexecd.yaml; empty where that is the check itself."""

    check: CheckId
    severity: Severity
    why: str
    remedy: str
    code: ExitCode
    evidence: tuple[str, ...] = ()
    origin: str = ""

    def as_json(self) -> dict[str, object]:
        return {
            "check": str(self.check),
            "severity": str(self.severity),
            "why": self.why,
            "remedy": self.remedy,
            "exit": self.code.label if self.severity is Severity.REFUSE else None,
            "evidence": list(self.evidence),
            "origin": self.origin or None,
        }


class CheckFailed(Refusal):
    """A check's finding forbids it; `finding` is the first that does."""

    def __init__(self, what: str, finding: Finding) -> None:
        self.finding = finding
        hint = f"{finding.remedy}; `--ignore {finding.check}` goes on all the same"
        super().__init__(what, f"{finding.why} (check {finding.check})", hint=hint, exit_code=finding.code)
