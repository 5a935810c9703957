# SPDX-License-Identifier: MIT
"""What is told of kexecctl's commands beside its own help: the manual page, and what bash completes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from kexecd.cli.main import COMMANDS
from tests.packaging.installed import TOP, install

COMPLETION = "share/bash-completion/completions/kexecctl"


def test_each_command_is_in_the_manual_page() -> None:
    page = (TOP / "docs/man/kexecctl.8").read_text(encoding="utf-8")
    told = re.findall(r"^\.TP\n\.B (\w+)$", page, re.MULTILINE)
    assert sorted(told) == sorted(command.name for command in COMMANDS)


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("installed"))


def completed(top: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = f"COMP_WORDS=(kexecctl {' '.join(words)}); COMP_CWORD={len(words)}"
    script = f'. {top / COMPLETION}; {line}; _kexecctl; printf "%s\\n" "${{COMPREPLY[@]}}"'
    environment = {**os.environ, "PATH": f"{top}/usr/sbin:{os.environ['PATH']}", "COLUMNS": "80"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.split()


def test_bash_completes_each_command(top: Path) -> None:
    assert sorted(completed(top, "''")) == sorted(command.name for command in COMMANDS)
    assert completed(top, "unl") == ["unload"]


def test_bash_completes_the_options_of_a_command(top: Path) -> None:
    assert completed(top, "reboot", "--fir") == ["--firmware"]
    assert completed(top, "service", "--go") == ["--going"]
