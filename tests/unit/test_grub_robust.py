# SPDX-License-Identifier: MIT
"""Whatever stands in grub.cfg and beside it: nothing is raised, nothing hangs, and what is named exists."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kexecd.discover.grub.source import find
from kexecd.model import Found

TREES = Path(__file__).parents[1] / "golden/trees"
REAL = tuple(
    text.decode()
    for tree in ("grub-debian12-ext4", "grub-ubuntu-like", "grub-debian12-lvm-luks", "grub-opensuse-snapshots")
    for text in (path.read_bytes() for path in sorted((TREES / tree / "root/boot").glob("grub*/grub.cfg")))
)
PIECES = st.sampled_from(
    (
        *(
            "if ",
            "then",
            "else ",
            "fi\n",
            "; ",
            "\n",
            "{ ",
            " }",
            "'",
            '"',
            "\\",
            "$",
            "${",
            "}",
            "#",
            " ",
            "\t",
            "[ ",
            " ]",
        ),
        *(
            "for i in ",
            "do ",
            "done\n",
            "while true; ",
            "until ",
            "function f {\n",
            "f ",
            "set a=$a$a ",
            "set default=",
            "1>1",
        ),
        *(
            "menuentry 'A' ",
            "submenu B ",
            "--id x ",
            "linux /boot/vmlinuz-1 ",
            "initrd /x ",
            "source $prefix/grub.cfg\n",
        ),
        *(
            "configfile /boot/grub/grub.cfg\n",
            "search --set=root ",
            "load_env ",
            "-f ",
            "(hd0)/x ",
            "blscfg\n",
            "!",
            "-o ",
            "(",
        ),
        *(
            "return ",
            "break 2",
            "continue",
            "shift 9",
            "setparams $@",
            '"$*"',
            "&&",
            "|",
            "<",
            "export ",
            "unset ",
            "\0",
            "\x85",
        ),
    )
)

Read = Callable[[str], Found]


@pytest.fixture(scope="module")
def read() -> Read:
    directory = tempfile.mkdtemp(prefix="grub-")
    os.makedirs(f"{directory}/boot/grub")
    Path(directory, "boot/vmlinuz-1").write_text("x")

    def read(text: str) -> Found:
        Path(directory, "boot/grub/grub.cfg").write_bytes(text.encode(errors="surrogateescape"))
        started = time.monotonic()
        found = find(directory, arch="x86_64")
        assert time.monotonic() - started < 20
        assert found is not None
        ids = [entry.id for entry in found.entries]
        assert len(ids) == len(set(ids))
        assert not found.next or found.next in ids
        assert found.reason
        assert found.reason.isprintable()
        return found

    return read


@given(st.text(max_size=200))
@example("{" * 500)
@example("if true; then " * 500)
@example("menuentry a { " * 100 + "true" + "; }" * 100)
@example("! " * 1000)
@example("[ " + "( " * 1000)
def test_any_text_is_a_configuration(read: Read, text: str) -> None:
    read(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
@example("function f {\n f; f\n}\nf")
@example("function f {\n f $1$1\n}\nf x")
@example("while true; do set a=$a$a$a/; done")
@example("set a=x\nwhile true; do set a=$a$a; done")
@example("for i in 1; do configfile /boot/grub/grub.cfg; done")
@example("menuentry '' --id '' { true; }\nset default=''")
@example("menuentry 'a\x1b[2Jb' { linux /x\x1b[2J; }")
def test_any_words_of_the_language_are_a_configuration(read: Read, text: str) -> None:
    read(text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_configuration_is_one_all_the_same(read: Read, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(REAL))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 200, len(text))))
        text = text[:start] + data.draw(st.one_of(PIECES, st.just(""), st.text(max_size=5))) + text[end:]
    read(text)


@given(st.binary(max_size=300))
@example(b"a=\0\n")
@example(b"a=/x\0y\n")
@example(b"a=(\xff)\n")
def test_any_environment_block_is_one_or_a_problem(read: Read, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.makedirs(f"{directory}/boot/grub")
        Path(directory, "boot/grub/grub.cfg").write_text(
            "load_env\nsource /$a\nload_env -f /$a\nif [ -f $a ]; then true; fi\nmenuentry A { linux $a $a; }\n"
        )
        Path(directory, "boot/grub/grubenv").write_bytes(b"# GRUB Environment Block\n" + data)
        found = find(directory, arch="x86_64")
        assert found is not None
        assert [entry.id for entry in found.entries] == ["A"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\0ELF", "/boot/grub/grub.cfg is not a text file"),
        ("x" * (2 << 20) + "\n", "/boot/grub/grub.cfg cannot be read: larger than 2097152 bytes"),
    ],
)
def test_what_is_no_configuration_is_a_problem(read: Read, text: str, why: str) -> None:
    found = read(text)
    assert (found.entries, found.next, found.reason, found.problems) == ((), "", why, (why,))


def test_a_fifo_and_a_directory_are_problems(tmp_path: Path) -> None:
    (tmp_path / "boot/grub").mkdir(parents=True)
    os.mkfifo(tmp_path / "boot/grub/grub.cfg")
    found = find(str(tmp_path))
    assert found is not None
    assert found.reason == "/boot/grub/grub.cfg cannot be read: not a regular file"
    (tmp_path / "boot/grub/grub.cfg").unlink()
    (tmp_path / "boot/grub/grub.cfg").mkdir()
    found = find(str(tmp_path))
    assert found is not None
    assert found.reason == "/boot/grub/grub.cfg cannot be read: not a regular file"


def test_a_large_configuration_is_read_in_seconds(read: Read) -> None:
    entry = "menuentry 'Entry' --id x { load_video; insmod gzio; echo y; linux /boot/vmlinuz-1 root=z ro quiet; }\n"
    started = time.monotonic()
    found = read(entry * 5000)
    assert time.monotonic() - started < 20
    assert len(found.entries) == 2000
    assert found.problems == ("more than 2000 entries",)


@pytest.mark.parametrize(
    "line",
    [
        "while true; do source /boot/grub/large.cfg; done",
        "while true; do load_env -f /boot/grub/block; done",
        "while true; do increment n; search --label --set=root $n; done",
        "while true; do increment n; set a=$a/$a; if [ -f /$a ]; then true; fi; done",
        "while true; do increment n; menuentry $n { linux /boot/vmlinuz-1; }; done",
        "x\n" * 100_000,
        "'\n" * 100_001,
    ],
)
def test_work_without_end_ends(tmp_path: Path, line: str) -> None:
    (tmp_path / "boot/grub").mkdir(parents=True)
    (tmp_path / "boot/grub/grub.cfg").write_text(f"{line}\nmenuentry A {{ linux /k; }}\n")
    (tmp_path / "boot/grub/large.cfg").write_text("true\n" * 400_000)
    (tmp_path / "boot/grub/block").write_text("# GRUB Environment Block\n" + "a=b\n" * 10_000)
    started = time.monotonic()
    found = find(str(tmp_path), arch="x86_64")
    assert time.monotonic() - started < 30
    assert found is not None
    assert found.next == ""
    assert found.problems
