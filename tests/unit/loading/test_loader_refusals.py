# SPDX-License-Identifier: MIT
"""Every errno of kexec_file_load(2) has its own refusal, and a few of them a second attempt with kexec-tools."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd.errors import BadImage, BadSignature, Busy, Forbidden, NoMemory, NotPermitted, Refusal, Unsupported
from kexecd.kernel import kexec_tools, spawn
from kexecd.kernel.kexec_errors import CAUSES, ENOTSUPP, diagnose
from kexecd.kernel.kexec_tools import ToolFailed, find, last_words
from kexecd.loader import KERNEL as REAL_KERNEL
from kexecd.loader import loaded_record
from kexecd.model import BootTarget, LoadMethod
from tests.unit.kernel_tree import CMDLINE, INITRD, KERNEL, MICROCODE, FakeKernel, KernelTree, put

LOCKED = "none [integrity] confidentiality\n"


def refused(target: BootTarget, kernel: FakeKernel, run_dir: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        put(target, kernel, run_dir)
    return caught.value


def a_tool(kernel: FakeKernel, tmp_path: Path, script: str) -> None:
    """Put a program in the place of kexec(8)."""
    path = tmp_path / "kexec"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    kernel.tool = str(path)


# The table

ROWS = [
    (errno.EACCES, Forbidden, "security module"),
    (errno.ENOKEY, BadSignature, "none of the trusted keyrings"),
    (errno.EKEYREJECTED, BadSignature, "not valid"),
    (errno.EKEYREVOKED, BadSignature, "revoked"),
    (errno.EKEYEXPIRED, BadSignature, "expired"),
    (errno.ENODATA, BadSignature, "is not signed"),
    (errno.ELIBBAD, BadSignature, "not a PE file"),
    (errno.EBADMSG, BadSignature, "damaged"),
    (errno.ENOPKG, BadSignature, "algorithm"),
    (ENOTSUPP, BadSignature, "does not know"),
    (errno.ENOMEM, NoMemory, r"not enough free memory for kernel and initrd \(2000 MiB are available\)"),
    (errno.EADDRNOTAVAIL, NoMemory, "no free stretch of memory"),
    (errno.EINVAL, BadImage, "format or this command line"),
    (errno.ENOEXEC, BadImage, "no loader for this kernel's format"),
    (errno.EBUSY, Busy, "somebody else is loading"),
    (errno.ENOSYS, Unsupported, r"no kexec_file_load\(2\)"),
    (errno.ETXTBSY, BadImage, "open for writing"),
    (errno.EFBIG, BadImage, "too large"),
    (errno.ESTALE, BadImage, "changed while it was read"),
    (errno.EIO, BadImage, "cannot be read"),
]


@pytest.mark.parametrize("row", ROWS, ids=[errno.errorcode.get(row[0], "524") for row in ROWS])
def test_each_errno_names_its_cause_and_a_remedy(
    target: BootTarget, kernel: FakeKernel, run_dir: str, row: tuple[int, type[Refusal], str]
) -> None:
    number, refusal, why = row
    kernel.answers = [number] * 100
    with pytest.raises(refusal, match=why) as caught:
        put(target, kernel, run_dir)
    assert type(caught.value) is refusal
    assert caught.value.errno == number
    assert caught.value.hint
    assert caught.value.instead == "no image is loaded"


def test_no_row_of_the_table_is_without_a_test() -> None:
    assert {number for number, _, _ in ROWS} == set(CAUSES)


def test_an_errno_that_nobody_expected_is_passed_on(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    kernel.answers = [errno.EMFILE]
    caught = refused(target, kernel, run_dir)
    assert (caught.errno_name, caught.why) == ("EMFILE", "the kernel said: too many open files")


# EPERM, which has five causes


def after_the_checks(kernel: FakeKernel, name: str, text: str) -> None:
    """Let something be forbidden by the time the kernel looks, and not yet when we did."""
    kernel.during_load = lambda: kernel.tree.write(name, text)


@pytest.mark.parametrize(
    "row",
    [
        ("proc/self/status", "CapEff:\t0000000000000000\n", NotPermitted, "CAP_SYS_BOOT"),
        ("proc/sys/kernel/kexec_load_disabled", "1\n", Forbidden, "kexec_load_disabled is 1"),
        ("proc/sys/kernel/kexec_load_limit_reboot", "0\n", Forbidden, "kexec_load_limit_reboot is 0"),
        ("sys/kernel/security/lockdown", LOCKED, Forbidden, r"locked down \(integrity\)"),
        ("proc/uptime", "", Forbidden, "a security module said no"),
    ],
    ids=["capability", "sysctl", "limit", "lockdown", "another module"],
)
def test_eperm_names_which_of_its_causes_it_was(
    target: BootTarget, kernel: FakeKernel, run_dir: str, row: tuple[str, str, type[Refusal], str]
) -> None:
    name, text, refusal, why = row
    kernel.answers = [errno.EPERM]
    after_the_checks(kernel, name, text)
    with pytest.raises(refusal, match=why) as caught:
        put(target, kernel, run_dir)
    assert (caught.value.errno, bool(caught.value.hint)) == (errno.EPERM, True)


def test_the_last_call_that_is_refused_for_lockdown_is_not_blamed_on_the_limit(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    kernel.tree.write("sys/kernel/security/lockdown", LOCKED)
    kernel.tree.write("proc/sys/kernel/kexec_load_limit_reboot", "1\n")
    kernel.answers = [errno.EPERM]
    after_the_checks(kernel, "proc/sys/kernel/kexec_load_limit_reboot", "0\n")
    assert "locked down" in refused(target, kernel, run_dir).why


def test_want_of_room_under_handover_names_its_scratch_areas(
    target: BootTarget, kernel: FakeKernel, run_dir: str
) -> None:
    kernel.tree.write("proc/cmdline", "kho=on\n")
    kernel.answers = [errno.EADDRNOTAVAIL]
    caught = refused(target, kernel, run_dir)
    assert "scratch areas" in caught.why
    assert "kho_scratch=" in caught.hint


def test_a_command_line_that_is_too_long_is_named(tree: KernelTree) -> None:
    assert "the command line has 9000 bytes" in diagnose(errno.EINVAL, b"x" * 9000, tree.root).why
    assert "the command line has" not in diagnose(errno.EINVAL, b"ro", tree.root).why


# kexec-tools

# Writes down its arguments and what the files are that it was handed, and tells the kernel.
GOOD = """
printf '%s\\n' "$@" > {out}/arguments
cat "$3" > {out}/kernel
case "$4" in --initrd=*) cat "${{4#--initrd=}}" > {out}/initrd ;; esac
cat > {out}/stdin
env > {out}/environment
echo 1 > {root}/sys/kernel/kexec_loaded
"""


def a_good_tool(kernel: FakeKernel, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    a_tool(kernel, tmp_path, GOOD.format(out=out, root=kernel.tree.root))
    return out


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOEXEC, errno.EINVAL])
def test_kexec_tools_gets_what_the_kernel_cannot_read(
    target: BootTarget, kernel: FakeKernel, run_dir: str, tmp_path: Path, number: int
) -> None:
    a_good_tool(kernel, tmp_path)
    kernel.answers = [number]
    record = put(target, kernel, run_dir)
    assert record.method is LoadMethod.KEXEC_TOOLS
    assert loaded_record(run_dir, root=kernel.tree.root) == record


def test_kexec_tools_loads_the_very_files_that_were_checked(
    target: BootTarget, kernel: FakeKernel, run_dir: str, tmp_path: Path
) -> None:
    out = a_good_tool(kernel, tmp_path)
    kernel.answers = [errno.ENOEXEC]
    kernel.during_load = lambda: os.rename(target.kernel.path, f"{target.kernel.path}.old")
    moved = refused(target, kernel, run_dir)  # renaming changes the ctime, so that this load is taken back
    assert "changed while it was read" in moved.why
    arguments = (out / "arguments").read_text().splitlines()
    assert arguments[:3] == ["-c", "-l", f"/proc/self/fd/{target.kernel.fd}"]
    assert arguments[3].startswith("--initrd=/proc/self/fd/")
    assert arguments[4:] == [f"--command-line={CMDLINE}"]
    assert (out / "kernel").read_bytes() == KERNEL
    assert (out / "initrd").read_bytes() == MICROCODE + b"\0\0\0" + INITRD


def test_kexec_tools_gets_no_input_and_a_rebuilt_environment(
    target: BootTarget, kernel: FakeKernel, run_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD_OF_SOMEBODY", "1")
    out = a_good_tool(kernel, tmp_path)
    kernel.answers = [errno.ENOEXEC]
    put(target, kernel, run_dir)
    assert (out / "stdin").read_bytes() == b""
    assert "LD_PRELOAD_OF_SOMEBODY" not in (out / "environment").read_text()
    assert "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n" in (out / "environment").read_text()


def test_without_an_initrd_kexec_tools_is_given_none(
    target: BootTarget, kernel: FakeKernel, run_dir: str, tmp_path: Path
) -> None:
    out = a_good_tool(kernel, tmp_path)
    kernel.answers = [errno.ENOSYS]
    put(replace(target, initrds=(), cmdline="label=\udcff"), kernel, run_dir)
    arguments = (out / "arguments").read_bytes().splitlines()
    assert arguments[3:] == [b"--command-line=label=\xff"]


@pytest.mark.parametrize("number", sorted(set(CAUSES) - {errno.ENOSYS, errno.ENOEXEC, errno.EINVAL} | {errno.EPERM}))
def test_kexec_tools_is_not_a_way_around_any_other_refusal(
    target: BootTarget, kernel: FakeKernel, run_dir: str, tmp_path: Path, number: int
) -> None:
    out = a_good_tool(kernel, tmp_path)
    kernel.answers = [number] * 100
    refused(target, kernel, run_dir)
    assert not (out / "arguments").exists()


def test_kexec_tools_is_not_a_way_around_lockdown(
    target: BootTarget, kernel: FakeKernel, run_dir: str, tmp_path: Path
) -> None:
    out = a_good_tool(kernel, tmp_path)
    kernel.tree.write("sys/kernel/security/lockdown", LOCKED)
    kernel.answers = [errno.ENOEXEC]
    assert "cannot help while the kernel is locked down" in refused(target, kernel, run_dir).why
    assert not (out / "arguments").exists()


def test_that_there_is_no_kexec_tools_is_said(target: BootTarget, kernel: FakeKernel, run_dir: str) -> None:
    kernel.answers = [errno.ENOEXEC]
    caught = refused(target, kernel, run_dir)
    assert isinstance(caught, BadImage)
    assert caught.why.endswith("and kexec-tools did not help: it is not installed, there is no /nonexistent/kexec")
    assert caught.errno == errno.ENOEXEC


def test_the_last_line_of_kexec_tools_is_passed_on(
    target: BootTarget, kernel: FakeKernel, run_dir: str, tmp_path: Path
) -> None:
    kernel.tree.loaded = True
    a_tool(kernel, tmp_path, "echo first >&2; echo 'Cannot determine the file type' >&2; echo; exit 255")
    kernel.answers = [errno.ENOEXEC]
    caught = refused(target, kernel, run_dir)
    assert caught.why.endswith("kexec-tools did not help: Cannot determine the file type")
    assert caught.instead == "the image loaded before stays"


def test_a_tool_that_was_killed_may_have_loaded_so_nothing_stays(
    target: BootTarget, kernel: FakeKernel, run_dir: str, tmp_path: Path
) -> None:
    put(target, kernel, run_dir)
    a_tool(kernel, tmp_path, "kill -9 $$")
    kernel.answers = [errno.ENOEXEC]
    caught = refused(target, kernel, run_dir)
    assert "ended with signal 9" in caught.why
    assert caught.instead == "no image is loaded"
    assert (kernel.tree.loaded, os.listdir(run_dir)) == (False, [])


def test_a_tool_that_does_not_end_is_ended(target: BootTarget, tmp_path: Path, kernel: FakeKernel) -> None:
    a_tool(kernel, tmp_path, "sleep 60")
    with pytest.raises(ToolFailed, match="did not end within 0.2 s") as caught:
        kexec_tools.load(kernel.tool, target.kernel.fd, None, b"", patience=0.2)
    assert caught.value.killed


def test_a_tool_that_cannot_be_started_says_why(target: BootTarget, kernel: FakeKernel, tmp_path: Path) -> None:
    (tmp_path / "kexec").write_text("#!/nonexistent/interpreter\n")
    (tmp_path / "kexec").chmod(0o755)
    with pytest.raises(ToolFailed, match="cannot be started: no such file"):
        kexec_tools.load(str(tmp_path / "kexec"), target.kernel.fd, None, b"")


def test_the_first_tool_that_can_be_executed_is_taken(tmp_path: Path) -> None:
    for name, mode in (("first", 0o644), ("second", 0o755), ("third", 0o755)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    assert find([str(tmp_path / name) for name in ("zeroth", "first", "second", "third")]) == str(tmp_path / "second")


def test_the_dump_below_the_error_is_passed_over() -> None:
    stderr = "Some warning\nkexec_load failed: Cannot allocate \x1b[31mmemory\n"
    stderr += "entry       = 0x1 flags = 0x3e0000\nnr_segments = 1\nsegment[0].buf   = 0x7f\n"
    assert last_words(stderr) == "kexec_load failed: Cannot allocate [31mmemory"
    assert last_words("\n \n") == ""


def test_the_real_tool_is_out_of_a_tests_reach() -> None:
    with pytest.raises(NotPermitted):
        REAL_KERNEL.tools()


def test_starting_programs_is_imported_only_when_one_is_started() -> None:
    late = ("subprocess", "hashlib", spawn.__name__)
    code = f"import sys, kexecd.loader; sys.exit(any(name in sys.modules for name in {late}))"
    top = str(Path(__file__).parents[2])
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", code], {"PYTHONPATH": top}) == 0
