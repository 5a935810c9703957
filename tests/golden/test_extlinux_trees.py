# SPDX-License-Identifier: MIT
"""What is found in the golden trees with extlinux.conf or syslinux.cfg, against what their extlinux.json says.

As in test_bls_trees.py, the expectations were reasoned by hand.
"""

from __future__ import annotations

import json

import pytest

from kexecd.discover import extlinux
from tests.golden.test_bls_trees import TREES, as_text, told, trees


@pytest.mark.parametrize("tree", trees("extlinux.json"))
def test_the_labels_of_a_tree_are_found(tree: str) -> None:
    wanted = json.loads((TREES / tree / "extlinux.json").read_text(encoding="utf-8"))
    found = extlinux.find(str(TREES / tree / "root"))
    assert found is not None
    result = {"entries": [told(entry) for entry in found.entries], "next": found.next, "reason": found.reason}
    result |= {"problems": list(found.problems)} if found.problems else {}
    assert as_text(result) == as_text(wanted)


def test_there_are_trees() -> None:
    assert len(trees("extlinux.json")) >= 4
