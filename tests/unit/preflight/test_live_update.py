# SPDX-License-Identifier: MIT
"""Whose live update sessions a restart would lose; PID 1 is a real one, of a namespace of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from kexecd.kernel import proc
from kexecd.model import Way
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.permission import live_update
from tests.namespaces.isolated import isolated
from tests.unit.preflight.machine import Machine


@pytest.mark.parametrize(("way", "lost"), [(Way.ORDERLY, 0), (Way.FAST, 1), (Way.NOW, 1)])
def test_pid_1_hands_its_own_sessions_on_but_only_on_its_own_way_down(tmp_path: Path, way: Way, lost: int) -> None:
    with ExitStack() as opened:
        machine = Machine(tmp_path, opened)
        opened.enter_context(machine.write("/dev/liveupdate").open())

        @isolated
        def inside() -> None:
            first = proc.read(1)  # has it from us, as everybody in there
            assert first
            facts = Facts(machine.root, Subject(way=way), processes=(first,), alive=True)
            assert len(list(live_update(facts))) == lost

        inside()
