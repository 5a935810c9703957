# SPDX-License-Identifier: MIT
"""The kernel's live update by its ioctls: numbers and structures, and a sentence for each answer."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from kexecd.errors import Busy, NoMemory, NotPermitted, Refusal, Unsupported
from kexecd.liveupdate import luo
from tests.unit.liveupdate.fake_kernel import FakeKernel
from tests.unit.liveupdate.holding import content, memfd


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return FakeKernel(monkeypatch)


def test_the_structures_are_as_large_as_in_the_kernels_header() -> None:
    assert (luo.SESSION.size, luo.FD.size, luo.PLAIN.size, luo.NAMED.size) == (72, 16, 8, 72)


def test_what_is_preserved_is_taken_in_the_next_kernel(kernel: FakeKernel) -> None:
    session = luo.create("ours")
    luo.preserve(session, memfd(b"one"), 1)
    luo.preserve(session, memfd(b"two"), 7)
    kernel.kexec()
    taken = luo.retrieve("ours")
    assert taken is not None
    assert (content(luo.take(taken, 7)), content(luo.take(taken, 1))) == (b"two", b"one")
    luo.finish(taken)
    os.close(taken)
    assert luo.retrieve("ours") is None


def test_the_device_is_held_for_the_instant_of_a_call(kernel: FakeKernel) -> None:
    before = len(os.listdir("/proc/self/fd"))
    os.close(luo.create("one"))
    with pytest.raises(Refusal):
        luo.create("")
    assert luo.retrieve("none") is None
    assert len(os.listdir("/proc/self/fd")) == before
    assert kernel.opened == 2


def test_closing_the_session_takes_everything_back(kernel: FakeKernel) -> None:
    fd = memfd(b"x")
    session = luo.create("ours")
    luo.preserve(session, fd, 1)
    os.close(session)
    kernel.kexec()
    assert luo.retrieve("ours") is None


def test_descriptors_that_come_over_are_not_inherited(kernel: FakeKernel) -> None:
    session = luo.create("ours")
    assert not os.get_inheritable(session)
    luo.preserve(session, memfd(), 1)
    kernel.kexec()
    taken = luo.retrieve("ours") or -1
    assert not os.get_inheritable(luo.take(taken, 1))


def test_each_answer_of_preserve_is_a_sentence(kernel: FakeKernel) -> None:
    one = luo.create("one")
    fd = memfd(b"x")
    luo.preserve(one, fd, 1)

    def why(session: int, fd: int, token: int) -> tuple[type[Refusal], str]:
        with pytest.raises(Refusal) as no:
            luo.preserve(session, fd, token)
        return type(no.value), no.value.why

    assert why(one, memfd(), 1) == (Unsupported, "its number is taken in this session")
    assert why(luo.create("two"), fd, 1) == (Busy, "it is being preserved already, in this session or in another one's")
    assert why(one, os.pipe()[0], 2) == (Unsupported, "the kernel cannot carry a file of this kind, only memfds")
    assert why(one, 9999, 2) == (Unsupported, "this is no open descriptor")
    for number, kind, text in (
        (errno.ENOMEM, NoMemory, "there is no memory to keep it in place"),
        (errno.EFBIG, Unsupported, "it is too large for the kernel to carry"),
        (errno.EOPNOTSUPP, Unsupported, "it has seals that the kernel cannot carry"),
        (errno.EXDEV, Unsupported, "invalid cross-device link"),
    ):
        kernel.refuse = {5: number}
        assert why(one, memfd(b"12345"), 5) == (kind, text)
    kernel.kexec()
    assert why(luo.retrieve("one") or -1, memfd(), 9)[1] == (
        "the session is one that has been retrieved, which takes nothing new"
    )


def test_a_session_is_there_once(kernel: FakeKernel) -> None:
    one = luo.create("ours")
    with pytest.raises(Unsupported, match="a session of this name is being held already"):
        luo.create("ours")
    luo.preserve(one, memfd(), 1)
    kernel.kexec()
    taken = luo.retrieve("ours")
    with pytest.raises(Unsupported, match="somebody has retrieved it already and holds it"):
        luo.retrieve("ours")
    again = luo.create("ours")  # but a new one of that name may be begun beside it
    with pytest.raises(Unsupported, match="the session is not one that has been retrieved"):
        luo.finish(again)
    with pytest.raises(Unsupported, match="there is nothing of this number in the session"):
        luo.take(taken or -1, 99)


@pytest.mark.parametrize("name", ["", "x" * 64, "ä" * 32])
def test_a_name_that_the_kernel_would_not_take_is_refused_before(kernel: FakeKernel, name: str) -> None:
    with pytest.raises(Unsupported, match="the name of a session has 1 to 63 bytes"):
        luo.create(name)
    assert kernel.opened == 0


def test_without_live_update_it_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(luo, "DEVICE", str(tmp_path / "liveupdate"))
    assert not luo.available()
    for call in (luo.create, luo.retrieve):
        with pytest.raises(Unsupported, match="this kernel has no live update, or it was booted without") as no:
            call("ours")
        assert no.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("number", "kind", "why"),
    [
        (errno.EIO, Unsupported, "this kernel could not read what the one before it handed over"),
        (errno.EACCES, NotPermitted, "only root may"),
        (errno.EPERM, NotPermitted, "only root may"),
    ],
)
def test_a_device_that_does_not_open_says_why(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Refusal], why: str
) -> None:
    def fails() -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(luo, "_try", fails)
    with pytest.raises(kind, match=why):
        luo.create("ours")


def test_a_device_that_somebody_holds_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a file in its place, whose closing is told by the kernel as that of a device is."""
    device = tmp_path / "liveupdate"
    device.touch()
    kernel = FakeKernel(monkeypatch)
    monkeypatch.setattr(luo, "DEVICE", str(device))
    kernel.held = True
    somebody = os.open(device, os.O_RDWR)
    opened = threading.Event()
    begun = time.monotonic()

    def close() -> None:
        opened.wait(0.3)
        kernel.held = False
        os.close(somebody)

    thread = threading.Thread(target=close)
    thread.start()
    os.close(luo.create("ours", patience=20))
    thread.join()
    assert 0.25 < time.monotonic() - begun < 5


def test_a_device_that_stays_held_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = FakeKernel(monkeypatch)
    monkeypatch.setattr(luo, "DEVICE", str(tmp_path / "liveupdate"))
    kernel.held = True
    begun = time.monotonic()
    with pytest.raises(Busy, match="another process holds .*, which takes one at a time"):
        luo.create("ours", patience=0.2)
    assert 0.15 < time.monotonic() - begun < 3


def test_what_is_no_session_has_no_name() -> None:
    assert luo.session_name(memfd()) == ""
    assert luo.session_name(9999) == ""
