# SPDX-License-Identifier: MIT
"""A restart that the daemon does is the one that kexecctl would have done, and ends like it, whoever dies meanwhile.

Each in a private machine that restarts, or does not (tests/private_machine.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.private_machine import Walk, make_disk, walk

BEGIN = """\
import json, os, signal, sys, time
how = sys.argv[1]
daemon = 0
if how != "alone":
    daemon = os.fork()
    if daemon == 0:
        os.execv("/usr/sbin/kexecd", ["kexecd"])
    while not os.path.exists("/run/kexecd/request"):
        time.sleep(0.05)
    time.sleep(0.0 if how.endswith("at once") else 3.0)  # until there is a hand
caller = os.fork()
if caller == 0:
    os.execv("/usr/sbin/kexecctl", ["kexecctl", "reboot", "--fast", "--json"])
if how.startswith("killed"):
    events, until = "/run/kexecd/events.jsonl", '"commit"' if "walker" in how else '"record"'
    while not os.path.exists(events) or until not in open(events).read():
        time.sleep(0.001)
    walker = int(json.load(open("/run/kexecd/lock"))["pid"])
    shower = open(f"/proc/{walker}/task/{walker}/children").read().split()[-2:-1]
    whom = {"caller": caller, "daemon": daemon, "walker": walker, "watcher": int(shower[0]) if shower else 0}
    os.kill(whom[how.split()[1]], signal.SIGKILL)
if how.startswith("killed daemon"):
    os.waitpid(caller, 0)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("resident")
    (directory / "begin.py").write_text(BEGIN)
    return make_disk(directory, {"/begin.py": directory / "begin.py"})


def walked(disk: Path, how: str) -> Walk:
    return walk(disk, how, program=("/usr/bin/python3", "/begin.py"))


def steps(said: str) -> list[tuple[str, str, str]]:
    """Every step that began: its phase, its name, and what it was going to do."""
    events = [json.loads(line) for line in said.splitlines() if line.startswith('{"kind"')]
    return [(event["phase"], event["step"], event["text"]) for event in events if event["kind"] == "step"]


@pytest.mark.parametrize("how", ["resident", "resident at once"])
def test_the_steps_are_those_that_kexecctl_alone_would_do(disk: Path, how: str) -> None:
    alone, resident = walked(disk, "alone"), walked(disk, how)
    assert alone.restarted and resident.restarted, resident.said
    assert steps(resident.said) == steps(alone.said)
    assert "verdict" in {phase for phase, _, _ in steps(resident.said)}, resident.said


@pytest.mark.parametrize("who", ["caller", "daemon", "walker", "watcher", "caller at once", "daemon at once"])
def test_whoever_is_killed_after_it_has_begun_the_machine_restarts(disk: Path, who: str) -> None:
    seen = walked(disk, f"killed {who}")
    assert seen.restarted, seen.said
    if who.startswith("daemon"):
        assert "verdict" in {phase for phase, _, _ in steps(seen.said)}, seen.said
