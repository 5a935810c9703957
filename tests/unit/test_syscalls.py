# SPDX-License-Identifier: MIT
"""The system calls, as far as they can be made on the machine that tests: numbers, arguments, errors, and the guard.

The C library is replaced by one that writes down what it was asked; the real calls are made in virtual machines.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

import pytest

from kexecd.errors import NotPermitted, Unsupported
from kexecd.kernel import guard, syscalls


class FakeLibrary:
    """Answers each call with the next errno of its script; 0, and then success, for ever."""

    def __init__(self, *answers: int) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.answers = list(answers)

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            plain = (getattr(argument, "value", argument) for argument in arguments)
            self.calls.append((name, *plain))
            number = self.answers.pop(0) if self.answers else 0
            ctypes.set_errno(number)
            return -1 if number else 0

        return call


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    fake = FakeLibrary()
    monkeypatch.setattr(syscalls, "_libc", fake)
    monkeypatch.setattr(syscalls, "forbid_in_tests", lambda deed: None)
    monkeypatch.setattr(syscalls, "_numbers", lambda: syscalls.NUMBERS["x86_64"])
    return fake


@pytest.mark.parametrize(
    ("machine", "load", "file_load", "reboot"),
    [
        ("x86_64", 246, 320, 169),
        ("aarch64", 104, 294, 142),
        ("riscv64", 104, 294, 142),
        ("ppc64", 268, 382, 88),
        ("ppc64le", 268, 382, 88),
        ("s390x", 277, 381, 88),
    ],
)
def test_each_machine_type_has_its_numbers(machine: str, load: int, file_load: int, reboot: int) -> None:
    assert syscalls.numbers(machine, wide=True) == (load, file_load, reboot)


def test_an_unknown_machine_type_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="the system call numbers of vax are not known"):
        syscalls.numbers("vax", wide=True)


def test_a_32_bit_program_on_a_64_bit_kernel_is_refused() -> None:
    with pytest.raises(Unsupported, match="32-bit Python on x86_64"):
        syscalls.numbers("x86_64", wide=False)


def test_the_command_line_is_passed_with_its_nul_counted(library: FakeLibrary) -> None:
    syscalls.kexec_file_load(5, 6, b"ro quiet", 0)
    assert library.calls == [("syscall", 320, 5, 6, 9, b"ro quiet", 0)]


def test_no_initrd_is_minus_one_and_a_flag(library: FakeLibrary) -> None:
    syscalls.kexec_file_load(5, -1, b"", syscalls.KEXEC_FILE_NO_INITRAMFS)
    assert library.calls == [("syscall", 320, 5, -1, 1, b"", 4)]


def test_unloading_is_a_flag_and_looks_at_no_file(library: FakeLibrary) -> None:
    syscalls.kexec_unload()
    assert library.calls == [("syscall", 320, -1, -1, 0, None, 1)]


def test_a_kernel_that_has_only_the_older_call_unloads_by_that(library: FakeLibrary) -> None:
    library.answers = [errno.ENOSYS]
    syscalls.kexec_unload()
    assert library.calls[1:] == [("syscall", 246, 0, 0, None, 0)]


def test_no_other_error_of_unloading_leads_to_the_older_call(library: FakeLibrary) -> None:
    library.answers = [errno.EPERM]
    with pytest.raises(PermissionError, match="kexec_file_load"):
        syscalls.kexec_unload()
    assert len(library.calls) == 1


@pytest.mark.parametrize("command", [syscalls.LINUX_REBOOT_CMD_KEXEC, syscalls.LINUX_REBOOT_CMD_RESTART])
def test_a_restart_carries_both_magics(library: FakeLibrary, command: int) -> None:
    syscalls.reboot(command)
    assert library.calls == [("syscall", 169, 0xFEE1DEAD, 672274793, command, None)]


def test_read_only_is_asked_of_the_filesystem_and_not_of_one_mount(library: FakeLibrary) -> None:
    syscalls.remount_read_only("/home/a b")
    assert library.calls == [("mount", None, b"/home/a b", None, 0x21, None)]


def test_a_remount_of_one_mount_names_its_flags(library: FakeLibrary) -> None:
    syscalls.remount("/srv", syscalls.MS_BIND | syscalls.MS_RDONLY, "errors=remount-ro")
    assert library.calls == [("mount", None, b"/srv", None, 0x1021, b"errors=remount-ro")]


def test_unmounting_follows_no_symbolic_link(library: FakeLibrary) -> None:
    syscalls.umount("/mnt/\udcff")
    assert library.calls == [("umount2", b"/mnt/\xff", 0x8)]


@pytest.mark.parametrize(
    ("call", "name", "path"),
    [
        (lambda: syscalls.kexec_file_load(5, 6, b""), "kexec_file_load", None),
        (lambda: syscalls.reboot(syscalls.LINUX_REBOOT_CMD_KEXEC), "reboot", None),
        (lambda: syscalls.remount_read_only("/srv"), "mount", "/srv"),
        (lambda: syscalls.umount("/srv"), "umount2", "/srv"),
        (lambda: syscalls.syncfs(3), "syncfs", None),
        (lambda: syscalls.swapoff("/swap"), "swapoff", "/swap"),
    ],
)
def test_a_failure_names_errno_call_and_path(
    library: FakeLibrary, call: Callable[[], None], name: str, path: str | None
) -> None:
    library.answers = [errno.EBUSY]
    with pytest.raises(OSError) as caught:
        call()
    assert (caught.value.errno, caught.value.strerror, caught.value.filename) == (errno.EBUSY, name, path)


@pytest.mark.parametrize(
    "call",
    [
        lambda: syscalls.kexec_file_load(-1, -1, b""),
        syscalls.kexec_unload,
        lambda: syscalls.reboot(syscalls.LINUX_REBOOT_CMD_KEXEC),
        lambda: syscalls.remount_read_only("/"),
        lambda: syscalls.umount("/"),
        lambda: syscalls.swapoff("/swap"),
    ],
    ids=["load", "unload", "reboot", "remount", "umount", "swapoff"],
)
def test_nothing_irreversible_is_done_by_a_test(monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(syscalls, "_libc", library)  # should the guard be gone, this is what is called
    monkeypatch.setattr(syscalls, "_numbers", lambda: syscalls.NUMBERS["x86_64"])
    monkeypatch.setattr(guard, "_in_initial_pid_namespace", lambda: True)
    with pytest.raises(NotPermitted):
        call()
    assert library.calls == []


def test_writing_back_one_filesystem_is_really_done(tmp_path: os.PathLike[str]) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="syncfs") as caught:
        syscalls.syncfs(fd)
    assert caught.value.errno == errno.EBADF
