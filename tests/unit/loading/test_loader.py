# SPDX-License-Identifier: MIT
"""What becomes of a load: the call that is made, what is written down, what is taken back, and what is said."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd.errors import BadConfig, BadImage, Busy, Forbidden, NotLoaded, NotPermitted, Refusal, Unsupported
from kexecd.loader import BUSY_CALLS, load, loaded_record
from kexecd.model import BootTarget, ImageRecord, LoadMethod
from tests.unit.kernel_tree import (
    CMDLINE,
    INITRD,
    KERNEL,
    MICROCODE,
    Clock,
    FakeKernel,
    Load,
    forbid,
    put,
)


def refused(target: BootTarget, kernel: FakeKernel, run_dir: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        put(target, kernel, run_dir)
    assert caught.value.what == f"cannot load {target.kernel.path}"
    return caught.value


# A load that goes well


def test_several_initrds_are_joined_each_at_a_multiple_of_four(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    put(target, kernel, run_dir)
    assert kernel.loads == [Load(KERNEL, MICROCODE + b"\0\0\0" + INITRD, CMDLINE.encode(), 0)]


def test_a_single_initrd_goes_in_as_it_is(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    put(replace(target, initrds=target.initrds[:1]), kernel, run_dir)
    assert kernel.loads == [Load(KERNEL, MICROCODE, CMDLINE.encode(), 0)]


def test_without_an_initrd_the_kernel_is_told_so(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    put(replace(target, initrds=()), kernel, run_dir)
    assert kernel.loads == [Load(KERNEL, None, CMDLINE.encode(), 0x4)]


def test_bytes_of_the_command_line_that_are_no_utf8_survive(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    put(replace(target, cmdline="label=\udcff"), kernel, run_dir)
    assert kernel.loads[0].cmdline == b"label=\xff"
    record = loaded_record(run_dir, root=kernel.tree.root)
    assert record and record.cmdline == "label=\udcff"


def test_what_was_loaded_is_written_down(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    record = put(target, kernel, run_dir)
    assert record.kernel.path == target.kernel.path
    assert record.kernel.sha256 == hashlib.sha256(KERNEL).hexdigest()
    assert record.initrds[0].sha256 == hashlib.sha256(MICROCODE).hexdigest()
    assert record.initrds[1].sha256 == hashlib.sha256(INITRD).hexdigest()
    assert (record.version, record.method, record.loaded_at) == ("6.1.0", LoadMethod.KEXEC_FILE_LOAD, 1000.0)
    assert loaded_record(run_dir, root=kernel.tree.root) == record
    assert os.stat(f"{run_dir}/image.json").st_mode & 0o777 == 0o600
    assert os.listdir(run_dir) == ["image.json"]


def test_the_descriptors_stay_open_and_where_they_were(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    before = os.listdir("/proc/self/fd")
    put(target, kernel, run_dir)
    assert os.listdir("/proc/self/fd") == before
    assert os.lseek(target.kernel.fd, 0, os.SEEK_CUR) == 0


# What can be known without a call is known without a call


@pytest.mark.parametrize(
    "row",
    [
        ("no capability", NotPermitted, "CAP_SYS_BOOT"),
        ("switched off", Forbidden, "kernel.kexec_load_disabled is 1"),
        ("limit used up", Forbidden, "kernel.kexec_load_limit_reboot is 0"),
        ("no kexec", Unsupported, "says nothing about kexec"),
    ],
)
def test_a_hopeless_load_costs_no_call(
    target: BootTarget, kernel: FakeKernel, run_dir: str, row: tuple[str, type[Refusal], str]
) -> None:
    state, refusal, why = row
    forbid(kernel.tree, state)
    caught = refused(target, kernel, run_dir)
    assert type(caught) is refusal
    assert why in caught.why
    assert caught.hint
    assert kernel.calls == 0


def test_a_command_line_with_a_nul_is_refused(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    assert isinstance(refused(replace(target, cmdline="ro\0 init=/bin/sh"), kernel, run_dir), BadConfig)
    assert kernel.calls == 0


# A kernel that is busy


def test_a_busy_kernel_is_asked_again(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    kernel.answers = [errno.EBUSY] * 3
    assert put(target, kernel, run_dir).method is LoadMethod.KEXEC_FILE_LOAD
    assert kernel.calls == 4


def test_a_kernel_that_stays_busy_is_given_up(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    kernel.answers, clock = [errno.EBUSY] * 1000, Clock()
    with pytest.raises(Busy) as caught:
        put(target, kernel, run_dir, clock)
    assert caught.value.errno == errno.EBUSY
    assert clock.time - 50 < 11
    assert kernel.calls <= BUSY_CALLS + 1


def test_a_busy_kernel_is_not_asked_more_often_than_it_permits(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    kernel.answers = [errno.EBUSY] * 1000
    kernel.tree.write("proc/sys/kernel/kexec_load_limit_reboot", "1\n")
    kernel.during_load = lambda: forbid(kernel.tree, "limit used up")
    assert isinstance(refused(target, kernel, run_dir), Busy)
    assert kernel.calls == 1


# What is said to be loaded now


def test_a_failed_load_leaves_the_earlier_image_and_its_record(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    earlier = put(target, kernel, run_dir)
    kernel.answers = [errno.ENOMEM]
    assert refused(target, kernel, run_dir).instead == "the image loaded before stays"
    assert loaded_record(run_dir, root=kernel.tree.root) == earlier


def test_a_failed_first_load_leaves_nothing(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    kernel.answers = [errno.ENOMEM]
    assert refused(target, kernel, run_dir).instead == "no image is loaded"


def test_while_the_kernel_works_there_is_no_record_that_could_be_wrong(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    put(target, kernel, run_dir)
    seen: list[ImageRecord | None] = []
    kernel.during_load = lambda: seen.append(loaded_record(run_dir, root=kernel.tree.root))
    put(target, kernel, run_dir)
    assert seen == [None]


# When we fail after the kernel has not


def test_a_kernel_that_changes_while_it_is_loaded_is_unloaded(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    kernel.during_load = lambda: os.truncate(target.kernel.path, 100)
    caught = refused(target, kernel, run_dir)
    assert isinstance(caught, BadImage)
    assert "changed while it was read" in caught.why
    assert caught.instead == "no image is loaded"
    assert not kernel.tree.loaded
    assert os.listdir(run_dir) == [] if os.path.isdir(run_dir) else True


def test_an_initrd_that_shrank_before_the_load_is_not_loaded(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    os.truncate(target.initrds[1].path, 100)
    assert isinstance(refused(target, kernel, run_dir), BadImage)
    assert kernel.calls == 0


def test_an_image_that_cannot_be_recorded_is_unloaded(target: BootTarget, kernel: FakeKernel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    caught = refused(target, kernel, str(tmp_path / "file" / "run"))
    assert "cannot be written" in caught.why
    assert caught.errno == errno.ENOTDIR
    assert not kernel.tree.loaded


def test_an_image_that_cannot_be_unloaded_either_is_owned_up_to(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    kernel.during_load = lambda: os.truncate(target.kernel.path, 100)
    kernel.unload_answers = [errno.EPERM]
    assert "an image is loaded that should not be" in refused(target, kernel, run_dir).instead
    assert kernel.tree.loaded
    assert loaded_record(run_dir, root=kernel.tree.root) is None


def test_an_image_that_somebody_unloads_at_once_is_missed(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    class Unlucky(FakeKernel):
        def file_load(self, kernel_fd: int, initrd_fd: int, cmdline: bytes, flags: int) -> None:
            super().file_load(kernel_fd, initrd_fd, cmdline, flags)
            self.tree.loaded = False

    assert isinstance(refused(target, Unlucky(kernel.tree), run_dir), NotLoaded)


def test_an_interrupted_load_is_taken_back(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    def interrupt() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(target, kernel=kernel, run_dir=run_dir, root=kernel.tree.root, now=interrupt)
    assert not kernel.tree.loaded
