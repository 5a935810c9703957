# SPDX-License-Identifier: MIT
"""Who would quit, as `kexecctl plan` prints it."""

from __future__ import annotations

import pytest

from kexecd.cli import plan
from kexecd.model import Process, ProcessClass
from kexecd.teardown.survey import Occupant


def occupant(pid: int, name: str, process_class: ProcessClass, *writing: str, mib: int = 1) -> Occupant:
    process = Process(pid, 1, pid, 0, 0, "S", name, 1, False)
    return Occupant(process, process_class, "root", f"{name}.service", mib << 20, writing)


def test_they_stand_class_by_class_with_those_who_write_first(capsys: pytest.CaptureFixture[str]) -> None:
    seen = (
        occupant(30, "cron", ProcessClass.SERVICE, mib=90),
        occupant(31, "mariadbd", ProcessClass.SERVICE, "/var/lib/mysql/ibdata1", "/b", "/c", "/d"),
        occupant(40, "bash", ProcessClass.SESSION),
    )
    plan._print_occupants(seen, 0)
    head, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["would", "quit", "pid", "user", "unit", "memory", "writing"]
    assert [row.split()[0] for row in rows] == ["1", "bash", "2", "mariadbd", "cron"]
    assert rows[3].split() == [
        "mariadbd", "31", "root", "mariadbd.service", "1.0", "MiB", "/var/lib/mysql/ibdata1,", "/b,", "/c", "and", "1",
        "more",
    ]  # fmt: skip


def test_many_are_counted_and_so_are_those_of_whom_nothing_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    plan._print_occupants([occupant(pid, "app", ProcessClass.REST) for pid in range(100, 150)], 4000)
    rows = capsys.readouterr().out.strip().splitlines()
    assert len(rows) == 2 + plan.MOST_OF_A_CLASS + 2
    assert rows[-2:] == [f"  and {50 - plan.MOST_OF_A_CLASS} more", "and 4000 more"]


def test_where_nobody_would_quit_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    plan._print_occupants((), 0)
    assert capsys.readouterr().out == ""


def test_a_name_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    plan._print_occupants([occupant(30, "\x1b[2J", ProcessClass.REST, "/tmp/\x07")], 0)
    assert not {"\x1b", "\x07"} & set(capsys.readouterr().out)
