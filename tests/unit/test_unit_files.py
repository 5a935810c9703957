# SPDX-License-Identifier: MIT
"""Which units only PID 1 can stop as they want to be stopped, by their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.init.unit_files import wishes

PLAIN = "[Unit]\nDescription=web\n[Service]\nExecStart=/usr/bin/web\nRestart=always\n"


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_one_that_a_term_is_enough_for_does_not(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/systemd/system/web.service", PLAIN)
    assert not wishes("web.service", str(tmp_path)).pid_1


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("ExecStop=/usr/bin/web quit", True),
        ("ExecStopPost=-/bin/rm /run/web", True),
        ("KillSignal=SIGQUIT", True),
        ("KillMode=mixed", True),
        ("SendSIGHUP=yes", True),
        ("  ExecStop = /usr/bin/web quit", True),
        ("KillSignal=SIGTERM", False),
        ("KillMode=control-group", False),
        ("KillMode=process", False),
        ("SendSIGHUP=no", False),
        ("ExecStop=", False),
        ("#ExecStop=/usr/bin/web quit", False),
        ("ExecReload=/bin/kill -HUP $MAINPID", False),
    ],
)
def test_each_setting_counts_unless_it_is_what_a_term_does(tmp_path: Path, line: str, needed: bool) -> None:
    put(tmp_path, "usr/lib/systemd/system/web.service", f"{PLAIN}{line}\n")
    assert wishes("web.service", str(tmp_path)).pid_1 is needed


@pytest.mark.parametrize(
    ("unit", "file", "dropin"),
    [
        ("web.service", "usr/lib/systemd/system/web.service", "etc/systemd/system/web.service.d/stop.conf"),
        ("web.service", "usr/lib/systemd/system/web.service", "run/systemd/system/service.d/all.conf"),
        ("my-web.service", "etc/systemd/system/my-web.service", "etc/systemd/system/my-.service.d/all.conf"),
        ("web@one.service", "usr/lib/systemd/system/web@.service", "etc/systemd/system/web@.service.d/stop.conf"),
        ("web@one.service", "usr/lib/systemd/system/web@.service", "etc/systemd/system/web@one.service.d/stop.conf"),
        ("run-1.scope", "run/systemd/transient/run-1.scope", "run/systemd/transient/run-1.scope.d/50-x.conf"),
    ],
)
def test_drop_ins_count_wherever_systemd_would_look_for_them(
    tmp_path: Path, unit: str, file: str, dropin: str
) -> None:
    put(tmp_path, file, PLAIN)
    assert not wishes(unit, str(tmp_path)).pid_1
    put(tmp_path, dropin, "[Service]\nExecStop=/bin/true\n")
    assert wishes(unit, str(tmp_path)).pid_1


def test_one_whose_file_is_not_found_or_cannot_be_read_does(tmp_path: Path) -> None:
    assert wishes("gone.service", str(tmp_path)).pid_1
    (tmp_path / "etc/systemd/system/odd.service").mkdir(parents=True)
    assert wishes("odd.service", str(tmp_path)).pid_1


@pytest.mark.parametrize(
    ("unit", "needed"),
    [("systemd-logind.service", False), ("systemd-random-seed.service", True), ("systemd-udevd.service", True)],
)
def test_the_units_of_a_real_systemd(unit: str, needed: bool) -> None:
    assert wishes(unit).pid_1 is needed


@pytest.mark.parametrize(("line", "ground"), [("DefaultDependencies=no", True), ("DefaultDependencies=yes", False)])
def test_what_others_stand_on_says_so(tmp_path: Path, line: str, ground: bool) -> None:
    put(tmp_path, "usr/lib/systemd/system/blk-availability.service", f"[Unit]\n{line}\n[Service]\nExecStop=/bin/true\n")
    assert wishes("blk-availability.service", str(tmp_path)).ground is ground
