# SPDX-License-Identifier: MIT
"""Much memory in many pieces: live update takes note of it in no time, files take as long as the disk needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.lab.evidence import Kind
from tests.vm.liveupdate import stage
from tests.vm.liveupdate.many import alone, figure

MOST = 0.5
"""Seconds that live update may take of the way to the jump, in an emulated machine."""


def test_live_update_makes_the_way_to_the_jump_hardly_longer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = ("--kernel", stage.KERNEL)
    with stage.start(stage.SYSTEMD, tmp_path, live=True) as guest:
        alone(guest)
        # The first restart of a guest takes longer than any other.
        none = [figure(guest, held=False, load=kernel) for _ in range(2)]
        memory = [figure(guest, held=True, load=kernel) for _ in range(2)]
        files = figure(guest, held=True, load=(*kernel, "--append", "kho=off"))
    assert all(one.restart.kind is Kind.KEXEC for one in (*none, *memory, files))
    assert {one.carrier for one in memory} == {"memory"} and files.carrier == "file"
    least = min(one.seconds for one in none)
    with capsys.disabled():
        told = ", ".join(f"{one.carrier or 'nothing'} {one.seconds:.2f} s" for one in (*none, *memory, files))
        print(f"\nto the jump with 356 MiB in 101 memfds, by: {told}")
    assert min(one.seconds for one in memory) - least < MOST
