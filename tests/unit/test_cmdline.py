# SPDX-License-Identifier: MIT
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.errors import BadConfig
from kexecd.kernel.cmdline import (
    NO_EDITS,
    Edits,
    asks_for_repair,
    canonical,
    check_length,
    difference,
    edited,
    for_once,
    limit,
    parse,
    stands_still,
    to_show,
    way_back,
)

GRUB = "BOOT_IMAGE=/boot/vmlinuz-6.1.0-50-amd64 root=UUID=1f2e ro quiet"

# Texts of what matters: words of ours, of others, quotes, blanks, the end of the kernel's parameters.
WORDS = st.sampled_from(
    ["root=/dev/vda1", "ro", "BOOT_IMAGE=/b/v", "initrd=\\i.img", "kexecd.nonce=old", "--", '"', 'a="b c"', "=x"]
)
LINES = st.one_of(st.lists(WORDS, max_size=8).map(" ".join), st.text(max_size=60), st.text('a="- \t\n', max_size=30))


def pairs(text: str) -> list[tuple[str, str | None]]:
    return [(parameter.key, parameter.value) for parameter in parse(text).kernel]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  ro \t quiet\n", [("ro", None), ("quiet", None)]),
        ("root=UUID=1f2e", [("root", "UUID=1f2e")]),
        ('dyndbg="file a.c +p" x', [("dyndbg", "file a.c +p"), ("x", None)]),
        ('"dyndbg=file a.c +p" x', [("dyndbg", "file a.c +p"), ("x", None)]),
        ('a=b" c"d', [("a", 'b" c"d')]),
        ('a="', [("a", "")]),
        ("a=", [("a", "")]),
        ("=b", [("=b", None)]),
        ("==b", [("=", "b")]),
        ("a==b", [("a", "=b")]),
        ('"a b" c', [("a b", None), ("c", None)]),
        ("a\\ b", [("a\\", None), ("b", None)]),
        ("a\0b", [("a", None)]),
    ],
)
def test_parameters_are_parted_as_the_kernel_parts_them(text: str, expected: list[tuple[str, str | None]]) -> None:
    assert pairs(text) == expected


def test_what_follows_two_dashes_is_for_init() -> None:
    line = parse("ro -- single root=/dev/x")
    assert [parameter.raw for parameter in line.kernel] == ["ro"]
    assert [parameter.raw for parameter in line.init] == ["single", "root=/dev/x"]
    assert not line.has("root")


def test_two_dashes_with_a_value_are_a_parameter() -> None:
    assert parse("--=x ro").has("ro")


def test_the_last_value_counts() -> None:
    assert parse("root=/dev/a root=/dev/b").value("root") == "/dev/b"


def test_traces_of_the_boot_that_ends_are_dropped() -> None:
    running = f"{GRUB} initrd=\\ucode.img initrd=\\initramfs.img kexecd.nonce=abc"
    assert canonical(running) == "root=UUID=1f2e ro quiet"


@pytest.mark.parametrize("kept", ["xBOOT_IMAGE=1", "BOOT_IMAGES=1", "initrdmem=1", "rd.initrd=1", "kexecd.nonces=1"])
def test_what_only_looks_like_one_stays(kept: str) -> None:
    assert canonical(f"ro {kept} quiet") == f"ro {kept} quiet"


def test_quoted_parameters_keep_their_spelling() -> None:
    line = 'dyndbg="file a.c +p" "x y=z" console=ttyS0 console=tty0 ro ro'
    assert canonical(line) == line


def test_the_nonce_comes_last() -> None:
    assert canonical(GRUB, nonce="n1") == "root=UUID=1f2e ro quiet kexecd.nonce=n1"


def test_the_nonce_does_not_become_an_argument_of_init() -> None:
    assert canonical("ro -- single", nonce="n1") == "ro kexecd.nonce=n1 -- single"


def test_the_nonce_is_not_swallowed_by_an_open_quote() -> None:
    assert canonical('ro x="a b', nonce="n1") == 'ro kexecd.nonce=n1 x="a b'


def test_appended_parameters_come_behind_the_running_ones() -> None:
    assert canonical("quiet -- single", nonce="n1", append="debug -- emergency") == (
        "quiet debug kexecd.nonce=n1 -- single emergency"
    )


def test_an_appended_quote_has_to_be_closed() -> None:
    with pytest.raises(BadConfig, match="a double quote is never closed"):
        canonical("ro", append='x="a b')


def test_ten_kexecs_in_a_row_leave_it_unchanged() -> None:
    first = line = canonical(GRUB, nonce="0")
    for nonce in range(1, 10):
        line = canonical(line, nonce=str(nonce))
    assert line == first.replace("nonce=0", "nonce=9")


@given(LINES)
def test_the_canonical_form_is_canonical(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@given(LINES)
def test_a_new_nonce_replaces_the_old_one_and_nothing_else(text: str) -> None:
    once = canonical(text, nonce="a1")
    assert parse(once).value("kexecd.nonce") == "a1"
    assert canonical(once, nonce="b2") == canonical(text, nonce="b2")
    assert canonical(once) == canonical(text)


@given(LINES)
def test_parameters_of_others_survive_in_their_order(text: str) -> None:
    def foreign(line: str) -> list[str]:
        return [p.raw for p in parse(line).kernel if p.key not in ("BOOT_IMAGE", "initrd", "kexecd.nonce")]

    assert sorted(foreign(canonical(text, nonce="a1"))) == sorted(foreign(text))
    assert foreign(canonical(text)) == foreign(text)


def test_x86_keeps_room_for_elfcorehdr() -> None:
    assert limit("x86_64", 2047) == 2016
    assert limit("x86_64") == 2016
    assert limit("aarch64") == 2047
    assert limit("unheard-of") == 511


def test_a_line_that_fits_is_taken() -> None:
    check_length("x" * 2016, "x86_64", 2047)


def test_one_that_is_too_long_is_refused_with_the_excess() -> None:
    with pytest.raises(BadConfig, match="it has 2020 bytes, 4 more than the 2016"):
        check_length("x" * 2020, "x86_64", 2047)


def test_bytes_are_counted_not_characters() -> None:
    with pytest.raises(BadConfig, match="it has 2018 bytes"):
        check_length("ü" * 1009, "x86_64", 2047)


# Edits


@pytest.mark.parametrize(
    ("line", "edits", "expected"),
    [
        ("root=/dev/a ro", Edits(set=("root=/dev/b",)), "root=/dev/b ro"),
        ("console=ttyS0 ro console=tty0", Edits(set=("console=hvc0",)), "console=hvc0 ro"),
        ("ro console=tty0", Edits(set=("console=hvc0", "x=1", "console=ttyS0")), "ro console=hvc0 console=ttyS0 x=1"),
        ("ro -- single", Edits(set=("x=1",)), "ro x=1 -- single"),
        ("ro", Edits(set=("dyndbg=file a.c +p",)), 'ro dyndbg="file a.c +p"'),
        ("ro", Edits(set=('dyndbg="file a.c +p"',)), 'ro dyndbg="file a.c +p"'),
        ("ro", Edits(set=("x=",)), "ro x="),
        ("ro", Edits(set=("x=a=b",)), "ro x=a=b"),
        ("nosmt ro mem=4G", Edits(remove=("mem", "nosmt")), "ro"),
        ("console=ttyS0 console=tty0", Edits(remove=("console=tty0",)), "console=ttyS0"),
        ("ro", Edits(remove=("mem",)), "ro"),
        ("ro = =x", Edits(remove=("=",)), "ro =x"),
        ('x="a b" x=c', Edits(remove=('x="a b"',)), "x=c"),
        ("memory=4G xmem=1", Edits(remove=("mem",)), "memory=4G xmem=1"),
        ("ro -- mem=1", Edits(remove=("mem",)), "ro -- mem=1"),
        ("page-owner=on", Edits(remove=("page_owner",)), ""),
        ("page-owner=on ro", Edits(set=("page_owner=off",)), "page_owner=off ro"),
        ("ro", Edits(append="x y -- single"), "ro x y -- single"),
        ("x=1", Edits(remove=("x",), set=("x=2",), append="x=3"), "x=2 x=3"),
        ("ro quiet", Edits(line="single", append="debug"), "single debug"),
        ("ro quiet", Edits(line=""), ""),
        ('ro x="a b', Edits(set=("y=1",)), 'ro y=1 x="a b'),
    ],
)
def test_a_line_is_edited(line: str, edits: Edits, expected: str) -> None:
    assert edited(line, edits) == expected


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        (Edits(line='x="a'), "a double quote is never closed"),
        (Edits(set=('x="a',)), "a double quote is never closed"),
        (Edits(append='"'), "a double quote is never closed"),
        (Edits(line="a\nb"), "the end of a line"),
        (Edits(append="a\0b"), "a NUL"),
        (Edits(remove=("a\n",)), "the end of a line"),
        (Edits(set=("quiet",)), "not one parameter with a value"),
        (Edits(set=("=1",)), "not one parameter with a value"),
        (Edits(set=("a b=1",)), "not one parameter with a value"),
        (Edits(set=('x="a" b',)), "not one parameter with a value"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(edits: Edits, why: str) -> None:
    with pytest.raises(BadConfig, match=why):
        edited("ro", edits)


@given(LINES)
def test_no_edits_change_no_word(text: str) -> None:
    assert canonical(edited(text, NO_EDITS)) == canonical(text)


@given(LINES, st.text('abx="- ', max_size=12), st.text('abx=" ', max_size=8))
def test_whatever_is_asked_for_is_done_or_refused(line: str, wanted: str, gone: str) -> None:
    with suppress(BadConfig):
        new = parse(edited(line, Edits(set=(wanted,), remove=(gone,))))
        key = wanted.partition("=")[0]
        assert len(new.all(key)) == 1
        assert not new.has(gone) or gone.replace("-", "_") == key.replace("-", "_")


def test_the_difference_is_told_without_what_each_boot_has_of_its_own() -> None:
    old = f"{GRUB} console=tty0 console=tty0 kexecd.nonce=a -- single"
    new = "root=UUID=1f2e ro debug console=tty0 kexecd.nonce=b"
    assert difference(old, new) == (("debug",), ("quiet", "console=tty0", "single"))
    assert difference(old, old) == ((), ())


def test_the_way_around_live_update_is_for_one_boot_only() -> None:
    lasting, once = for_once("quiet kho=off")
    line = canonical("root=/dev/vda kho=on", nonce="n1", append=lasting, once=once)
    assert line == "root=/dev/vda kho=on quiet kexecd.nonce=n1 kho=off"
    assert canonical(line, nonce="n2") == "root=/dev/vda kho=on quiet kexecd.nonce=n2"


@pytest.mark.parametrize("line", ["kho=off root=/dev/vda", "root=/dev/vda kho=off kexecd.nonce=n1"])
def test_one_that_the_boot_loader_has_stays(line: str) -> None:
    assert "kho=off" in canonical(line, nonce="n2")


# The way back

WAY_BACK = "panic=30 rd.shell=0 rd.emergency=reboot"


def test_the_words_of_the_way_back_follow_the_nonce_and_go_with_it() -> None:
    line = canonical("root=/dev/vda quiet", nonce="1", once=way_back("root=/dev/vda quiet", 30))
    assert line == f"root=/dev/vda quiet kexecd.nonce=1 {WAY_BACK}"
    assert canonical(line) == "root=/dev/vda quiet"
    assert canonical(line, nonce="2") == "root=/dev/vda quiet kexecd.nonce=2"
    assert to_show(line) == f"root=/dev/vda quiet {WAY_BACK}"


@pytest.mark.parametrize(
    ("line", "panic", "words"),
    [
        ("quiet", 30, WAY_BACK),
        ("quiet", 5, "panic=5 rd.shell=0 rd.emergency=reboot"),
        ("quiet", 0, ""),
        ("panic=10 quiet", 30, "rd.shell=0 rd.emergency=reboot"),
        ("panic=0", 30, "rd.shell=0 rd.emergency=reboot"),
        ("rd.shell=1", 30, "panic=30 rd.emergency=reboot"),
        ("rd.emergency=poweroff", 30, "panic=30 rd.shell=0"),
        ("rd.break=pre-mount", 30, "panic=30"),
        ("quiet -- panic=1", 30, WAY_BACK),
        ("panic_on_oops=1", 30, WAY_BACK),
    ],
)
def test_what_somebody_has_said_already_is_not_said_again(line: str, panic: int, words: str) -> None:
    assert " ".join(way_back(line, panic)) == words


@pytest.mark.parametrize(
    ("line", "lasting"),
    [
        (f"a kexecd.nonce=1 {WAY_BACK} b", "a b"),
        (f"a kexecd.nonce=1 {WAY_BACK} panic=5", "a panic=5"),
        (f"a kexecd.nonce=1 {WAY_BACK} rd.shell=0", "a rd.shell=0"),
        ("a kexecd.nonce=1 b panic=30 rd.shell=0", "a b panic=30 rd.shell=0"),
        ("a panic=30 rd.shell=0 kexecd.nonce=1", "a panic=30 rd.shell=0"),
        ("panic=30 rd.emergency=reboot", "panic=30 rd.emergency=reboot"),
        (f"kexecd.nonce=1 {WAY_BACK} kho=off", ""),
        (f"kexecd.nonce=1 {WAY_BACK} x kexecd.nonce=2 panic=7 -- s", "x -- s"),
    ],
)
def test_only_what_is_ours_goes(line: str, lasting: str) -> None:
    """Whoever loads with the running command line and adds to it meant what was added."""
    assert canonical(line) == lasting


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (Edits(append="panic=5"), "a panic=5"),
        (Edits(set=("panic=5",)), "a panic=5"),
        (Edits(remove=("panic",)), "a"),
        (Edits(line=f"b kexecd.nonce=1 {WAY_BACK}", append="rd.shell=1"), "b rd.shell=1"),
    ],
)
def test_what_a_person_edits_is_not_taken_for_a_word_of_ours(edits: Edits, expected: str) -> None:
    assert canonical(edited(f"a kexecd.nonce=1 {WAY_BACK}", edits)) == expected


@given(LINES, st.integers(0, 60))
def test_ten_kexecs_with_a_way_back_leave_the_line_unchanged(text: str, panic: int) -> None:
    line = lasting = canonical(text)
    for number in range(10):
        line = canonical(line, nonce=str(number), once=way_back(canonical(line), panic))
        assert canonical(line) == lasting


@pytest.mark.parametrize(
    ("line", "stands"), [("", True), ("panic=0", True), ("panic=-0", True), ("panic=30", False), ("panic=-1", False)]
)
def test_a_kernel_stands_still_after_a_panic_unless_it_is_told_otherwise(line: str, stands: bool) -> None:
    assert stands_still(line) is stands


@pytest.mark.parametrize(
    "line",
    [
        "single",
        "ro S",
        "1",
        "emergency",
        "-- -b",
        "systemd.unit=rescue.target",
        "init=/bin/sh",
        "rd.break",
        "-- single",
    ],
)
def test_a_line_for_repairs_is_seen(line: str) -> None:
    assert asks_for_repair(f"root=/dev/vda {line}")


@pytest.mark.parametrize("line", ["", "s=1", "init=/sbin/init", "x=single", "systemd.unit=multi-user.target"])
def test_and_no_other_is_taken_for_one(line: str) -> None:
    assert not asks_for_repair(f"root=/dev/vda {line}")
