# SPDX-License-Identifier: MIT
"""What the kernel tells about itself, from a captured tree."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kexecd.kernel import sysfs
from tests.unit.kernel_tree import BOOT_ID, KernelTree


@pytest.fixture
def tree(tmp_path: Path) -> KernelTree:
    return KernelTree(tmp_path)


def test_an_image_is_seen_under_the_old_name(tree: KernelTree) -> None:
    assert not sysfs.kexec_loaded(tree.root)
    tree.loaded = True
    assert sysfs.kexec_loaded(tree.root)


def test_the_new_name_counts_where_both_are_there(tree: KernelTree) -> None:
    tree.write("sys/kernel/kexec/loaded", "1\n")
    tree.write("sys/kernel/kexec/crash_loaded", "1\n")
    assert sysfs.kexec_loaded(tree.root)
    assert sysfs.crash_loaded(tree.root)


def test_a_crash_kernel_is_not_an_image(tree: KernelTree) -> None:
    tree.write("sys/kernel/kexec_crash_loaded", "1\n")
    assert sysfs.crash_loaded(tree.root)
    assert not sysfs.kexec_loaded(tree.root)


def test_a_kernel_without_kexec_is_told_from_one_without_an_image(tree: KernelTree) -> None:
    assert sysfs.kexec_supported(tree.root)
    tree.remove("sys/kernel/kexec_loaded")
    assert not sysfs.kexec_supported(tree.root)
    assert not sysfs.kexec_loaded(tree.root)


def test_loading_is_known_to_be_switched_off(tree: KernelTree) -> None:
    assert not sysfs.kexec_load_disabled(tree.root)
    tree.write("proc/sys/kernel/kexec_load_disabled", "1\n")
    assert sysfs.kexec_load_disabled(tree.root)


@pytest.mark.parametrize(("text", "limit"), [("-1\n", None), ("0\n", 0), ("7\n", 7), ("what\n", None), ("", None)])
def test_the_limit_of_loads_is_a_number_or_none(tree: KernelTree, text: str, limit: int | None) -> None:
    tree.write("proc/sys/kernel/kexec_load_limit_reboot", text)
    assert sysfs.kexec_load_limit_reboot(tree.root) == limit


@pytest.mark.parametrize("word", ["none", "integrity", "confidentiality"])
def test_lockdown_is_the_word_in_brackets(tree: KernelTree, word: str) -> None:
    words = " ".join(f"[{w}]" if w == word else w for w in ("none", "integrity", "confidentiality"))
    tree.write("sys/kernel/security/lockdown", words + "\n")
    assert sysfs.lockdown(tree.root) == word


def test_a_kernel_without_lockdown_says_nothing(tree: KernelTree) -> None:
    assert sysfs.lockdown(tree.root) == ""


@pytest.mark.parametrize(
    ("cmdline", "on"),
    [("ro", False), ("kho=on", True), ("kho=1 ro", True), ("kho=off", False), ("kho=on kho=0", False)],
)
def test_handover_is_read_from_the_command_line_where_the_last_word_counts(
    tree: KernelTree, cmdline: str, on: bool
) -> None:
    tree.write("proc/cmdline", cmdline + "\n")
    assert sysfs.kho(tree.root) is on


def test_handover_that_is_on_by_default_shows_in_debugfs(tree: KernelTree) -> None:
    tree.write("sys/kernel/debug/kho/out/scratch_len", "")
    assert sysfs.kho(tree.root)


def test_the_boot_id_and_the_command_line_come_without_their_newline(tree: KernelTree) -> None:
    assert sysfs.boot_id(tree.root) == BOOT_ID
    assert sysfs.running_cmdline(tree.root) == "root=/dev/vda1 ro"


def test_memory_is_in_bytes(tree: KernelTree) -> None:
    assert sysfs.mem_available(tree.root) == 2048000 * 1024
    assert sysfs.writeback(tree.root) == 128 * 1024


def test_a_directory_without_proc_answers_like_a_kernel_without_the_feature(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert (sysfs.boot_id(root), sysfs.lockdown(root)) == ("", "")
    assert (sysfs.mem_available(root), sysfs.writeback(root)) == (0, 0)
    assert not sysfs.has_cap_sys_boot(root)


@pytest.mark.parametrize(
    ("capabilities", "may"),
    [("000001ffffffffff", True), ("0000000000400000", True), ("000001ffffbfffff", False), ("0000000000000000", False)],
)
def test_the_capability_is_bit_22_of_the_effective_ones(tree: KernelTree, capabilities: str, may: bool) -> None:
    status = f"CapPrm:\t000001ffffffffff\nCapEff:\t{capabilities}\nCapBnd:\t000001ffffffffff\n"
    tree.write("proc/self/status", status)
    assert sysfs.has_cap_sys_boot(tree.root) is may


def test_this_machine_answers_too() -> None:
    assert sysfs.kernel_release() == os.uname().release
    assert sysfs.architecture() == os.uname().machine
    assert len(sysfs.boot_id()) == 36
    assert sysfs.mem_available() > 0
    assert 0 < sysfs.uptime() < time.time()
