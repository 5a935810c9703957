# SPDX-License-Identifier: MIT
"""What becomes of the machine when kexecd itself breaks on the way down. Nothing here forks, detaches or restarts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from kexecd import handoff
from kexecd.cli import descent, reboot
from kexecd.cli.draft import Draft
from kexecd.config.policy import Policy
from kexecd.errors import NotRestarted, Refusal
from kexecd.executor import Executor
from kexecd.init.none import NoInit
from kexecd.model import Act, Plan, Way

DRAFT = Draft(NoInit("nobody"), Policy(), Plan(Way.FAST, Act.KEXEC, 10.0, ()), None, None)


@dataclass
class Scene:
    writer: int
    reader: int
    finished: list[Act] = field(default_factory=list)
    taken_back: int = 0

    def take_back(self) -> None:
        self.taken_back += 1

    def descend(self) -> None:
        descent._descend(DRAFT, force=False, take_back=self.take_back, watcher=self.writer)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    reader, writer = os.pipe()
    scene = Scene(writer, reader)
    monkeypatch.setattr(descent, "_detach", lambda: None)
    monkeypatch.setattr(descent, "open_quietly", lambda path, flags: ())
    monkeypatch.setattr(descent, "finish", lambda init, act, **options: scene.finished.append(act))
    yield scene
    os.close(reader)
    os.close(writer)


def breaks(monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> None:
    def run(self: Executor) -> None:
        self.committed = committed
        raise RuntimeError("a bug")

    monkeypatch.setattr(Executor, "run", run)


def test_a_bug_before_the_commit_point_leaves_the_machine_as_it_was(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, committed=False)
    scene.descend()
    assert (scene.finished, scene.taken_back) == ([], 1)
    told = json.loads(os.read(scene.reader, 4096))
    assert "a bug" in told["refused"]["why"] and told["exit"] == NotRestarted.exit_code


def test_a_bug_after_it_ends_in_a_restart_through_the_firmware(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, committed=True)
    scene.descend()
    assert (scene.finished, scene.taken_back) == ([Act.FIRMWARE], 0)


def test_a_line_that_was_cut_off_is_passed_over_by_whoever_watches() -> None:
    reader, writer = os.pipe()
    refusal = {"refused": NotRestarted("it was given up", "b: no room").as_json(), "exit": 14}
    os.write(writer, b'{"kind": "step", "te\n' + json.dumps(refusal).encode() + b"\n")
    os.close(writer)
    with pytest.raises(Refusal, match="no room"):
        descent._watch(reader, as_json=False)


def test_a_record_that_cannot_be_written_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    from kexecd.model import FileRecord, ImageRecord, LoadMethod

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handoff, "write", full)
    kernel = FileRecord("/boot/vmlinuz", 1, "")
    image = ImageRecord("id", "6.1", kernel, (), "", "n", LoadMethod.KEXEC_FILE_LOAD, 0.0)
    with pytest.raises(Refusal, match="ENOSPC"):
        reboot._write_pending(DRAFT, image)
