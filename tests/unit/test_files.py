# SPDX-License-Identifier: MIT
"""What a write leaves that was cut short, and who takes it away."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kexecd.kernel import files
from tests.unit.power_cut import cuts, nobody


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_any_power_cut_leaves_is_swept_and_the_record_stays(tmp_path: Path) -> None:
    state = tmp_path / "state"
    files.write_atomic(str(state / "pending.json"), b"old")
    left = set()
    for _ in cuts(state, lambda: files.write_atomic(str(state / "pending.json"), b"new")):
        left |= {name.rpartition(".")[0] for name in names(state)}
        files.sweep(str(state))
        assert names(state) == ["pending.json"]
    assert ".pending.json" in left, "one of them was cut in the middle"


def test_a_write_that_is_still_going_on_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f".pending.json.{os.getpid()}").touch()
    files.sweep(str(tmp_path))
    assert names(tmp_path) == [f".pending.json.{os.getpid()}"]


@pytest.mark.parametrize(
    "name",
    ["pending.json", "pending.json.{}", ".{}", "..{}", ".pending.json", ".pending.json.0{}", ".pending.json.-{}"],
)
def test_what_is_not_called_like_that_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name.format(nobody())).touch()
    files.sweep(str(tmp_path))
    assert len(names(tmp_path)) == 1


def test_nothing_but_a_regular_file_of_ours_goes_and_no_link_is_followed(tmp_path: Path) -> None:
    state, number = tmp_path / "state", nobody()
    state.mkdir()
    (tmp_path / f".a.{number}").touch()
    (state / f".link.{number}").symlink_to(tmp_path / f".a.{number}")
    (state / f".elsewhere.{number}").symlink_to(tmp_path)
    os.mkfifo(state / f".fifo.{number}")
    (state / f".directory.{number}").mkdir()
    (state / f".directory.{number}" / f".a.{number}").touch()
    (state / f".theirs.{number}").touch()
    os.chown(state / f".theirs.{number}", os.geteuid() + 1, -1)
    before = names(state)
    (state / f".ours.{number}").touch()
    files.sweep(str(state))
    assert names(state) == before
    assert (tmp_path / f".a.{number}").exists() and (state / f".directory.{number}" / f".a.{number}").exists()


def test_where_there_is_no_directory_there_is_nothing_to_sweep(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.sweep(str(tmp_path / "none"))


def test_a_small_file_is_not_asked_for_more_than_it_has_and_a_large_one_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read from /proc/sys costs what is asked for, and not what there is."""
    asked: list[int] = []

    def read(fd: int, count: int, read: Callable[[int, int], bytes] = os.read) -> bytes:
        asked.append(count)
        return read(fd, count)

    monkeypatch.setattr(os, "read", read)
    (tmp_path / "small").write_text("a boot id")
    assert files.read_text(str(tmp_path / "small")) == "a boot id"
    assert max(asked) <= 1 << 12
    large = "x" * ((1 << 20) - 7)
    (tmp_path / "large").write_text(large)
    assert files.read_text(str(tmp_path / "large")) == large
    assert len(asked) < 20
