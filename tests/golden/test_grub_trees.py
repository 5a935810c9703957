# SPDX-License-Identifier: MIT
"""What is found in the golden trees with a grub.cfg, against what their grub.json says.

Each tree has an ORIGIN. As in test_bls_trees.py, the expectations were reasoned by hand. grub-script-check 2.06 took
each grub.cfg, and grub-emu 2.06 came to the same `next` in each but Fedora's, whose `blscfg` it does not have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from kexecd.discover import bls
from kexecd.discover.grub import source
from kexecd.model import BootEntry
from tests.golden.test_bls_trees import TREES, as_text, told, trees

LARGEST = 40 << 10  # bytes of all files of a tree


def entries_of_bls(root: str, variables: Mapping[str, str]) -> tuple[BootEntry, ...]:
    return bls.grub_order(bls.entries(root, variables))


@pytest.mark.parametrize("tree", trees("grub.json"))
def test_the_menu_of_a_tree_is_found(tree: str) -> None:
    wanted = json.loads((TREES / tree / "grub.json").read_text(encoding="utf-8"))
    root = str(TREES / tree / "root")
    found = source.find(root, bls=lambda variables: entries_of_bls(root, variables), arch="x86_64")
    assert found is not None
    result = {"entries": [told(entry) for entry in found.entries], "next": found.next, "reason": found.reason}
    result |= {"problems": list(found.problems)} if found.problems else {}
    assert as_text(result) == as_text(wanted)


@pytest.mark.parametrize("tree", trees("grub.json"))
def test_a_tree_is_small_and_says_where_it_is_from(tree: str) -> None:
    assert (TREES / tree / "ORIGIN").read_text(encoding="utf-8")
    files = [path for path in Path(TREES / tree).rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < LARGEST


def test_there_are_trees() -> None:
    assert len(trees("grub.json")) >= 14
