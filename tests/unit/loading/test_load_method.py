# SPDX-License-Identifier: MIT
"""Which call loads the image, where the configuration insists on one; and what kexec-tools is given on top."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.config.kexec_options import Method
from kexecd.errors import BadImage, Refusal, Unsupported
from kexecd.loader import load, loaded_record
from kexecd.model import BootTarget, ImageRecord, LoadMethod
from tests.unit.kernel_tree import CMDLINE, FakeKernel, KernelTree, a_target

TOOL = """#!/bin/sh
printf '%s\\n' "$@" > {out}
echo 1 > {root}/sys/kernel/kexec_loaded
"""


class Stage:
    """A kernel, a kexec(8) that writes down its arguments, and a target to load."""

    def __init__(self, path: Path, target: BootTarget) -> None:
        self.tree, self.target, self.out = KernelTree(path / "root"), target, path / "arguments"
        self.kernel, self.run_dir = FakeKernel(self.tree), str(path / "run")
        self.tool = path / "kexec"
        self.tool.write_text(TOOL.format(out=self.out, root=self.tree.root))
        self.tool.chmod(0o755)
        self.kernel.tool = str(self.tool)

    def load(self, method: Method, *passed: str) -> ImageRecord:
        return load(
            self.target,
            method=method,
            passed=passed,
            kernel=self.kernel,
            run_dir=self.run_dir,
            root=self.tree.root,
            now=lambda: 1000.0,
        )

    def refusal(self, method: Method) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.load(method)
        return caught.value

    def arguments(self) -> list[str] | None:
        return self.out.read_text().splitlines() if self.out.exists() else None


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with a_target(tmp_path) as target:
        yield Stage(tmp_path, target)


def test_kexec_tools_alone_makes_no_call_of_ours(stage: Stage) -> None:
    record = stage.load(Method.TOOLS)
    assert record.method is LoadMethod.KEXEC_TOOLS
    assert stage.kernel.loads == []
    assert loaded_record(stage.run_dir, root=stage.tree.root) == record


def test_further_options_stand_in_front_so_that_ours_count(stage: Stage) -> None:
    stage.load(Method.TOOLS, "-d", "--mem-max=0x1000")
    arguments = stage.arguments()
    assert arguments is not None
    assert arguments[:4] == ["-d", "--mem-max=0x1000", "-c", "-l"]
    assert arguments[-1] == f"--command-line={CMDLINE}"


def test_they_are_given_too_where_kexec_tools_helps_out(stage: Stage) -> None:
    stage.kernel.answers = [errno.ENOEXEC]
    assert stage.load(Method.AUTO, "-d").method is LoadMethod.KEXEC_TOOLS
    assert (stage.arguments() or [])[0] == "-d"


def test_without_need_kexec_tools_is_not_asked(stage: Stage) -> None:
    assert stage.load(Method.AUTO, "-d").method is LoadMethod.KEXEC_FILE_LOAD
    assert stage.arguments() is None


def test_kexec_file_load_alone_is_never_helped_out(stage: Stage) -> None:
    stage.kernel.answers = [errno.ENOEXEC]
    refusal = stage.refusal(Method.FILE)
    assert isinstance(refusal, BadImage)
    assert refusal.errno == errno.ENOEXEC
    assert stage.arguments() is None


def test_kexec_tools_alone_cannot_get_around_lockdown(stage: Stage) -> None:
    stage.tree.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    refusal = stage.refusal(Method.TOOLS)
    assert isinstance(refusal, Unsupported)
    assert refusal.why == "kexec-tools cannot help while the kernel is locked down"
    assert refusal.hint == "KEXEC_OPT_ARGS asks for kexec-tools and for nothing else"
    assert stage.arguments() is None


def test_what_kexec_tools_says_is_passed_on(stage: Stage) -> None:
    stage.tool.write_text("#!/bin/sh\necho 'Cannot determine the file type' >&2; exit 255\n")
    refusal = stage.refusal(Method.TOOLS)
    assert refusal.why == "kexec-tools did not help: Cannot determine the file type"
    assert refusal.instead == "no image is loaded"
    assert stage.kernel.loads == []
