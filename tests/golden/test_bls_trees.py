# SPDX-License-Identifier: MIT
"""What is found in the golden trees with entries of the Boot Loader Specification, against what their bls.json says.

Each tree has an ORIGIN: the tools that made it, or the documented format that it was written from. The expectations
were reasoned by hand from the specification, and are not recorded output. With `variables` GRUB reads the entries,
without them systemd-boot does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kexecd.discover import bls, sdboot
from kexecd.model import BootEntry

TREES = Path(__file__).parent / "trees"
MACHINE = "x86_64"


def trees(expected: str) -> list[str]:
    return sorted(path.parent.name for path in TREES.glob(f"*/{expected}"))


def told(entry: BootEntry) -> dict[str, Any]:
    """An entry as the expectations spell it: what it does not have is left away."""
    fields = {
        "id": entry.id,
        "title": entry.title,
        "version": entry.version,
        "source": str(entry.source),
        "kernel": entry.kernel,
        "initrds": list(entry.initrds),
        "devicetree": entry.devicetree,
        "problems": list(entry.problems),
        "remarks": list(entry.remarks),
    }
    line = {} if entry.cmdline is None else {"cmdline": entry.cmdline}
    return {key: value for key, value in fields.items() if value} | line


def as_text(value: Any) -> str:
    """For a comparison whose difference can be read line by line."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def found(root: str, wanted: dict[str, Any]) -> dict[str, Any]:
    if "variables" in wanted:
        entries = bls.grub_order(bls.entries(root, wanted["variables"], machine=MACHINE))
        return {"variables": wanted["variables"], "entries": [told(entry) for entry in entries]}
    found = sdboot.find(root, machine=MACHINE)
    assert found is not None
    result = {
        "entries": [told(entry) for entry in found.entries],
        "next": found.next,
        "reason": found.reason,
        "runs": sdboot.runs(root),
    }
    return result | ({"problems": list(found.problems)} if found.problems else {})


@pytest.mark.parametrize("tree", trees("bls.json"))
def test_the_entries_of_a_tree_are_found(tree: str) -> None:
    wanted = json.loads((TREES / tree / "bls.json").read_text(encoding="utf-8"))
    assert as_text(found(str(TREES / tree / "root"), wanted)) == as_text(wanted)


def test_there_are_trees() -> None:
    assert len(trees("bls.json")) >= 10
