# SPDX-License-Identifier: MIT
"""What whoever waits for a restart does for practice: nobody and nothing is the worse for it."""

from __future__ import annotations

import os
import signal
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from kexecd.cli import practice
from kexecd.cli.draft import Draft
from kexecd.config.policy import Policy
from kexecd.init.none import NoInit
from kexecd.kernel import proc
from kexecd.model import Act, FileRecord, ImageRecord, LoadMethod, Plan, Way
from kexecd.report import down
from tests.namespaces.isolated import isolated


def draft(options: Namespace) -> Draft:
    del options
    return Draft(NoInit("none"), Policy(), Plan(Way.FAST, Act.KEXEC, 10.0, ()), None, None)


def loaded() -> ImageRecord:
    return ImageRecord("id", "6.1", FileRecord("/boot/vmlinuz", 1, ""), (), "", "n", LoadMethod.KEXEC_FILE_LOAD, 0.0)


@isolated
def test_only_a_volunteer_is_asked_to_quit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(practice, "loaded_record", loaded)
    monkeypatch.setattr(practice, "draw_up", draft)
    monkeypatch.setattr(practice, "RUN_DIR", str(tmp_path))
    ended, waitpid = list[int](), os.waitpid

    def spy(pid: int, options: int) -> tuple[int, int]:
        ended.append(waitpid(pid, options)[1])
        return pid, ended[-1]

    monkeypatch.setattr(os, "waitpid", spy)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as bystander:
        practice.go_down(Namespace(), workers=2)
        assert [os.WTERMSIG(status) for status in ended if os.WIFSIGNALED(status)] == [signal.SIGTERM]
        assert bystander.poll() is None
        assert not os.listdir(tmp_path)
        assert [process.name for process in proc.scan() if process.ppid == os.getpid()] == ["sleep"]
        bystander.kill()


def test_what_is_written_down_for_practice_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(practice, "loaded_record", loaded)
    (tmp_path / "events.jsonl").write_text('{"kind": "note"}\n', encoding="ascii")
    keep, there = down.keep, list[str]()

    def spy(run_dir: str, nonce: str, way: Way, state_dir: str) -> None:
        keep(run_dir, nonce, way, state_dir)
        there.extend(sorted(os.listdir(state_dir)))

    monkeypatch.setattr(down, "keep", spy)
    practice.write_down(str(tmp_path))
    assert there == ["down.json", "pending.json"]
    assert os.listdir(tmp_path) == ["events.jsonl"]
