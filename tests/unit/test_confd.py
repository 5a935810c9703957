# SPDX-License-Identifier: MIT
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kexecd.config.confd import Assignment, parse, read
from kexecd.errors import BadConfig, Refusal

# What Debian's package leaves in /etc/default/kexec, less its comments' words.
DEBIAN = """\
# Defaults
# sourced by /etc/init.d/kexec and /etc/init.d/kexec-load

# Load a kexec kernel (true/false)
LOAD_KEXEC=true

KERNEL_IMAGE="/vmlinuz"
INITRD="/initrd.img"

# If empty, use current /proc/cmdline
APPEND=""

USE_GRUB_CONFIG=
"""


def values(text: str) -> dict[str, str]:
    return {a.name: a.value for a in parse(text, "f")}


def test_debians_file_is_read() -> None:
    assert values(DEBIAN) == {
        "LOAD_KEXEC": "true",
        "KERNEL_IMAGE": "/vmlinuz",
        "INITRD": "/initrd.img",
        "APPEND": "",
        "USE_GRUB_CONFIG": "",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("  A=1 B=2\t# comment\n\n\tC=3", {"A": "1", "B": "2", "C": "3"}),
        ("A=1;B=2;\n", {"A": "1", "B": "2"}),
        ("export A=1", {"A": "1"}),
        ("A=1\nexport A B", {"A": "1"}),
        ("export=1", {"export": "1"}),
        ("if=1", {"if": "1"}),
        ("A=", {"A": ""}),
        ("A= B=2", {"A": "", "B": "2"}),
        ("A=x#y", {"A": "x#y"}),
        ("A='one two'\"three $ four\"five", {"A": "one twothree $ fourfive"}),
        ("A='a\\'", {"A": "a\\"}),
        ("A='a\\\nb'", {"A": "a\\\nb"}),
        ('A="a\nb"', {"A": "a\nb"}),
        ('A="\\$x \\` \\" \\\\ \\n \\a"', {"A": '$x ` " \\ \\n \\a'}),
        ("A=\\$x\\ \\'\\\"\\#", {"A": "$x '\"#"}),
        ("A=a\\\nb", {"A": "ab"}),
        ('A="a\\\nb"', {"A": "ab"}),
        ("A\\\nB\\\n=1", {"AB": "1"}),
        ("# no \\\nA=1", {"A": "1"}),
        ("A=1\nB=$A-${A}x", {"A": "1", "B": "1-1x"}),
        ("A=1\nB=\"$A ${A} '$A'\"", {"A": "1", "B": "1 1 '1'"}),
        ("A='$A'", {"A": "$A"}),
        ("A=$UNSET.", {"A": "."}),
        ("A='1 2'\nB=$A", {"A": "1 2", "B": "1 2"}),
        ("A=$", {"A": "$"}),
        ('A="cost: 5$"', {"A": "cost: 5$"}),
        ("A=*.img{a,b}", {"A": "*.img{a,b}"}),
        ("A=vmlinuz-6.12~rc1", {"A": "vmlinuz-6.12~rc1"}),
        ("A='~':\"~\"", {"A": "~:~"}),
        ("A=ü # für", {"A": "ü"}),
        ("", {}),
        ("# only this", {}),
    ],
)
def test_assignments_are_read_as_sh_reads_them(text: str, expected: dict[str, str]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "place", "found"),
    [
        ("A=$(uname -r)", "1:3", "`$(`, a command substitution"),
        ('\nA="x-$(uname -r)"', "2:6", "`$(`, a command substitution"),
        ("A=`uname -r`", "1:3", "a backquote"),
        ("A=$((1+1))", "1:3", "`$((`, arithmetic"),
        ("A=${B:-x}", "1:3", "`${`, more than the name"),
        ("A=${B", "1:3", "`${`, more than the name"),
        ("A=$1", "1:3", "`$1`, which only a running shell knows"),
        ("A=$'a'", "1:3", "`$'`, which not every shell reads alike"),
        ("if true; then A=1; fi", "1:1", "`if`, a condition"),
        (". /etc/other", "1:1", "`.`, another file"),
        ("A=1\n source /etc/other", "2:2", "`source`, another file"),
        ("f() { A=1; }", "1:1", "`f()`, a function"),
        ("f () { A=1; }", "1:1", "`f()`, a function"),
        ("A=1 | cat", "1:5", "`|`, a pipe"),
        ("A=1 > /x", "1:5", "`>`, a redirection"),
        ("A=1>/x", "1:4", "`>`, a redirection"),
        ("A=1 && B=2", "1:5", "`&`, a list of commands"),
        ("A=1; reboot", "1:6", "`reboot`, a command"),
        ("A=1 reboot", "1:5", "`reboot`, a command"),
        ("A=1;; B=2", "1:4", "`;`, an empty command"),
        (";", "1:1", "`;`, an empty command"),
        ("A=(a b)", "1:3", "`(`, a subshell, a function or an array"),
        ("A[0]=a", "1:1", "`A[`, an array"),
        ("A+=b", "1:1", "`A+=`, an appending assignment"),
        ("A = b", "1:1", "a blank between `A` and `=`"),
        ("A=a b", "1:5", "`b`, a command"),
        ("1A=b", "1:1", "`1A=b`, a command"),
        ("'A'=b", "1:1", "`'A'=b`, a command"),
        ("export # A=1", "1:1", "`export` without a name"),
        ("readonly A=1", "1:1", "`readonly`, a declaration"),
        ("A='x", "1:3", "a single quote that is never closed"),
        ('B=1\nA="x', "2:3", "a double quote that is never closed"),
        ("A=x\\", "1:4", "a backslash at the end"),
        ("A=~/x", "1:3", "`~`, a home directory"),
        ("A=x:~/x", "1:5", "`~`, a home directory"),
        ("A=1\r\nB=2\r\n", "1:4", "a control character (0x0d)"),
        ("A=\0", "1:3", "a control character (0x00)"),
    ],
)
def test_everything_else_is_refused_with_its_place(text: str, place: str, found: str) -> None:
    with pytest.raises(BadConfig) as refusal:
        parse(text, "/etc/conf.d/kexec")
    assert refusal.value.what == f"cannot take /etc/conf.d/kexec:{place}"
    assert refusal.value.why.startswith(f"found {found}")
    assert refusal.value.hint, "it should say what to write instead"


def test_an_assignment_knows_its_place() -> None:
    assert parse("\nA=1\nB='\n'\nC=3", "f") == (
        Assignment("A", "1", "f", 2),
        Assignment("B", "\n", "f", 3),
        Assignment("C", "3", "f", 5),
    )


def test_a_file_sourced_later_sees_what_was_assigned_before() -> None:
    assert parse('A="$A more"', "f", earlier=parse("A=1", "e"))[0].value == "1 more"


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read("/none", root=str(tmp_path)) is None


def test_bytes_that_are_no_utf8_survive(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"# f\xfcr\nA=/boot/\xff\n")
    (found,) = read("/f", root=str(tmp_path)) or ()
    assert os.fsencode(found.value) == b"/boot/\xff"


@pytest.mark.parametrize("kind", ["fifo", "directory", "loop", "large", "sparse", "binary"])
def test_what_is_no_such_file_is_refused_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to("f")
    elif kind == "large":
        path.write_text("#" * (65 << 10))
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 10 << 30)
    else:
        path.write_bytes(b"\x7fELF\2\1\1\0\0\0")
    with pytest.raises(BadConfig):
        read("/f", root=str(tmp_path))


@given(st.binary(max_size=200))
def test_any_bytes_are_assignments_or_a_refusal(data: bytes) -> None:
    try:
        parse(data.decode(errors="surrogateescape"), "f")
    except Refusal:
        return


@given(st.text("AB=\"'\\$`{}() \t\n#;~:x|&<>[]+", max_size=40))
def test_any_shell_like_text_is_assignments_or_a_refusal(text: str) -> None:
    try:
        parse(text, "f")
    except Refusal:
        return


PARTS = ["A=", "B=", '"', "'", "\\", "$A", "${B}", " ", "\n", "#", ";", "x", "~", "$"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=14))
def test_what_is_taken_means_the_same_to_sh(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        expected = values(text)
    except Refusal:
        return
    script = f'{text}\nprintf "%s\\0" "A=$A" "B=$B"'
    run = subprocess.run(["/bin/sh", "-c", script], env={"PATH": "/nonexistent"}, capture_output=True, check=True)
    assert run.stdout.decode() == f"A={expected.get('A', '')}\0B={expected.get('B', '')}\0"
