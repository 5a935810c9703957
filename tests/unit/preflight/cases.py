# SPDX-License-Identifier: MIT
"""What makes each check fire, and what comes close to it and does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kexecd.config.checks import CheckId
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Severity
from tests.namespaces.isolated import isolated
from tests.unit.preflight.machine import Machine

Build = Callable[[Machine], Facts]


@dataclass(frozen=True)
class Case:
    """says: a part of what the finding says. severity: of the first; None: the check is to stay silent."""

    check: CheckId
    build: Build
    severity: Severity | None = None
    says: str = ""

    def made(self, machine: Machine, look: Callable[[Facts], None]) -> None:
        """Build it, and have it looked at, in the same place."""

        def body() -> None:
            look(self.build(machine))

        (isolated(body) if self.check in MOUNTS else body)()

    @property
    def name(self) -> str:
        return f"{self.check}: {self.build.__name__.strip('_').replace('_', ' ')}"


CASES: list[Case] = []

MOUNTS = frozenset((CheckId.RECORD_SPACE,))
"""Whose cases mount something, so that they are made in a namespace of their own."""


def fires(check: CheckId, severity: Severity, says: str) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        CASES.append(Case(check, build, severity, says))
        return build

    return register


def silent(*checks: CheckId) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        CASES.extend(Case(check, build) for check in checks)
        return build

    return register
