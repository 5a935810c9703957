# SPDX-License-Identifier: MIT
"""What becomes of the machine when kexecd itself breaks on the way down. Nothing here detaches or restarts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kexecd.cli import afterword, descent, steps
from kexecd.cli.descent import Attempt, Descent
from kexecd.cli.draft import Draft
from kexecd.config.policy import Policy
from kexecd.errors import NotRestarted, Refusal
from kexecd.executor import Executor
from kexecd.init import finish
from kexecd.init.none import NoInit
from kexecd.model import Act, Context, FileRecord, ImageRecord, LoadMethod, Phase, Plan, Running, Verdict, Way
from kexecd.wayback import begin

IMAGE = ImageRecord("id", "6.1", FileRecord("/boot/vmlinuz", 1, ""), (), "", "nonce", LoadMethod.KEXEC_FILE_LOAD, 0.0)


@dataclass(frozen=True)
class Look:
    """A step that finds everything clean, and remembers that it was there."""

    name: str
    log: list[str] = field(default_factory=list)

    def describe(self) -> str:
        return "look"

    def run(self, context: Context) -> Running:
        self.log.append(self.name)
        context.verdict = Verdict()
        yield from ()

    def undo(self) -> None:
        self.log.append(f"undo {self.name}")


@dataclass
class Scene:
    writer: int
    reader: int
    log: list[str] = field(default_factory=list)
    finished: list[Act] = field(default_factory=list)
    afterwords: list[str] = field(default_factory=list)

    def walk(self, attempt: Attempt = Attempt.WHOLE, *, hurried: bool = False) -> None:
        phases = (
            Phase("first", 1, "", (Look("first", self.log),)),
            Phase("down", 5000, "", (Look("down", self.log),), commit=True),
            Phase("last", 6000, "", (Look("last", self.log),)),
        )
        hurry = (Phase("close", 5000, "", (Look("close", self.log),), commit=True),)
        plan = Plan(Way.FAST, Act.KEXEC, 10.0, phases, () if hurried else hurry)
        draft = Draft(NoInit("nobody"), Policy(), plan, None, None)
        Descent(draft, force=False, watcher=self.writer, as_json=True).walk(attempt)

    def told(self) -> list[dict[str, object]]:
        lines = (line.removeprefix(descent.NUL) for line in os.read(self.reader, 1 << 16).splitlines())
        return [json.loads(line) for line in lines if line]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Scene]:
    reader, writer = os.pipe()
    scene = Scene(writer, reader)
    monkeypatch.setattr(descent, "_detach", lambda: None)
    monkeypatch.setattr(descent, "RUN_DIR", str(tmp_path))
    monkeypatch.setattr(descent, "open_quietly", lambda path, flags: ())
    monkeypatch.setattr(finish, "finish", lambda init, act, **options: scene.finished.append(act))
    monkeypatch.setattr(afterword, "write", lambda why, tell: scene.afterwords.append(why))
    yield scene
    os.close(reader)
    os.close(writer)


def test_the_whole_plan_ends_in_the_act_that_it_was_made_for(scene: Scene) -> None:
    scene.walk()
    assert (scene.log, scene.finished) == (["first", "down", "last"], [Act.KEXEC])


@pytest.mark.parametrize(
    ("attempt", "walked", "act"),
    [
        (Attempt.REST, ["down", "last"], Act.KEXEC),
        (Attempt.HURRY, ["close"], Act.KEXEC),
        (Attempt.BARE, [], Act.FIRMWARE),
    ],
)
def test_each_further_attempt_does_less_and_always_restarts(
    scene: Scene, attempt: Attempt, walked: list[str], act: Act
) -> None:
    scene.walk(attempt)
    assert (scene.log, scene.finished) == (walked, [act])
    assert bool(scene.afterwords) is (act is Act.FIRMWARE)


def test_a_plan_that_hurries_already_leaves_out_nothing_when_it_is_taken_over_again(scene: Scene) -> None:
    """Above all not the first of its phases, which writes everything back."""
    scene.walk(Attempt.HURRY, hurried=True)
    assert (scene.log, scene.finished) == (["down", "last"], [Act.KEXEC])


def test_a_bug_before_the_commit_point_leaves_the_machine_as_it_was(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, committed=False)
    scene.walk()
    assert scene.finished == []
    refused = scene.told()[-1]["refused"]
    assert isinstance(refused, dict) and "a bug" in refused["why"]


def test_a_bug_after_it_is_left_to_the_standby(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which sees the walker end without a word."""
    breaks(monkeypatch, committed=True)

    class Ended(BaseException):
        pass

    def end(status: int) -> None:
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(descent, "Standby", lambda *arguments, **options: None)
    with pytest.raises(Ended):
        scene.walk()
    assert scene.finished == []
    assert "a bug" in str(scene.told()[-1]["text"])


def breaks(monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> None:
    def run(self: Executor) -> None:
        self.committed = committed
        raise RuntimeError("a bug")

    monkeypatch.setattr(Executor, "run", run)


def test_a_line_that_was_cut_off_is_passed_over_by_whoever_watches(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    refusal = {"refused": NotRestarted("it was given up", "b: no room").as_json(), "exit": 14}
    os.write(writer, b'{"kind": "note"}\n{"kind": "step", "te\n{"kind": "te' + ending(refusal))
    os.close(writer)
    with pytest.raises(Refusal, match="no room"):
        descent.watch(reader, as_json=True)
    assert capsys.readouterr().out == '{"kind": "note"}\n'


def test_who_watches_hears_everything_and_not_what_comes_after_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.write(writer, "unmount: done, 0.10 s\nins Gerät\n".encode() + descent.END + b"once more\n" + descent.END)
    os.close(writer)
    assert descent.watch(reader, as_json=False) == 0
    assert capsys.readouterr().out == "unmount: done, 0.10 s\nins Gerät\n"


def test_a_walker_that_ends_without_a_word_did_not_restart_the_machine() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with pytest.raises(NotRestarted, match="has ended"):
        descent.watch(reader, as_json=False)


def ending(record: dict[str, object]) -> bytes:
    return descent.NUL + json.dumps(record).encode() + b"\n"


def test_a_record_that_cannot_be_written_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(steps, "loaded_record", lambda: IMAGE)
    monkeypatch.setattr(begin, "write", full)
    with pytest.raises(Refusal, match="ENOSPC"):
        steps.WriteDown(Way.FAST)._write()


def test_an_image_that_went_away_meanwhile_is_a_refusal_and_no_restart_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "loaded_record", lambda: None)
    with pytest.raises(Refusal, match="unloaded the image meanwhile"):
        steps.WriteDown(Way.FAST)._write()
