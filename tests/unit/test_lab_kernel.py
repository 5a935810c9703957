# SPDX-License-Identifier: MIT
"""The lab's own kernel, without building one: what it is made of, and when another one has to be built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vm.lab.errors import BuildError
from tests.vm.lab.kernel import build, options
from tests.vm.lab.kernel.source import newest


def test_the_newest_source_is_taken_by_its_version_and_not_by_its_name() -> None:
    assert newest("linux-source-6.9\nlinux-source-6.12\nlinux-source-7.3\nlinux-source\n") == "linux-source-7.3"
    assert newest("linux-source-6.9\nlinux-source-6.12\nlinux-source-6.12-rt\n") == "linux-source-6.12"
    with pytest.raises(BuildError, match="has no linux-source"):
        newest("linux-source\n")


def test_each_option_is_there_once_and_for_a_reason() -> None:
    names = [name for group in options.GROUPS for name in (*group.on, *(name for name, _ in group.values))]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Z0-9_]+", name) for name in names)
    assert {"KEXEC_FILE", "KEXEC_HANDOVER", "LIVEUPDATE", "LIVEUPDATE_MEMFD"} <= set(names)


def test_an_option_that_the_kernel_did_not_take_is_named() -> None:
    whole = options.fragment()
    assert options.lacking(whole) == ()
    assert options.lacking(whole.replace("CONFIG_LIVEUPDATE=y", "# CONFIG_LIVEUPDATE is not set")) == ("LIVEUPDATE",)


def test_another_option_is_another_kernel_and_another_comment_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.key()
    assert build.key(twin=True) != before
    text = options.fragment()
    monkeypatch.setattr(options, "fragment", lambda: f"# said otherwise\n{text}")
    assert build.key() == before
    monkeypatch.setattr(options, "fragment", lambda: f"{text}CONFIG_ZRAM=y\n")
    assert build.key() != before


def test_the_twin_speaks_the_next_version_of_live_updates_format(tmp_path: Path) -> None:
    header = tmp_path / build.ABI
    header.parent.mkdir(parents=True)
    header.write_text('#define LUO_ABI_COMPATIBLE\t"luo-v5"\n', encoding="utf-8")
    assert build._version(tmp_path) == 5
    build._make_twin(tmp_path, 6)
    assert build._version(tmp_path) == 6
    assert header.read_text(encoding="utf-8") == '#define LUO_ABI_COMPATIBLE\t"luo-v6"\n'
    header.write_text("nothing of that kind\n", encoding="utf-8")
    with pytest.raises(BuildError, match='has no "luo-vN"'):
        build._version(tmp_path)
