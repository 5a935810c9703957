# SPDX-License-Identifier: MIT
"""The shell scripts of the units and of the packages: read by shellcheck, and the last of them run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.namespaces.isolated import isolated
from tests.packaging.installed import TOP, install

SCRIPTS = [
    "units/kexecd-reboot", "units/system-shutdown/kexecd.shutdown", ".ci/enable", ".ci/run",
    *(f"packaging/debian/{name}" for name in ("build", "postinst", "prerm", "postrm", "kexecd.rtupdate")),
]  # fmt: skip
WHERE = Path("/run/installed")
CALLED = Path("/run/called")


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", *SCRIPTS], cwd=TOP, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def hook(verb: str, *, loaded: str, place: str = "kexec_loaded", act: str = "") -> str:
    """How jump.py is called by the hook of systemd-shutdown(8); in a namespace of its own."""
    for point in ("/run", "/sys/kernel"):
        subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True, timeout=10)
    image, state = Path("/sys/kernel", place), Path("/run/kexecd/state.json")
    for path in (image, state):
        path.parent.mkdir(exist_ok=True)
    image.write_text(f"{loaded}\n", encoding="ascii")
    state.write_text(f'{{"act": "{act}"}}', encoding="ascii")
    install(WHERE)
    (WHERE / "usr/lib/kexecd/kexecd/jump.py").write_text(
        f"import sys; open('{CALLED}', 'w').write(f'{{sys.argv[1:]}} {{sys.flags.isolated}} {{sys.flags.no_site}}')"
    )
    subprocess.run([WHERE / "systemd/system-shutdown/kexecd.shutdown", verb], check=True, timeout=10)
    return CALLED.read_text(encoding="utf-8") if CALLED.exists() else ""


@isolated
def test_before_pid_1_jumps_somebody_looks_whether_it_may() -> None:
    assert hook("kexec", loaded="1") == "['--guard'] 1 1"


@isolated
def test_the_image_is_found_in_its_newer_place_too() -> None:
    assert hook("kexec", loaded="1", place="kexec/loaded") == "['--guard'] 1 1"


@isolated
def test_a_wish_for_the_firmware_is_heard_here_too() -> None:
    assert hook("kexec", loaded="1", act="firmware") == "['--guard', '--firmware'] 1 1"


@pytest.mark.parametrize("verb", ["reboot", "poweroff", "halt"])
@isolated
def test_nobody_looks_at_what_is_no_jump(verb: str) -> None:
    assert hook(verb, loaded="1") == ""


@isolated
def test_without_an_image_it_costs_no_python() -> None:
    assert hook("kexec", loaded="0") == ""
