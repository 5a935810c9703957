# SPDX-License-Identifier: MIT
"""Debian's source of the newest kernel that its stable release is offered, by apt, which checks who signed it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tests.vm.lab.errors import BuildError
from tests.vm.lab.mirrors import KEYRING, host_mirrors
from tests.vm.lab.progress import say, step
from tests.vm.lab.tools import run_tool

SUITE = "trixie-backports"

LISTS_TIMEOUT = 300.0
DOWNLOAD_TIMEOUT = 1800.0
UNPACK_TIMEOUT = 600.0

_PACKAGE = re.compile(r"linux-source-(\d+)\.(\d+)")


def unpacked(into: Path) -> Path:
    """The source tree, downloaded and unpacked below `into`; raises BuildError."""
    with tempfile.TemporaryDirectory(prefix="apt-", dir=into) as name:
        apt = Path(name)
        options = _private(apt)
        with step(f"fetching the package lists of {SUITE}"):
            run_tool("apt-get", *options, "update", timeout=LISTS_TIMEOUT)
        package = newest(run_tool("apt-cache", *options, "pkgnames", "linux-source-", timeout=60.0))
        with step(f"downloading {package}"):
            run_tool("apt-get", *options, "download", package, timeout=DOWNLOAD_TIMEOUT, cwd=apt)
            (deb,) = apt.glob("*.deb")
        say(f"{deb.name}, {deb.stat().st_size >> 20} MiB")
        with step("unpacking it"):
            run_tool("dpkg-deb", "--extract", deb, apt / "deb", timeout=UNPACK_TIMEOUT)
            (archive,) = (apt / "deb" / "usr" / "src").glob("linux-source-*.tar.*")
            run_tool("tar", "-xf", archive, "-C", into, timeout=UNPACK_TIMEOUT)
    return into / package


def newest(names: str) -> str:
    """Of all names of packages, the one of the newest kernel's source."""
    found = [match for name in names.split() if (match := _PACKAGE.fullmatch(name))]
    if not found:
        raise BuildError(f"{SUITE} has no linux-source: is this mirror one of Debian's?")
    return max(found, key=lambda match: (int(match[1]), int(match[2])))[0]


def _private(apt: Path) -> list[str]:
    """Options for an apt of our own, which neither sees nor changes what the host has."""
    for directory in ("state/lists/partial", "cache/archives/partial", "etc"):
        (apt / directory).mkdir(parents=True)
    sources = apt / "etc" / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {host_mirrors().archive} {SUITE} main\n", encoding="ascii")
    settings = {
        "Dir::State": apt / "state",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "root",  # the directory is not one that another user may enter
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return ["-q", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
