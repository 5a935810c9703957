# SPDX-License-Identifier: MIT
"""With a kernel that has live update: nothing is copied, on systemd and on Gentoo's OpenRC with its own PID 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.oracle import Restart
from tests.vm.liveupdate import stage

KEYS = 100_000
WAYS: tuple[tuple[str, ...], ...] = (("--fast",), (), ("--fast",))
"""Not --now: this kernel has no SysRq, without which nobody closes a disk under those who write to it."""


@pytest.fixture(params=[stage.SYSTEMD, stage.OPENRC], ids=lambda recipe: recipe.name)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    with stage.start(request.param, tmp_path, live=True) as one:
        yield one


def test_a_hundred_thousand_keys_survive_three_kexecs_by_memory_and_three_by_file(guest: Guest) -> None:
    stage.fill(guest, KEYS)
    before = stage.table(guest)
    assert (before.keys, before.writes) == (KEYS, KEYS)
    kernel = ("--kernel", stage.KERNEL)
    for words in WAYS:
        _arrives(guest, before, "memory", stage.restart(guest, *words, load=kernel))
    for words in WAYS:
        _arrives(guest, before, "file", stage.restart(guest, *words, load=(*kernel, "--append", "kho=off")))
        assert "kho=off" in guest.cmdline()
    _arrives(guest, before, "file", stage.restart(guest, "--fast", load=kernel))
    assert "kho=off" not in guest.cmdline(), "it was for one boot"


@pytest.mark.parametrize("words", [("--fast",), ()], ids=["fast", "orderly"])
def test_what_was_acknowledged_last_is_there(guest: Guest, words: tuple[str, ...]) -> None:
    stage.begin(guest, "writer")
    seen = stage.restart(guest, *words)
    assert seen.kind is Kind.KEXEC, seen.explain()
    acknowledged = int(guest.get(stage.LAST).decode())
    assert acknowledged > 10
    assert stage.shell(guest, "get", "last") in (f"VALUE {acknowledged}", f"VALUE {acknowledged + 1}")
    assert stage.status(guest)["carrier"] == "memory"


def _arrives(guest: Guest, before: stage.Sum, carrier: str, seen: Restart) -> None:
    assert (seen.kind, seen.recovered) == (Kind.KEXEC, ()), seen.explain()
    assert stage.table(guest) == before
    told = stage.status(guest)
    assert (told["carrier"], told["count"], told["lost"]) == (carrier, 1, []), told
