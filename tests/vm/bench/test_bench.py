# SPDX-License-Identifier: MIT
"""The parts of the benchmark that need no guest: what is made of the figures, and the processes of a load."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.vm.bench.contestants import CONTESTANTS, FAST, Contestant
from tests.vm.bench.crowd import program
from tests.vm.bench.loads import LOADS, Load
from tests.vm.bench.recipe import Pid1
from tests.vm.bench.results import Result, Row, as_json, goals, table

ORDERLY = next(one for one in CONTESTANTS if one.name == "systemctl kexec")
FORCED = next(one for one in CONTESTANTS if one.name == "systemctl kexec --force")
BARE = next(one for one in CONTESTANTS if one.careless)
BUSY = Load("busy", "2,000 processes", limit=100.0, orderly=20.0)


def row(*results: Result, load: Load = BUSY) -> Row:
    return Row(load, results)


def test_the_median_counts_and_others_are_measured_in_times_of_it() -> None:
    seen = row(Result(FAST, (1.0, 9.0, 2.0)), Result(ORDERLY, (50.0, 30.0, 40.0)))
    assert seen.results[0].seconds == 2.0
    assert seen.times(seen.results[1]) == 20.0
    assert [goal.met for goal in goals([seen])] == [True]


def test_who_was_not_there_in_time_took_longer_than_that() -> None:
    seen = row(Result(FAST, (4.0,)), Result(ORDERLY, (), "over 100 s"))
    assert seen.times(seen.results[1]) == 25.0
    assert ">100.00  >25.0 x" in table([seen])
    assert [goal.met for goal in goals([seen])] == [True]


def test_a_promise_that_is_not_kept_is_told() -> None:
    seen = row(Result(FAST, (4.0,)), Result(ORDERLY, (79.0,)), Result(FORCED, (7.9,)))
    assert [(goal.text, goal.met) for goal in goals([seen])] == [
        ("busy: systemctl kexec takes at least 20 times as long", False),
        ("busy: systemctl kexec --force takes at least 2 times as long", False),
    ]


def test_no_promise_is_kept_by_a_kexecd_that_did_not_get_there() -> None:
    seen = row(Result(FAST, (), "went through the firmware"), Result(ORDERLY, (96.0,)))
    assert [goal.met for goal in goals([seen])] == [False]
    assert "went through the firmware" in table([seen])


def test_who_closes_no_disk_is_shown_and_nobody_is_measured_against_it() -> None:
    seen = row(Result(FAST, (1.0,)), Result(BARE, (0.1,)))
    assert not goals([seen])
    assert "kexec -e" in table([seen])


def test_each_machine_has_its_own_measure() -> None:
    there = Contestant(FAST.name, Pid1.SYSVINIT, FAST.command, ours=True)
    scripts = next(one for one in CONTESTANTS if one.pid1 is Pid1.SYSVINIT and not one.ours)
    seen = row(Result(FAST, (1.0,)), Result(there, (10.0,)), Result(scripts, (30.0,)))
    assert seen.times(seen.results[2]) == 3.0


def test_the_json_says_what_the_table_says() -> None:
    seen = row(Result(FAST, (2.0,)), Result(ORDERLY, (50.0,)))
    record = as_json([seen], "tcg")
    common = {"pid1": "systemd", "down": None, "failed": ""}
    assert record["rows"] == [
        {
            "name": "busy",
            "title": "2,000 processes",
            "contestants": [
                {"name": FAST.name, **common, "runs": [2.0], "seconds": 2.0, "times": 1.0},
                {"name": ORDERLY.name, **common, "runs": [50.0], "seconds": 50.0, "times": 25.0},
            ],
        }
    ]


def test_every_row_is_run_by_kexecd_on_both_machines() -> None:
    assert {one.pid1 for one in CONTESTANTS if one.name == FAST.name} == set(Pid1)
    assert {load.name for load in LOADS} == {"idle", "busy", "crowded", "disks"}


def test_a_crowd_is_as_many_processes_as_it_says_and_term_ends_them(tmp_path: Path) -> None:
    file = tmp_path / "crowd"
    file.write_bytes(program(7))
    file.chmod(0o755)
    first = subprocess.Popen([file], start_new_session=True)
    try:
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
        while first.poll() is None and len(children.read_text().split()) < 6:
            os.sched_yield()
        assert len(children.read_text().split()) == 6
    finally:
        os.killpg(first.pid, signal.SIGTERM)
    assert first.wait(10) == -signal.SIGTERM
