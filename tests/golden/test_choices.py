# SPDX-License-Identifier: MIT
"""What is chosen in each golden tree, all sources together, against what its choice.json says.

As in test_bls_trees.py, the expectations were reasoned by hand: from the tree's ORIGIN, its boot loader's files and
docs/choosing.md. Where nothing is chosen all but the reason is null. `cmdline` is what would be loaded, without a
nonce, on a machine that runs with RUNNING. The kernel that runs is none of any tree: no choice may hang on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from kexecd.cli.choosing import Look, look
from kexecd.cli.entries import as_json
from kexecd.kernel import sysfs
from kexecd.target import command_line
from tests.golden.test_bls_trees import MACHINE, TREES, as_text

RUNNING = r"BOOT_IMAGE=/vmlinuz root=UUID=running ro quiet initrd=\initrd kexecd.nonce=of-the-last-time"

ALL = sorted(path.name for path in TREES.iterdir())


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysfs, "architecture", lambda: MACHINE)
    monkeypatch.setattr(sysfs, "kernel_release", lambda: "5.4.0-elsewhere")


def root(tree: str) -> str:
    return str(TREES / tree / "root")


def chosen(seen: Look) -> dict[str, Any]:
    entry = seen.choice.entry
    if entry is None:
        nothing = dict.fromkeys(("id", "version", "kernel", "cmdline"))
        return {**nothing, "initrd": [], "reason": seen.choice.reason}
    return {
        "id": entry.id,
        "version": entry.version,
        "kernel": entry.kernel,
        "initrd": list(entry.initrds),
        "cmdline": command_line(entry, seen.settings, running_cmdline=RUNNING, root=seen.root),
        "reason": seen.choice.reason,
    }


@pytest.mark.parametrize("tree", ALL)
def test_what_a_tree_expects_is_chosen(tree: str) -> None:
    wanted = json.loads((TREES / tree / "choice.json").read_text(encoding="utf-8"))
    assert as_text(chosen(look(root(tree)))) == as_text(wanted)


@pytest.mark.parametrize("tree", ALL)
def test_what_the_boot_loader_would_boot_is_no_difference_to_it(tree: str) -> None:
    seen = look(root(tree))
    loader: Any = as_json(seen)["boot_loader"]
    assert loader is None or seen.choice.entry is None or not loader["differs"]


@pytest.mark.parametrize("tree", ALL)
def test_every_entry_has_its_reason(tree: str) -> None:
    seen = look(root(tree))
    others = [entry.id for entry in seen.entries if entry != seen.choice.entry]
    assert [name for name, why in seen.choice.losers if why] == others


class Reversed:
    """What os.scandir() gives, the other way round."""

    def __init__(self, items: list[os.DirEntry[str]]) -> None:
        self.items = items

    def __enter__(self) -> Iterator[os.DirEntry[str]]:
        return reversed(self.items)

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("tree", ALL)
def test_the_order_of_a_directory_changes_nothing(tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = as_json(look(root(tree)))
    listdir, scandir = os.listdir, os.scandir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path)))
    monkeypatch.setattr(os, "scandir", lambda path: Reversed(sorted(scandir(path), key=lambda item: item.name)[::-1]))
    assert as_json(look(root(tree))) == there
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    monkeypatch.setattr(os, "scandir", lambda path: Reversed(sorted(scandir(path), key=lambda item: item.name)))
    assert as_json(look(root(tree))) == there


def test_each_tree_says_where_it_is_from() -> None:
    assert not [tree for tree in ALL if not (TREES / tree / "ORIGIN").is_file()]
    assert len(ALL) >= 51
