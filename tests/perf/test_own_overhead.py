# SPDX-License-Identifier: MIT
"""What kexecd itself costs: a real `kexecctl reboot --fast` with nothing to quit, from its start to the act.

User and system time of kexecctl and of everybody that it starts, and the least of several runs: on a machine with one
core that is how long it takes, disks and firmware apart. One that is slow may take longer (tests/perf/peer.py).
Not a word of it is faked (tests/private_machine.py), but that the kernel then has no image: the firmware is the act.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.perf.peer import slowness
from tests.private_machine import make_disk, walk

RUNS = 5
BUDGET = 300  # milliseconds, on the usual machine

pytestmark = pytest.mark.perf


def test_the_way_down_with_nothing_to_quit_stays_inside_its_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = make_disk(tmp_path)
    runs = [walk(disk, "reboot", "--fast") for _ in range(RUNS)]
    least = min(run.milliseconds for run in runs)
    most = BUDGET * slowness()
    with capsys.disabled():
        print(f"\nkexecctl reboot --fast, nothing to quit: {least:.0f} ms of CPU, of {most:.0f} ms")
    for run in runs:
        assert "commit point" in run.said and "verdict: clean" in run.said, run.said
        assert run.restarted, run.said
    assert 10 < least <= most  # nobody does it in less than Python needs to begin
