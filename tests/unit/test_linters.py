# SPDX-License-Identifier: MIT
"""The linters are tests: what they find fails like anything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["mypy"]], ids=["ruff", "mypy"])
def test_linter_finds_nothing(command: list[str]) -> None:
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=TOP, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_source_file_names_its_licence() -> None:
    for folder in ("kexecd", "tests"):
        for path in (TOP / folder).rglob("*.py"):
            assert path.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: MIT\n"), path
