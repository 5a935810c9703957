# SPDX-License-Identifier: MIT
"""Puts the project into a guest that runs already: for guests whose image is too dear to be made for each change."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.vm.lab.guest import Guest
from tests.vm.lab.image import Install, project
from tests.vm.lab.tools import run_tool

TAR_TIMEOUT = 60.0


def deliver(guest: Guest, install: Install | None = None) -> None:
    """Unpack what `install` (the project, unless told otherwise) installs, as a package would be."""
    install = project() if install is None else install
    with tempfile.TemporaryDirectory(prefix="lab-delivery-") as directory:
        root, tar = Path(directory, "root"), Path(directory, "root.tar.gz")
        root.mkdir()
        install.run(root)
        run_tool("tar", "-C", root, "--owner=0", "--group=0", "-czf", tar, ".", timeout=TAR_TIMEOUT)
        # /usr keeps its date, or systemd rebuilds its databases at the next boot.
        unpack = ("tar", "-C", "/", "-xzf", "-", "--no-overwrite-dir")
        guest.run(*unpack, input=tar.read_bytes(), timeout=TAR_TIMEOUT)
