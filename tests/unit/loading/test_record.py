# SPDX-License-Identifier: MIT
"""The record of what is loaded, and how it ends: by unloading, or by not being true any more."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kexecd.errors import Forbidden, Refusal
from kexecd.loader import loaded_record, unload
from kexecd.model import BootTarget
from tests.unit.kernel_tree import BOOT_ID, Clock, FakeKernel, forbid, put

# The record


def test_a_record_of_another_boot_describes_nothing(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    put(target, kernel, run_dir)
    kernel.tree.write("proc/sys/kernel/random/boot_id", BOOT_ID.replace("6", "7"))
    assert loaded_record(run_dir, root=kernel.tree.root) is None


def test_a_record_without_an_image_describes_nothing(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    put(target, kernel, run_dir)
    kernel.tree.loaded = False
    assert loaded_record(run_dir, root=kernel.tree.root) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "{}", f'{{"boot_id": "{BOOT_ID}"}}', "[" * 9999])
def test_a_damaged_record_describes_nothing(kernel: FakeKernel, tmp_path: Path, text: str) -> None:
    kernel.tree.loaded = True
    (tmp_path / "image.json").write_text(text)
    assert loaded_record(str(tmp_path), root=kernel.tree.root) is None


# Unloading


def test_unloading_forgets_the_record_and_says_that_there_was_an_image(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    put(target, kernel, run_dir)
    assert unload(kernel=kernel, run_dir=run_dir, root=kernel.tree.root)
    assert not kernel.tree.loaded
    assert os.listdir(run_dir) == []


def test_unloading_nothing_is_no_error_and_no_call(kernel: FakeKernel, run_dir: str) -> None:
    assert not unload(kernel=kernel, run_dir=run_dir, root=kernel.tree.root)
    assert kernel.calls == 0


def test_unloading_removes_a_record_that_was_left_behind(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    put(target, kernel, run_dir)
    kernel.tree.loaded = False
    assert not unload(kernel=kernel, run_dir=run_dir, root=kernel.tree.root)
    assert os.listdir(run_dir) == []


@pytest.mark.parametrize("state", ["no capability", "switched off", "limit used up"])
def test_an_image_that_may_not_be_unloaded_is_said_to_stay(kernel: FakeKernel, run_dir: str, state: str) -> None:
    kernel.tree.loaded = True
    forbid(kernel.tree, state)
    with pytest.raises(Refusal, match="cannot unload the image: .*; the image loaded before stays"):
        unload(kernel=kernel, run_dir=run_dir, root=kernel.tree.root)
    assert kernel.calls == 0


def test_unloading_waits_for_a_busy_kernel_too(kernel: FakeKernel, run_dir: str) -> None:
    kernel.tree.loaded, kernel.unload_answers, clock = True, [errno.EBUSY, errno.EBUSY], Clock()
    assert unload(kernel=kernel, run_dir=run_dir, root=kernel.tree.root, clock=clock.now, sleep=clock.sleep)
    assert kernel.calls == 3


def test_a_refused_unload_names_the_errno(kernel: FakeKernel, run_dir: str) -> None:
    kernel.tree.loaded, kernel.unload_answers = True, [errno.EPERM]
    with pytest.raises(Forbidden) as caught:
        unload(kernel=kernel, run_dir=run_dir, root=kernel.tree.root)
    assert caught.value.errno == errno.EPERM
