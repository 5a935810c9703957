# SPDX-License-Identifier: MIT
"""Which Debian mirror the guest's packages come from: the one that the host itself uses, or Debian's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_URI = re.compile(r"https?://[^\s\]]+")


@dataclass(frozen=True)
class Mirrors:
    """The addresses of Debian's archive and of its security archive."""

    archive: str = "http://deb.debian.org/debian"
    security: str = "http://deb.debian.org/debian-security"

    def lines(self, suite: str, keyring: Path | None) -> tuple[str, ...]:
        """The apt sources of `suite`, its updates and its security updates."""
        options = f"[signed-by={keyring}] " if keyring else ""
        return (
            f"deb {options}{self.archive} {suite} main",
            f"deb {options}{self.archive} {suite}-updates main",
            f"deb {options}{self.security} {suite}-security main",
        )


def parse_sources(texts: Iterable[str]) -> Mirrors:
    """The mirrors that apt source files (one-line or deb822 style) name.

    Debian's own for what they do not.
    """
    found = Mirrors()
    archive, security = found.archive, found.security
    for text in texts:
        for line in text.splitlines():
            if not line.startswith(("deb ", "URIs:")):
                continue
            for uri in (match.rstrip("/") for match in _URI.findall(line)):
                if uri.endswith("/debian"):
                    archive = uri
                elif uri.endswith("/debian-security"):
                    security = uri
    return Mirrors(archive, security)


def host_mirrors(apt: Path = Path("/etc/apt")) -> Mirrors:
    """The mirrors of the machine that the lab runs on."""
    files = [
        apt / "sources.list",
        *sorted(apt.glob("sources.list.d/*.list")),
        *sorted(apt.glob("sources.list.d/*.sources")),
    ]
    return parse_sources(file.read_text(errors="replace") for file in files if file.is_file())
