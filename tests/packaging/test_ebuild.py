# SPDX-License-Identifier: MIT
"""The ebuild, as far as it can be tried without a Gentoo: bash reads it, and its functions run for real, with what
Portage and the eclasses would give them played by a few lines of shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.packaging.installed import TOP, make

HOME = TOP / "packaging/gentoo/sys-apps/kexecd"
EBUILD = HOME / "kexecd-9999.ebuild"

PORTAGE = r"""
set -eu
die() { echo "died: $*" >&2; exit 1; }
inherit() { INHERITED="$*"; }
emake() { make --no-print-directory "$@"; }
use() { [[ " $USE " == *" $1 "* ]]; }
elog() { echo "$*"; }
keepdir() { mkdir -p "${@/#/$ED}"; }
docompress() { :; }
python_gen_cond_dep() { echo "$1"; }
python_fix_shebang() { sed -i '1s|.*python3|#!/usr/bin/python3.12|' "$1"/kexec*; }
python_optimize() { [ -d "$1/kexecd" ] || die "$1 is not there"; }
systemd_get_utildir() { echo /usr/lib/systemd; }
tmpfiles_process() { [ -e "$ED/usr/lib/tmpfiles.d/$1" ] || die "$1 is not there"; }
EPREFIX= ROOT= EROOT= ED=$D PYTHON=/usr/bin/python3 PF=kexecd-9999 PYTHON_DEPS= PYTHON_REQUIRED_USE=
REPLACED_BY_VERSION=
source "$EBUILD"
"""


def play(functions: str, into: Path, use: str = "") -> str:
    into.mkdir(exist_ok=True)
    environment = {**os.environ, "D": str(into), "USE": use, "EBUILD": str(EBUILD)}
    words = ["bash", "-c", f"{PORTAGE}\n{functions}"]
    done = subprocess.run(words, env=environment, cwd=TOP, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(top: Path) -> dict[str, str]:
    paths = (path for path in top.rglob("*") if not path.is_dir())
    return {
        str(path.relative_to(top)).replace("kexecd-9999", "kexecd"): oct(path.lstat().st_mode) for path in paths
    }


def test_bash_can_read_it_and_lines_are_as_long_as_gentoo_wants_them() -> None:
    subprocess.run(["bash", "-n", EBUILD], check=True, timeout=10)
    lines = EBUILD.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 120
    assert not [line for line in lines if line.startswith("    ")], "Gentoo indents by tabs"


def test_it_installs_what_make_installs(tmp_path: Path) -> None:
    play("src_install", tmp_path / "image")
    make("install", f"DESTDIR={tmp_path}/made", "PREFIX=/usr", "INITS=systemd openrc", "COMPILE=no")
    assert files(tmp_path / "image") == files(tmp_path / "made")
    assert (tmp_path / "image/var/lib/kexecd").is_dir()


@pytest.mark.parametrize(("use", "script"), [("", "kexec"), ("kexec-tools", "kexecd-preload")])
def test_it_takes_the_name_that_is_free_and_says_which(tmp_path: Path, use: str, script: str) -> None:
    said = play("src_install > /dev/null; pkg_postinst", tmp_path / "image", use)
    assert f"rc-update add {script} default" in said
    scripts = {path.name for path in (tmp_path / "image/etc/init.d").iterdir()}
    assert scripts == {script, "kexec-jump", "kexec-confirm", "kexec-finish", "kexecd", "kexecd-state"}
    assert not (tmp_path / "image/etc/conf.d").exists()


def test_beside_kexec_tools_or_instead_of_it_never_both_with_one_name(tmp_path: Path) -> None:
    depend = play('echo "$RDEPEND"', tmp_path / "image").split()
    assert " ".join(depend[-8:]) == (
        "kexec-tools? ( sys-apps/kexec-tools ) !kexec-tools? ( !sys-apps/kexec-tools )"
    )


def test_each_flag_of_its_own_is_explained(tmp_path: Path) -> None:
    metadata = ElementTree.parse(HOME / "metadata.xml")
    told = {flag.get("name") for flag in metadata.iter("flag")}
    general = {"dbus", "systemd"}  # profiles/use.desc explains these
    flags = {flag.lstrip("+") for flag in play('echo "$IUSE"', tmp_path / "image").split()}
    assert flags - general == told
