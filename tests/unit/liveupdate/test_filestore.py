# SPDX-License-Identifier: MIT
"""The file store and the power cut: whenever it comes, everything is there or nothing, and never anything else."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd.kernel import files
from kexecd.liveupdate import filestore, memory
from kexecd.liveupdate.filestore import INDEX, FileStore
from kexecd.liveupdate.index import Carrier, Entry, Index, Unreadable, parse
from kexecd.liveupdate.memory import Lost
from tests.unit.liveupdate.holding import content, memfd

OLD = (b"old table", b"old cache" * 1000)
NEW = (b"new table", bytes(1 << 21), b"", b"new cache" * 200000)

CUT = 86
"""How a process ends whose power is cut."""


def index(contents: tuple[bytes, ...], number: str = "a") -> tuple[Index, list[int]]:
    fds = [memfd(one) for one in contents]
    entries = tuple(Entry(0, f"entry-{at}", memory.shape(fd)) for at, fd in enumerate(fds))
    return Index(number * 16, "this boot", Carrier.FILE, 1.0, entries), fds


def there(store: FileStore) -> tuple[bytes, ...] | None:
    """What the next boot finds, all of it."""
    found = store.index()
    if found is None:
        return None
    restored = store.restore(found)
    assert restored.lost == ()
    return tuple(content(fd) for fd in restored.fds if fd is not None)


def cut_at(call: int, work: Callable[[], object]) -> bool:
    """Do it in a process that ends just before the given call that changes the disk; whether it came to that."""
    pid = os.fork()
    if pid == 0:
        left = [call]

        def counting(real: Callable[..., object]) -> Callable[..., object]:
            def counted(*arguments: object, **named: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(CUT)
                return real(*arguments, **named)

            return counted

        for name in ("open", "write", "ftruncate", "fsync", "rename", "unlink", "makedirs", "chmod", "rmdir"):
            setattr(os, name, counting(getattr(os, name)))
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, CUT)
    return status == CUT


@pytest.mark.parametrize("before", [False, True], ids=["empty", "unread"])
def test_power_that_fails_at_any_call_of_a_write_leaves_all_or_nothing(tmp_path: Path, before: bool) -> None:
    new, new_fds = index(NEW, "b")
    seen = set()
    for call in range(1000):
        directory = tmp_path / str(call)
        store = FileStore(str(directory))
        if before:
            store.write(*index(OLD))
        cut = cut_at(call, lambda store=store: store.write(new, new_fds))  # type: ignore[misc]
        found = there(store)
        seen.add(found)
        assert found in ((OLD if before else None), NEW), f"cut at call {call}"
        if not cut:
            assert found == NEW
            break
        store.write(*index(OLD, "c"))  # and what it has left behind is in nobody's way
        assert there(store) == OLD
        assert sorted(os.listdir(directory)) == ["c" * 16 + "-0", "c" * 16 + "-1", INDEX]
    else:
        pytest.fail("it never came to an end")
    assert len(seen) == 2
    assert call > 20


def test_nothing_counts_before_all_of_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process that is killed cannot show: the order in which the disk is told to keep things."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        done.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def renamed(old: str, new: str) -> None:
        done.append("rename " + os.path.basename(new))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    store = FileStore(str(tmp_path / "live"))
    store.write(*index(OLD))
    first, second = "sync " + "a" * 16 + "-0", "sync " + "a" * 16 + "-1"
    temporary = f"sync .{INDEX}.{os.getpid()}." + "a" * 16
    assert done == [first, second, "sync live", temporary, f"rename {INDEX}", "sync live", "sync live"]
    done.clear()
    store.forget()
    assert done[0] == "sync live", "the index is gone for good before anything that it names"


def test_power_that_fails_while_it_is_removed_leaves_all_or_nothing(tmp_path: Path) -> None:
    for call in range(100):
        store = FileStore(str(tmp_path / str(call)))
        store.write(*index(OLD))
        cut = cut_at(call, store.forget)
        assert there(store) in (OLD, None)
        store.forget()
        assert os.listdir(store.directory) == []
        if not cut:
            break
    assert call > 3


def test_a_file_that_was_cut_anywhere_is_told_as_lost_and_never_handed_out(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "live"))
    written = store.write(*index((b"0123456789",)))
    path = tmp_path / "live" / f"{written.id}-0"
    for size in range(10):
        path.write_bytes(b"0123456789"[:size])
        restored = store.restore(written)
        assert restored.fds == (None,)
        assert f"its file has {size} bytes and not 10" in restored.lost[0][1]
    path.write_bytes(b"0123456780")
    assert "the checksum is another one" in store.restore(written).lost[0][1]
    assert "no such file" in store.restore(written).lost[0][1], "it was laid aside"


def test_an_index_that_was_cut_anywhere_is_none(tmp_path: Path) -> None:
    text = index(OLD)[0].text()
    for size in range(len(text) - 1):
        with pytest.raises(Unreadable):
            parse(text[:size])
    assert parse(text).entries == index(OLD)[0].entries


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": "../../etc/passwd"}, "it is damaged or cut short"),
        ({"schema": 2}, "it is of another kexecd, schema 2"),
        ({"carrier": "pigeon"}, "it is damaged or cut short"),
        ({"entries": 3}, "it is damaged or cut short"),
    ],
)
def test_what_is_not_one_of_ours_is_refused(change: dict[str, object], why: str) -> None:
    import json

    text = json.dumps(json.loads(index(OLD)[0].text()) | change).encode()
    with pytest.raises(Unreadable, match=why):
        parse(text)


def test_a_name_that_is_there_twice_is_refused() -> None:
    whole = index(OLD)[0]
    with pytest.raises(Unreadable, match="a name is in it twice"):
        parse(replace(whole, entries=(*whole.entries, whole.entries[0])).text())


def test_holes_take_no_room_on_the_disk(tmp_path: Path) -> None:
    fd = memfd()
    os.ftruncate(fd, 64 << 20)
    os.pwrite(fd, b"end", (64 << 20) - 3)
    store = FileStore(str(tmp_path / "live"))
    written = store.write(Index("a" * 16, "", Carrier.FILE, 0.0, (Entry(0, "x", memory.shape(fd)),)), [fd])
    status = (tmp_path / "live" / f"{written.id}-0").stat()
    assert status.st_size == 64 << 20
    assert status.st_blocks * 512 < 4 << 20
    back = store.restore(written).fds[0]
    assert back is not None
    assert os.fstat(back).st_blocks * 512 < 4 << 20
    assert memory.sha256(back) == memory.sha256(fd)


def test_permissions_and_seals_come_back(tmp_path: Path) -> None:
    fd = memfd(b"program")
    os.fchmod(fd, 0o640)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | 0x10)
    store = FileStore(str(tmp_path / "live"))
    written = store.write(Index("a" * 16, "", Carrier.FILE, 0.0, (Entry(0, "x", memory.shape(fd)),)), [fd])
    back = store.restore(written).fds[0]
    assert back is not None
    assert memory.shape(back) == memory.shape(fd)


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(str(tmp_path / "live"))
    store.write(*index(OLD))
    real = filestore._write_all

    def full(fd: int, data: bytes | memoryview) -> None:
        if bytes(data[:9]) == b"new cache":
            raise OSError(28, "No space left on device")
        real(fd, data)

    monkeypatch.setattr(filestore, "_write_all", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(*index(NEW, "b"))
    assert there(store) == OLD
    assert not [name for name in os.listdir(store.directory) if name.startswith("b")]


def test_too_little_room_is_told_with_figures(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "live"))
    store.check_room(1 << 20)
    with pytest.raises(Lost, match=r"it takes 1048576 MiB in .*/live, where \d+ MiB may be written") as no:
        store.check_room(1 << 40)
    assert no.value.exit_code.label == "dirty"


def test_the_rate_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "live"))
    clock = iter((10.0, 10.5))
    assert store.rate(lambda: next(clock)) == (8 << 20) / 0.5
    assert os.listdir(tmp_path / "live") == []


def test_an_index_of_another_size_than_text_is_read_whole(tmp_path: Path) -> None:
    """Four thousand names are more than what a text file of ours may have otherwise."""
    store = FileStore(str(tmp_path / "live"))
    shape = replace(memory.shape(memfd()), bytes=1 << 50, position=1 << 50)
    entries = tuple(Entry(uid, "n" * 64, shape, "0" * 64) for uid in range(4096))
    whole = Index("a" * 16, "", Carrier.MEMORY, 0.0, entries)
    assert len(whole.text()) > files.TEXT_LIMIT
    store.note(whole)
    assert store.index() == whole
