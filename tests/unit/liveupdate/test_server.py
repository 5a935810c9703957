# SPDX-License-Identifier: MIT
"""Applications hand memory over and get it back: a real holder, real sockets, real memfds, real users."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd import client
from kexecd.kernel import proc
from kexecd.liveupdate.store import NOBODY, Limits
from kexecd.teardown.spare import Spare
from tests.unit.liveupdate.holding import Holder, as_user, comes_to, content, holding, memfd

TOP = Path(__file__).parents[3]
ALICE, BOB = 4711, 4712


@pytest.fixture
def holder() -> Iterator[Holder]:
    with holding() as one:
        yield one


def refused(work: object) -> tuple[int, str]:
    assert isinstance(work, list), work
    return int(work[0]), str(work[1])


def test_what_was_put_is_got_back_as_the_same_memory(holder: Holder) -> None:
    table = memfd(b"before")
    client.put("table", table, path=holder.socket)
    os.pwrite(table, b"after ", 0)
    again = client.get("table", path=holder.socket)
    assert again is not None
    assert content(again) == b"after "
    os.ftruncate(again, 8192)
    assert os.fstat(table).st_size == 8192


def test_a_name_that_nobody_has_put_is_none(holder: Holder) -> None:
    assert client.get("table", path=holder.socket) is None
    assert client.drop("table", path=holder.socket) is False


def test_put_again_replaces_and_drop_lets_go(holder: Holder) -> None:
    with holder.ask() as state:
        state.put("table", memfd(b"one"))
        state.put("table", memfd(b"two and more"))
        assert [(held.name, held.bytes) for held in state.list()] == [("table", 12)]
        assert state.drop("table")
        assert state.list() == []
        assert state.status()["count"] == 0


def test_the_holder_keeps_nothing_open_of_what_it_let_go(holder: Holder) -> None:
    with holder.ask() as state:
        state.put("warm", memfd())
        before = len(os.listdir(f"/proc/{holder.pid}/fd"))
        for number in range(50):
            state.put("table", memfd(b"%d" % number))
        state.drop("table")
        assert len(os.listdir(f"/proc/{holder.pid}/fd")) == before


def test_a_user_sees_and_reaches_only_what_is_his(holder: Holder) -> None:
    path = holder.socket
    as_user(ALICE, lambda: client.put("table", memfd(b"alice"), path=path).bytes)
    as_user(BOB, lambda: client.put("table", memfd(b"bobby's"), path=path).bytes)

    def looked() -> object:
        with holder.ask() as state:
            mine = state.get("table")
            return [[held.uid for held in state.list()], content(mine or -1).decode()]

    assert as_user(ALICE, looked) == [[ALICE], "alice"]
    assert as_user(BOB, looked) == [[BOB], "bobby's"]

    def stolen() -> object:
        with holder.ask() as state:
            return state.get("table", uid=BOB)

    number, why = refused(as_user(ALICE, stolen))
    assert number == errno.EPERM
    assert why == f"it is user {BOB}'s, and only root may use another's"
    assert refused(as_user(ALICE, lambda: holder.ask().drop("table", uid=BOB)))[0] == errno.EPERM


def test_root_sees_and_reaches_everybodys(holder: Holder) -> None:
    as_user(ALICE, lambda: client.put("table", memfd(b"alice"), path=holder.socket).bytes)
    with holder.ask() as state:
        assert [(held.uid, held.name) for held in state.list()] == [(ALICE, "table")]
        assert content(state.get("table", uid=ALICE) or -1) == b"alice"
        assert state.drop("table", uid=ALICE)


def test_a_user_without_a_name_of_his_own_is_refused(holder: Holder) -> None:
    number, why = refused(as_user(NOBODY, lambda: client.put("table", memfd(), path=holder.socket).bytes))
    assert number == errno.EPERM
    assert why.startswith("it comes from the user nobody")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: os.pipe()[0], "it is a pipe, and only a memfd can be carried"),
        (lambda: socket.socket(socket.AF_UNIX).detach(), "it is a socket, and only a memfd can be carried"),
        (lambda: os.open("/dev/null", os.O_RDWR), "it is a file or a device, and only a memfd can be carried"),
        (lambda: os.open("/etc/hostname", os.O_RDONLY), "it is a file or a device, and only a memfd can be carried"),
        (lambda: os.pidfd_open(os.getpid()), "it is a descriptor of the kernel's, and only a memfd can be carried"),
        (lambda: os.open(f"/proc/self/fd/{memfd()}", os.O_RDONLY), "it is not open to read and write"),
    ],
    ids=["pipe", "socket", "device", "file", "pidfd", "read-only"],
)
def test_what_cannot_be_carried_is_refused_at_once_with_the_reason(holder: Holder, make: object, why: str) -> None:
    assert callable(make)
    before = len(os.listdir(f"/proc/{holder.pid}/fd"))
    with pytest.raises(client.NotDone) as no:
        client.put("table", make(), path=holder.socket)
    assert no.value.strerror == why
    with holder.ask() as state:
        assert state.status()["count"] == 0
    # It is closed by a thread, since its filesystem may take as long as it likes.
    assert comes_to(lambda: len(os.listdir(f"/proc/{holder.pid}/fd")), before)


def test_a_file_that_has_a_name_is_refused_although_it_is_memory(holder: Holder) -> None:
    fd = os.open("/dev/shm/kexecd-test", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with pytest.raises(client.NotDone, match="it is a file that has a name"):
            client.put("table", fd, path=holder.socket)
    finally:
        os.unlink("/dev/shm/kexecd-test")


def test_one_memory_under_two_names_is_refused(holder: Holder) -> None:
    fd = memfd(b"x")
    client.put("table", fd, path=holder.socket)
    with pytest.raises(client.NotDone, match="it is held as table already"):
        client.put("other", fd, path=holder.socket)
    client.put("table", fd, path=holder.socket)  # but it may be put again


def test_a_user_has_a_limit_on_how_many_and_on_how_much() -> None:
    with holding(Limits(count=2, bytes=1 << 16)) as holder:

        def fill() -> object:
            with holder.ask() as state:
                said = []
                for name, size in (("a", 30000), ("b", 30000), ("a", 40000), ("a", 30001), ("c", 1)):
                    try:
                        said.append(state.put(name, memfd(bytes(size))).bytes)
                    except client.NotDone as no:
                        said.append(no.errno or 0)
                return said

        assert as_user(ALICE, fill) == [30000, 30000, errno.EDQUOT, 30001, errno.EDQUOT]
        with holder.ask() as state:  # for root there is none
            assert state.put("large", memfd(bytes(1 << 17))).bytes == 1 << 17


def test_who_lets_his_grow_past_the_limit_is_named_before_the_restart() -> None:
    with holding(Limits(bytes=1 << 16)) as holder:

        def grow() -> object:
            fd = memfd()
            client.put("table", fd, path=holder.socket)
            os.ftruncate(fd, 1 << 17)
            return 0

        as_user(ALICE, grow)
        with holder.ask() as state, pytest.raises(client.NotDone) as no:
            state.ask({"do": "prepare", "carrier": "file"})
        assert no.value.strerror == f"user {ALICE} would have 0.1 MiB held, and 0.1 MiB are the limit"


def test_a_long_list_comes_in_pages(holder: Holder) -> None:
    with holder.ask() as state:
        for number in range(200):
            state.put(f"entry-{number:03}", memfd())
        assert [held.name for held in state.list()] == [f"entry-{number:03}" for number in range(200)]


def test_a_checksum_is_kept_of_what_can_no_longer_change(holder: Holder) -> None:
    fd = memfd(b"abc")
    with holder.ask() as state:
        assert state.put("open", memfd(b"abc")).sha256 == ""
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        assert state.put("final", fd).sha256.startswith("ba7816bf8f01cfea")


def test_the_holder_is_spared_on_the_way_down(holder: Holder) -> None:
    process = proc.read(holder.pid)
    assert process is not None
    assert proc.argv0(process) == "@kexecd-state"
    assert Spare(frozenset(), frozenset())(process)
    assert os.readlink(f"/proc/{holder.pid}/cwd") == "/"


def test_a_term_ends_it_only_while_it_holds_nothing(holder: Holder) -> None:
    with holder.ask() as state:
        state.put("table", memfd(b"kept"))
        os.kill(holder.pid, signal.SIGTERM)
        os.kill(holder.pid, signal.SIGHUP)
        assert content(state.get("table") or -1) == b"kept"
        state.drop("table")
    assert holder.end(signal.SIGTERM) == 0
    assert not os.path.exists(holder.socket)


def test_what_an_application_imports_brings_nothing_of_ours_along() -> None:
    text = "import sys; from kexecd import client; print(*sorted(name for name in sys.modules if 'kexecd' in name))"
    done = subprocess.run([sys.executable, "-c", text], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kexecd", "kexecd.client"]
