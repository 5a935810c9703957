# SPDX-License-Identifier: MIT
"""A root directory with kernels and initrds in it, for what looks for them by name."""

from __future__ import annotations

from pathlib import Path

from tests.golden.kernels import initrd, kernel


class BootTree:
    def __init__(self, path: Path) -> None:
        self.path, self.root = path, str(path)

    def place(self, path: str) -> Path:
        place = self.path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def kernel(self, path: str, version: str) -> None:
        self.place(path).write_bytes(kernel(version))

    def initrd(self, *paths: str) -> None:
        for path in paths:
            self.place(path).write_bytes(initrd())

    def link(self, path: str, target: str) -> None:
        self.place(path).symlink_to(target)

    def write(self, path: str, text: str = "") -> None:
        self.place(path).write_text(text)

    def modules(self, *versions: str) -> None:
        for version in versions:
            self.write(f"/lib/modules/{version}/modules.dep")
