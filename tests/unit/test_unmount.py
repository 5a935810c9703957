# SPDX-License-Identifier: MIT
"""Servers that do not answer, and arrays that are not clean: real workers, whose calls follow a script.

What a script stands for is a dead NFS server or md, which only guests have; what is real is in tests/namespaces.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kexecd.kernel import mountinfo
from kexecd.kernel.block import Stacked
from kexecd.teardown import filesystems
from kexecd.teardown.filesystems import Settle, Unmount
from kexecd.teardown.graph import Graph
from kexecd.teardown.workers import OPERATIONS, Call, left_behind
from tests.namespaces.stage import eventually, notes, walk

MOUNTED = mountinfo.read()[0].id
GONE = 1 << 30
Answer = int | None  # an errno; None: it never returns


class Script:
    """What each operation answers; what was asked is in a file, since workers are processes."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path, self._monkeypatch = path, monkeypatch
        path.touch()

    def __setitem__(self, operation: str, answer: Answer) -> None:
        self._monkeypatch.setitem(OPERATIONS, operation, self._make(operation, answer))

    @property
    def asked(self) -> list[str]:
        return self._path.read_text(encoding="utf-8").splitlines()

    def _make(self, operation: str, answer: Answer) -> Callable[..., None]:
        def call(*arguments: str) -> None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{operation} {arguments[0]}\n")
            if answer is None:
                signal.pause()
            elif answer:
                raise OSError(answer, "script")

        return call


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setattr(filesystems, "PATIENCE", 0.2)
    monkeypatch.setattr(filesystems, "PATIENCES", dict.fromkeys(filesystems.PATIENCES, 0.2))
    script = Script(tmp_path / "asked", monkeypatch)
    for operation in ("umount", "umount-lazy", "umount-again", "umount-force", "holders"):
        script[operation] = 0
    yield script
    eventually(lambda: not left_behind())


def unmount(*calls: Call, parent: Call | None = None) -> str:
    """Take these down, and `parent` after them; returns what was said."""
    graph = Graph({call: frozenset[Call]() for call in calls} | ({parent: frozenset(calls)} if parent else {}))
    _, events, _ = walk(Unmount(look=lambda: graph, others=tuple), within=5.0)
    return notes(events)


DISK = Call("umount", ("/disk",), MOUNTED)


def test_a_server_that_does_not_answer_is_forced_and_then_detached_from_what_has_to_go(script: Script) -> None:
    script["umount-network"], script["umount-force"] = None, errno.EBUSY
    said = unmount(Call("umount-network", ("/disk/net",), MOUNTED), parent=DISK)
    assert script.asked == [
        "umount-network /disk/net", "umount-force /disk/net", "umount-lazy /disk/net", "umount /disk",
    ]  # fmt: skip
    assert "could not unmount /disk/net: it did not return, letting its requests fail" in said
    assert "could not unmount /disk/net: device or resource busy, detaching it from its place" in said


def test_a_server_that_answers_is_never_forced(script: Script) -> None:
    script["umount-network"] = errno.EBUSY
    said = unmount(Call("umount-network", ("/net",), MOUNTED))
    assert {name for name in script.asked if "holders" not in name} == {"umount-network /net"}
    assert "could not unmount /net: device or resource busy" in said


def test_a_mount_that_is_detached_before_its_server_hangs_holds_nobody_up(script: Script) -> None:
    script["umount-network"] = None
    said = unmount(Call("umount-network", ("/disk/net",), GONE), parent=DISK)
    assert script.asked == ["umount-network /disk/net", "umount /disk"]
    assert "could not" not in said


def test_what_a_daemon_has_unmounted_by_itself_is_gone(script: Script) -> None:
    script["umount-fuse"] = errno.EINVAL
    assert unmount(Call("umount-fuse", ("/disk/fuse", "48"), GONE), parent=DISK) == ""
    assert script.asked == ["umount-fuse /disk/fuse", "umount /disk"]


def test_a_fuse_connection_is_aborted_before_it_is_tried_again(script: Script) -> None:
    script["umount-fuse"], script["fuse-abort"] = errno.EBUSY, 0
    unmount(Call("umount-fuse", ("/fuse", "48"), MOUNTED))
    assert script.asked == ["umount-fuse /fuse", "fuse-abort 48", "umount-again /fuse"]


@pytest.mark.parametrize("answer", [None, errno.EBUSY, errno.EIO])
def test_a_disk_is_neither_forced_nor_detached(script: Script, answer: Answer) -> None:
    script["umount"] = answer
    unmount(Call("umount", ("/disk/inner",), MOUNTED), parent=DISK)
    assert {name for name in script.asked if "holders" not in name} == {"umount /disk/inner"}


def test_who_did_not_answer_once_is_not_asked_again(script: Script) -> None:
    script["umount-network"], script["umount-force"] = None, None
    script["umount"] = 0
    server = Call("umount-network", ("/net",), MOUNTED)
    busy = Call("loop-detach", ("/dev/loop9",))
    script["loop-detach"] = errno.EBUSY
    unmount(server, busy, DISK)  # with something gone and something busy there is a second round
    assert script.asked.count("umount-network /net") == 1 and script.asked.count("loop-detach /dev/loop9") > 1


def test_what_is_busy_is_tried_once_more_after_a_moment(script: Script) -> None:
    """The kernel lets go of what a process had mounted a moment after the process has ended."""
    script["dm-remove"] = errno.EBUSY
    unmount(Call("dm-remove", ("root",)))
    assert script.asked == ["dm-remove root", "dm-remove root", "holders /dev/mapper/root"]


def test_memory_is_detached_only_from_what_has_to_go(script: Script) -> None:
    script["umount-memory"] = errno.EBUSY
    unmount(Call("umount-memory", ("/tmp",), MOUNTED))
    assert "umount-lazy /tmp" not in script.asked
    unmount(Call("umount-memory", ("/disk/tmp",), MOUNTED), parent=DISK)
    assert script.asked[-2:] == ["umount-lazy /disk/tmp", "umount /disk"]


def test_a_plan_of_thousands_of_mounts_is_described_in_a_line() -> None:
    calls = {Call("umount", (f"/m/{number}",)): frozenset[Call]() for number in range(4000)}
    assert Unmount(Graph(calls)).describe().endswith("unmount /m/19, and 3980 more")


def test_only_arrays_that_are_not_clean_and_can_be_are_waited_for(script: Script) -> None:
    script["md-settle"] = errno.ETIME

    def array(name: str, state: str, *, resyncing: bool = False, label: str = "") -> Stacked:
        return Stacked(name, frozenset(), frozenset(), frozenset(), label, state=state, resyncing=resyncing)

    devices = array("md1", "clean"), array("md2", "active"), array("md3", "active", resyncing=True)
    result, events, _ = walk(Settle(lambda: (*devices, array("dm-0", "", label="root"))))
    assert script.asked == ["md-settle md2"] and not result.failures
    assert "could not settle md2: timer expired; its next start checks it" in notes(events)
