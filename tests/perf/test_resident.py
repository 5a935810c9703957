# SPDX-License-Identifier: MIT
"""What the daemon saves: CPU time of the thin client, and the time from a request until nobody can take it back.

The first is user and system time of the client alone, as wait4(2) tells it. The second is what a clock shows, in a
private machine (tests/private_machine.py): nothing is faked but that the kernel has no image. The least of several
runs: the machine's own work beside it only ever adds.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.perf.peer import PYTHON, RUNS, milliseconds
from tests.private_machine import make_disk, walk
from tests.unit.resident import daemon

TOP = Path(__file__).parents[2]
CLIENT = f"""\
import sys; sys.path.insert(0, {str(TOP)!r})
from kexecd.cli.resident import ask
sys.exit(ask(["plan"], %r))
"""
CLIENT_SHARE = 2.0  # of an interpreter that does nothing

MEASURE = """\
import os, sys, time
if sys.argv[1] == "resident":
    if os.fork() == 0:
        os.execv("/usr/sbin/kexecd", ["kexecd"])
    while not os.path.exists("/run/kexecd/request"):
        time.sleep(0.05)
    time.sleep(0.2)
print("asked", time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)
os.execv("/usr/sbin/kexecctl", ["kexecctl", "reboot", "--fast", "--json"])
"""
WALKS = 5
COMMIT_SHARE = 0.6  # of what it takes without the daemon

pytestmark = pytest.mark.perf


def test_the_thin_client_takes_little_more_than_an_interpreter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(tmp_path, lambda words: 0) as there:
        programs = (CLIENT % there.door, "pass")
        runs = [[milliseconds((PYTHON, "-I", "-S", "-c", program)) for program in programs] for _ in range(RUNS + 1)]
    least, nothing = (min(times) for times in zip(*runs, strict=True))
    with capsys.disabled():
        print(f"\nthin client: {least:.1f} ms of CPU, Python doing nothing: {nothing:.1f} ms")
    assert nothing < least <= CLIENT_SHARE * nothing


def until_commit(disk: Path, how: str) -> float:
    """Milliseconds from just before kexecctl starts to the commit point."""
    said = walk(disk, how, program=("/usr/bin/python3", "/measure.py")).said
    lines = said.splitlines()
    asked = next(float(line.split()[1]) for line in lines if line.startswith("asked "))
    events = [json.loads(line) for line in lines if line.startswith('{"kind"')]
    commit = next((event["at"] for event in events if event["kind"] == "commit"), None)
    assert commit is not None, said
    return float(commit - asked) * 1000


def test_a_request_is_soon_past_the_commit_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "measure.py"
    script.write_text(MEASURE)
    disk = make_disk(tmp_path, {"/measure.py": script})
    resident = min(until_commit(disk, "resident") for _ in range(WALKS))
    alone = min(until_commit(disk, "alone") for _ in range(WALKS))
    with capsys.disabled():
        print(f"\nfrom kexecctl to the commit point: {resident:.0f} ms; alone: {alone:.0f} ms")
    assert resident <= COMMIT_SHARE * alone
