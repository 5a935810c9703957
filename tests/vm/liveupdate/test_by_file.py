# SPDX-License-Identifier: MIT
"""With Debian's own kernel, which has no live update: what most machines have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.oracle import judge
from tests.vm.liveupdate import stage

KEYS = 100_000


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with stage.start(stage.SYSTEMD, tmp_path, live=False) as one:
        yield one


def test_a_hundred_thousand_keys_survive_three_kexecs_in_a_row(guest: Guest) -> None:
    stage.shell(guest, "fill", str(KEYS))
    before = stage.table(guest)
    assert (before.keys, before.writes) == (KEYS, KEYS)
    for words in (("--fast",), (), ("--now",)):
        seen = stage.restart(guest, *words)
        assert (seen.kind, seen.recovered) == (Kind.KEXEC, ()), seen.explain()
        assert stage.table(guest) == before, words
        told = stage.status(guest)
        assert (told["carrier"], told["count"], told["lost"]) == ("file", 1, []), told


@pytest.mark.parametrize("words", [("--fast",), ()], ids=["fast", "orderly"])
def test_what_was_acknowledged_last_is_there(guest: Guest, words: tuple[str, ...]) -> None:
    stage.begin(guest, "writer")
    seen = stage.restart(guest, *words)
    assert seen.kind is Kind.KEXEC, seen.explain()
    acknowledged = int(guest.get(stage.LAST).decode())
    assert acknowledged > 10
    assert stage.shell(guest, "get", "last") in (f"VALUE {acknowledged}", f"VALUE {acknowledged + 1}")


@pytest.mark.parametrize("command", ["kexecctl reboot --firmware", "reboot"])
def test_through_the_firmware_it_goes_as_well(guest: Guest, command: str) -> None:
    stage.shell(guest, "fill", "1000")
    before, old, mark = stage.table(guest), guest.boot_id(), guest.mark()
    guest.spawn("/bin/sh", "-c", command)
    seen = judge(guest, mark, None, old, timeout=180)
    assert seen.kind is Kind.FIRMWARE, seen.explain()
    assert stage.table(guest) == before
