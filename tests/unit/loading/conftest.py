# SPDX-License-Identifier: MIT
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.model import BootTarget
from tests.unit.kernel_tree import FakeKernel, KernelTree, a_target


@pytest.fixture
def tree(tmp_path: Path) -> KernelTree:
    return KernelTree(tmp_path / "root")


@pytest.fixture
def kernel(tree: KernelTree) -> FakeKernel:
    return FakeKernel(tree)


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[BootTarget]:
    with a_target(tmp_path) as target:
        yield target
