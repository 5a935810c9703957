# SPDX-License-Identifier: MIT
"""What the tests of packaging share: the Debian package, built once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.packaging.installed import TOP

BUILD = TOP / "packaging/debian/build"


def build(directory: Path, build: Path = BUILD) -> Path:
    """The package of the tree that `build` lies in."""
    done = subprocess.run([build, directory], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(directory.glob("*.deb"))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb"))
