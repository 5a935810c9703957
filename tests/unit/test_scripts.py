# SPDX-License-Identifier: MIT
"""The scripts that inits call: what a linter says of them, and what their headers promise."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

OPENRC = Path(__file__).parents[2] / "openrc"
PURE = sorted(path for path in OPENRC.iterdir() if path.is_file())
LSB = sorted((OPENRC / "lsb").iterdir())


def ids(path: Path) -> str:
    return path.name


def header(script: Path) -> dict[str, list[str]]:
    """The words of each line between BEGIN INIT INFO and END INIT INFO."""
    text = script.read_text(encoding="utf-8").partition("### BEGIN INIT INFO\n")[2].partition("### END INIT INFO")[0]
    rows = (line.lstrip("# ").partition(":") for line in text.splitlines())
    return {key: value.split() for key, _, value in rows}


@pytest.mark.parametrize("script", [*PURE, *LSB], ids=ids)
def test_shellcheck_finds_nothing(script: Path) -> None:
    program = shutil.which("shellcheck")
    assert program, "shellcheck is missing, see PACKAGES in the Makefile"
    done = subprocess.run([program, script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [*PURE, *LSB], ids=ids)
def test_it_can_be_executed_and_names_its_licence(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").splitlines()[1] == "# SPDX-License-Identifier: MIT"


@pytest.mark.parametrize("script", PURE, ids=ids)
def test_openrcs_own_are_for_openrc_run_and_say_what_they_are_for(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/sbin/openrc-run\n")
    assert '\ndescription="' in text and "### BEGIN INIT INFO" not in text


@pytest.mark.parametrize("script", LSB, ids=ids)
def test_debians_do_not_make_a_need_of_what_resets_the_machine(script: Path) -> None:
    """OpenRC would call it in its first phase, with everything mounted."""
    found = header(script)
    assert found["Provides"] == [script.name]
    for word in ("reboot", "halt"):
        assert word not in (*found["Required-Start"], *found["Required-Stop"])


@pytest.mark.parametrize(
    ("name", "levels"), [("preload", "016"), ("jump", "6"), ("hooks", "06"), ("finish", ""), ("state", "")]
)
def test_only_what_drops_the_image_or_writes_down_is_called_for_a_poweroff_too(name: str, levels: str) -> None:
    assert "".join(header(OPENRC / "lsb" / f"kexecd-{name}")["Default-Stop"]) == levels


def test_names_are_none_of_kexec_tools_on_debian() -> None:
    assert {script.name for script in LSB}.isdisjoint({"kexec", "kexec-load"})
