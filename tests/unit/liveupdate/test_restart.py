# SPDX-License-Identifier: MIT
"""From one boot to the next by files: a holder that is killed as a jump kills it, and another one that finds it all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator

import pytest

from kexecd import client
from kexecd.liveupdate.filestore import FileStore
from kexecd.liveupdate.index import Carrier
from kexecd.liveupdate.protocol import LIMIT, refused
from tests.unit.liveupdate.holding import Holder, as_user, content, holding, memfd

ALICE = 4711
FINAL = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@pytest.fixture
def holder() -> Iterator[Holder]:
    with holding() as one:
        yield one


def freeze(holder: Holder, carrier: str = "file") -> dict[str, object]:
    with holder.ask() as state:
        state.ask({"do": "prepare", "carrier": carrier, "why": "a test"})
        return state.ask({"do": "freeze", "carrier": carrier, "why": "a test"})[0]


def restart(holder: Holder) -> None:
    """The memory is gone, the disk is not."""
    freeze(holder)
    holder.end()
    holder.boot()


def test_everything_comes_back_by_name_with_content_size_seals_and_position(holder: Holder) -> None:
    sparse = memfd(b"head")
    os.ftruncate(sparse, 5 << 20)
    os.pwrite(sparse, b"tail", (5 << 20) - 4)
    final = memfd(os.urandom(3 << 20))
    fcntl.fcntl(final, fcntl.F_ADD_SEALS, FINAL)
    os.lseek(final, 12345, os.SEEK_SET)
    digests = {name: hashlib.sha256(content(fd)).hexdigest() for name, fd in (("sparse", sparse), ("final", final))}
    client.put("sparse", sparse, path=holder.socket)
    client.put("final", final, path=holder.socket)
    client.put("empty", memfd(), path=holder.socket)
    restart(holder)
    with holder.ask() as state:
        assert {held.name: held.bytes for held in state.list()} == {"sparse": 5 << 20, "final": 3 << 20, "empty": 0}
        for name, digest in digests.items():
            assert hashlib.sha256(content(state.get(name) or -1)).hexdigest() == digest
        back = state.get("final") or -1
        assert fcntl.fcntl(back, fcntl.F_GET_SEALS) == FINAL
        assert os.lseek(back, 0, os.SEEK_CUR) == 12345
        again = state.get("sparse") or -1
        os.ftruncate(again, 6 << 20)  # it may still grow


def test_what_is_written_after_put_and_before_the_freeze_is_there(holder: Holder) -> None:
    table = memfd(b"first")
    client.put("table", table, path=holder.socket)
    with holder.ask() as state:
        state.ask({"do": "prepare", "carrier": "file"})
        os.ftruncate(table, 100000)  # it grows although the restart is prepared
        os.pwrite(table, b"acknowledged just before", 50000)
    freeze(holder)
    holder.end()
    holder.boot()
    back = client.get("table", path=holder.socket) or -1
    assert content(back)[50000:50024] == b"acknowledged just before"
    assert os.fstat(back).st_size == 100000


def test_three_restarts_in_a_row_lose_nothing(holder: Holder) -> None:
    client.put("counter", memfd(b"\0"), path=holder.socket)
    for number in range(3):
        restart(holder)
        fd = client.get("counter", path=holder.socket) or -1
        assert content(fd) == bytes([number])
        os.pwrite(fd, bytes([number + 1]), 0)


def test_it_is_its_owners_in_the_next_boot_too(holder: Holder) -> None:
    as_user(ALICE, lambda: client.put("table", memfd(b"alice"), path=holder.socket).bytes)
    restart(holder)
    assert client.get("table", path=holder.socket) is None
    assert as_user(ALICE, lambda: content(client.get("table", path=holder.socket) or -1).decode()) == "alice"


def test_states_are_shown_for_the_whole_and_for_each(holder: Holder) -> None:
    as_user(ALICE, lambda: client.put("a", memfd(b"a"), path=holder.socket).bytes)
    client.put("b", memfd(b"b"), path=holder.socket)
    with holder.ask() as state:
        assert state.status()["state"] == "normal"
        state.ask({"do": "prepare", "carrier": "file", "why": "a test"})
        assert (state.status()["state"], state.status()["carrier"]) == ("prepared", "file")
        state.ask({"do": "freeze", "carrier": "file", "why": "a test"})
        assert state.status()["state"] == "frozen"
    holder.end()
    holder.boot()
    with holder.ask() as state:
        assert state.status()["state"] == "updated"
        assert [held.state for held in state.list()] == ["updated", "updated"]
        state.get("b")
        assert {held.name: held.state for held in state.list()} == {"a": "updated", "b": "normal"}
        assert state.status()["state"] == "updated"
        state.get("a", uid=ALICE)  # root looking at it is not its owner having it
        assert state.status()["state"] == "updated"
    as_user(ALICE, lambda: client.get("a", path=holder.socket))
    with holder.ask() as state:
        assert state.status()["state"] == "normal"


def test_finish_ends_it_whoever_has_not_come(holder: Holder) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    restart(holder)
    with holder.ask() as state:
        state.ask({"do": "finish"})
        assert state.status()["state"] == "normal"
        assert content(state.get("table") or -1) == b"x"


def test_nothing_is_taken_or_dropped_once_it_is_frozen(holder: Holder) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    freeze(holder)
    with holder.ask() as state:
        for work in (lambda: state.put("late", memfd()), lambda: state.drop("table")):
            with pytest.raises(client.NotDone) as no:
                work()
            assert no.value.errno == errno.EBUSY
            assert no.value.strerror == "everything is frozen, since this machine restarts"


def test_what_was_being_prepared_when_it_was_frozen_stays_frozen(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (begun, begins), (go_on, goes_on) = os.pipe(), os.pipe()

    def rate(disk: FileStore) -> float:
        os.write(begins, b".")
        os.read(go_on, 1)
        return 1.0

    holder.end()
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "rate", rate)
        holder.start()
    client.put("table", memfd(b"x"), path=holder.socket)
    with holder.ask() as slow, holder.ask() as state:
        slow._socket.send(b'{"do": "prepare", "carrier": "file"}')
        assert os.read(begun, 1) == b"."
        state.ask({"do": "freeze", "carrier": "file", "why": "a test"})
        os.write(goes_on, b".")
        assert slow._socket.recv(LIMIT) == refused("everything is frozen already", errno.EBUSY)
        assert (state.status()["state"], state.status()["why"]) == ("frozen", "a test")
    for fd in (begun, begins, go_on, goes_on):
        os.close(fd)


@pytest.mark.parametrize("frozen", [False, True], ids=["prepared", "frozen"])
def test_cancel_gives_everything_back_as_it_was(holder: Holder, frozen: bool) -> None:
    table = memfd(b"x")
    client.put("table", table, path=holder.socket)
    with holder.ask() as state:
        state.ask({"do": "prepare", "carrier": "file"})
        if frozen:
            state.ask({"do": "freeze", "carrier": "file"})
        state.ask({"do": "cancel"})
        assert state.status()["state"] == "normal"
        state.put("more", memfd())
    os.ftruncate(table, 1 << 20)
    assert not [name for name in os.listdir(holder.live) if not name.startswith(".")]
    holder.end()
    holder.boot()  # a machine that went down another way later on
    with holder.ask() as state:
        assert state.list() == []


def test_on_the_disk_it_is_roots_alone_and_gone_when_it_has_come_back(holder: Holder) -> None:
    client.put("table", memfd(b"secret"), path=holder.socket)
    freeze(holder)
    assert stat.S_IMODE(holder.live.stat().st_mode) == 0o700
    names = sorted(os.listdir(holder.live))
    assert len(names) == 2
    assert [stat.S_IMODE((holder.live / name).stat().st_mode) for name in names] == [0o600, 0o600]
    holder.end()
    holder.boot()
    assert os.listdir(holder.live) == []


def test_a_damaged_one_is_told_as_lost_and_kept_for_a_person_and_the_others_come_back(holder: Holder) -> None:
    for name in ("a", "b", "c"):
        client.put(name, memfd(name.encode() * 5000), path=holder.socket)
    freeze(holder)
    holder.end()
    second = next(path for path in holder.live.iterdir() if path.name.endswith("-1"))
    second.write_bytes(b"x" + second.read_bytes()[1:])
    holder.boot()
    with holder.ask() as state:
        assert [held.name for held in state.list()] == ["a", "c"]
        (lost,) = state.status()["lost"]
        assert (lost["uid"], lost["name"]) == (0, "b")
        assert lost["why"].startswith("its content is not what was written: the checksum is another one")
        with pytest.raises(client.NotDone, match="it did not come over the restart") as no:
            state.get("b")
        assert no.value.errno == errno.ENODATA
        assert list((holder.live / "damaged").iterdir())
        state.put("b", memfd(b"new"))  # and with that it is forgotten
        assert state.status()["lost"] == []


def test_memory_that_did_not_arrive_is_told_as_lost(holder: Holder) -> None:
    """As the holder leaves it when live update carries, and the machine then goes through the firmware."""
    client.put("table", memfd(b"x"), path=holder.socket)
    freeze(holder)
    holder.end()
    path = holder.live / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"carrier": Carrier.MEMORY, "boot_id": "another"}))
    holder.boot()
    with holder.ask() as state:
        assert state.status()["lost"] == [
            {"uid": 0, "name": "table", "why": "no kexec that carries memory led to this boot"}
        ]
    assert not path.exists(), "it is told once"


def test_a_holder_that_was_killed_gives_back_what_it_had_frozen_in_the_same_boot(holder: Holder) -> None:
    client.put("table", memfd(b"frozen"), path=holder.socket)
    freeze(holder)
    holder.end()
    holder.start()
    assert content(client.get("table", path=holder.socket) or -1) == b"frozen"


def test_an_index_that_cannot_be_read_is_told_and_laid_aside(holder: Holder) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    freeze(holder)
    holder.end()
    path = holder.live / "index.json"
    path.write_bytes(path.read_bytes()[:40])
    holder.boot()
    with holder.ask() as state:
        (lost,) = state.status()["lost"]
        assert lost["why"].endswith("holds an index that cannot be read: it is damaged or cut short")
    assert (holder.live / "damaged" / "index.json").exists()
    assert [name for name in os.listdir(holder.live) if name.endswith("-0")], "the content is still there for a person"


def test_where_there_is_no_room_it_is_refused_before_and_everything_stays_usable() -> None:
    with holding() as holder:
        table = memfd()
        os.ftruncate(table, 1 << 50)
        client.put("huge", table, path=holder.socket)
        with holder.ask() as state:
            with pytest.raises(client.NotDone) as no:
                state.ask({"do": "prepare", "carrier": "file"})
            assert "it takes 1073741824 MiB in" in (no.value.strerror or "")
            assert state.status()["state"] == "normal"
        os.ftruncate(table, 4096)
        freeze(holder)


def test_a_disk_that_fails_while_it_is_written_leaves_everything_held(holder: Holder) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    holder.live.rmdir() if holder.live.exists() else None
    holder.live.write_text("no directory")
    with holder.ask() as state:
        with pytest.raises(client.NotDone):
            state.ask({"do": "freeze", "carrier": "file"})
        assert state.status()["state"] == "normal"
        assert content(state.get("table") or -1) == b"x"
    holder.live.unlink()
    restart(holder)
    assert content(client.get("table", path=holder.socket) or -1) == b"x"


def test_frozen_twice_is_frozen_once(holder: Holder) -> None:
    client.put("table", memfd(b"x"), path=holder.socket)
    assert freeze(holder)["count"] == 1
    with holder.ask() as state:
        assert state.ask({"do": "freeze", "carrier": "file"})[0]["carrier"] == "file"


def test_where_nothing_is_held_nothing_is_written(holder: Holder) -> None:
    assert freeze(holder)["count"] == 0
    assert not holder.live.exists() or os.listdir(holder.live) == []


def test_without_live_update_memory_is_asked_for_and_files_carry_it(holder: Holder) -> None:
    """This machine's kernel has none; where the device is held by somebody else it is the same."""
    client.put("table", memfd(b"x"), path=holder.socket)
    with holder.ask() as state:
        told = state.ask({"do": "freeze", "carrier": "memory", "why": "both kernels speak it"})[0]
    assert told["carrier"] == "file"
    assert str(told["why"]).startswith("this kernel has no live update")
