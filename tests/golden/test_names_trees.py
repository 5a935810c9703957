# SPDX-License-Identifier: MIT
"""What the sources that go by file names find in the golden trees, against what their names.json says.

Each tree has an ORIGIN: the tools that made it, or the documented names that it was written from. The expectations were
reasoned by hand from what those tools promise, and are not recorded output.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kexecd.discover import gentoo, installkernel, links, modules, pairs
from kexecd.discover.lookup import version_inside
from kexecd.model import BootEntry, Found
from tests.golden.kernels import initrd, kernel

TREES = Path(__file__).parent / "trees"
NAMED = sorted(path.parent.name for path in TREES.glob("*/names.json"))
SOURCES = ("gentoo", "installkernel", "links", "modules", "versioned")


def expected(tree: str) -> Any:
    return json.loads((TREES / tree / "names.json").read_text())


def find(source: str, tree: str) -> Found:
    wanted = expected(tree)
    finders: dict[str, Callable[[str], Found]] = {
        "gentoo": partial(gentoo.find, release=wanted["release"], machine=wanted["machine"]),
        "installkernel": installkernel.find,
        "links": links.find,
        "modules": modules.find,
        "versioned": pairs.find,
    }
    return finders[source](str(TREES / tree / "root"))


def as_json(entry: BootEntry) -> dict[str, object]:
    shown: dict[str, object] = {
        "id": entry.id,
        "version": entry.version,
        "kernel": entry.kernel,
        "initrds": list(entry.initrds),
        "problems": list(entry.problems),
    }
    return shown | ({"remarks": list(entry.remarks)} if entry.remarks else {})


@pytest.mark.parametrize("tree", NAMED)
@pytest.mark.parametrize("source", SOURCES)
def test_a_source_finds_what_the_tree_holds(source: str, tree: str) -> None:
    found = find(source, tree)
    assert {"next": found.next, "entries": [as_json(entry) for entry in found.entries]} == expected(tree)[source]
    assert found.problems == ()
    assert found.reason


@pytest.mark.parametrize("tree", NAMED)
def test_no_source_joins_a_kernel_with_the_initrd_of_another_version(tree: str) -> None:
    root = str(TREES / tree / "root")
    for source in SOURCES:
        for entry in find(source, tree).entries:
            inside = version_inside(entry.kernel, root)
            assert entry.version == inside
            assert {pairs.initrd_version(path, root) for path in entry.initrds} <= {"", inside}


@pytest.mark.parametrize("tree", NAMED)
def test_a_tree_says_where_it_comes_from_and_is_small(tree: str) -> None:
    assert (TREES / tree / "ORIGIN").read_text().strip()
    for path in (TREES / tree).rglob("*"):
        assert path.is_symlink() or not path.is_file() or path.stat().st_size < 5 << 10


def test_the_stand_ins_are_what_the_trees_hold() -> None:
    boot = TREES / "debian13" / "root" / "boot"
    assert (boot / "vmlinuz-6.12.117+deb13-cloud-amd64").read_bytes() == kernel("6.12.117+deb13-cloud-amd64")
    assert (boot / "initrd.img-6.12.117+deb13-cloud-amd64").read_bytes() == initrd()


def test_there_are_trees() -> None:
    assert len(NAMED) >= 13
