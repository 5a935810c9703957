# SPDX-License-Identifier: MIT
"""`make install` into a directory, with every path in what is installed pointing into it."""

from __future__ import annotations

import subprocess
from pathlib import Path

TOP = Path(__file__).parents[2]


def install(top: Path, inits: str = "systemd") -> Path:
    """Returns `top`; nothing is installed outside it, and no init of this machine is told about it."""
    where = (f"PREFIX={top}/usr", f"SYSCONFDIR={top}/etc", f"SYSTEMD_DIR={top}/systemd", f"SHAREDIR={top}/share")
    make("install", "DESTDIR=/", *where, f"TMPFILES_DIR={top}/tmpfiles.d", f"INITS={inits}", "COMPILE=no")
    return top


def make(*arguments: str) -> str:
    words = ["make", "--no-print-directory", "-C", str(TOP), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
