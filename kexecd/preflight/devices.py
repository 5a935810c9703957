# SPDX-License-Identifier: MIT
"""Machines, hypervisors and drivers that are known not to survive a kexec: data/*.toml, each row with its evidence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kexecd.kernel import sysfs
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Flaw, Severity

DATA = os.path.join(os.path.dirname(__file__), "data")
DMI = "/sys/class/dmi/id"
NOT_DEVICES = frozenset(("bind", "unbind", "uevent", "new_id", "remove_id", "module"))
"""What there is besides links to devices in the directory of a driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """match: what has to be so for the row to count. bus: of a driver."""

    name: str
    severity: Severity
    why: str
    remedy: str
    evidence: tuple[str, ...]
    match: tuple[tuple[str, str], ...] = ()
    bus: str = ""

    def flaw(self) -> Flaw:
        return Flaw(self.why, self.remedy, self.severity, evidence=self.evidence)


def hypervisor(facts: Facts) -> Iterator[Flaw]:
    yield from _matching(facts, "hypervisors", lambda found, wanted: found == wanted)


def machine(facts: Facts) -> Iterator[Flaw]:
    yield from _matching(facts, "machines", str.startswith)


def drivers(facts: Facts) -> Iterator[Flaw]:
    for row in rows("drivers"):
        if set(facts.listing(f"/sys/bus/{row.bus}/drivers/{row.name}")) - NOT_DEVICES:
            yield row.flaw()


def rows(name: str) -> tuple[Row, ...]:
    """The rows of one of the files."""
    import tomllib  # late: of no use to a restart into an image that is in memory, as all that is imported so here

    with open(os.path.join(DATA, f"{name}.toml"), "rb") as file:
        return tuple(_row(fields) for fields in tomllib.load(file)["row"])


def _row(fields: dict[str, Any]) -> Row:
    return Row(
        name=fields["name"],
        severity=Severity(fields["severity"]),
        why=fields["why"],
        remedy=fields["remedy"],
        evidence=tuple(fields["evidence"]),
        match=tuple(fields.get("match", {}).items()),
        bus=fields.get("bus", ""),
    )


def _matching(facts: Facts, name: str, fits: Callable[[str, str], bool]) -> Iterator[Flaw]:
    for row in rows(name):
        if all(fits(_told(facts, key), wanted) for key, wanted in row.match):
            yield row.flaw()


def _told(facts: Facts, key: str) -> str:
    """What the machine says about itself."""
    match key:
        case "hypervisor":
            return facts.read("/sys/hypervisor/type")
        case "arch":
            return sysfs.architecture() if facts.alive else ""
        case "devicetree":
            return facts.read("/proc/device-tree/model").rstrip("\0")
        case "cpu":
            found = re.search(r"^model name\s*:\s*(.*)$", facts.read("/proc/cpuinfo"), re.MULTILINE)
            return found[1] if found else ""
        case _:
            return facts.read(f"{DMI}/{key}")
