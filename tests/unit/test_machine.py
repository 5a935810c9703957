# SPDX-License-Identifier: MIT
"""The word that tells this machine from others."""

from __future__ import annotations

import re
from pathlib import Path

from kexecd.kernel.machine import fingerprint


def machine(root: Path, **files: str) -> str:
    for name, text in {"sys_vendor": "QEMU", "product_name": "PC", "bios_version": "1.0", **files}.items():
        path = root / ("etc/machine-id" if name == "id" else f"sys/class/dmi/id/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return fingerprint(str(root))


def test_it_is_sixteen_hexadecimal_digits_and_stays_the_same(tmp_path: Path) -> None:
    word = machine(tmp_path, id="abc")
    assert re.fullmatch("[0-9a-f]{16}", word)
    assert machine(tmp_path, id="abc") == word


def test_other_firmware_other_machine_other_installation_are_other_words(tmp_path: Path) -> None:
    words = {
        machine(tmp_path / "a", id="abc"),
        machine(tmp_path / "b", id="abd"),
        machine(tmp_path / "c", id="abc", bios_version="1.1"),
        machine(tmp_path / "d", id="abc", sys_vendor="QEM", product_name="UPC"),
    }
    assert len(words) == 4


def test_a_machine_without_dmi_is_told_by_its_device_tree(tmp_path: Path) -> None:
    for name, model in (("a", "Pi 4"), ("b", "Pi 5")):
        path = tmp_path / name / "sys/firmware/devicetree/base/model"
        path.parent.mkdir(parents=True)
        path.write_bytes(model.encode() + b"\0")
    assert fingerprint(str(tmp_path / "a")) != fingerprint(str(tmp_path / "b"))


def test_where_nothing_is_known_it_is_a_word_all_the_same(tmp_path: Path) -> None:
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(str(tmp_path)))
