# SPDX-License-Identifier: MIT
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kexecd.discover import extlinux
from kexecd.discover.extlinux import CONFIGS, ELSEWHERE, SKIPPED
from kexecd.model import BootEntry, Found

CONFIG = "boot/extlinux/extlinux.conf"
Write = Callable[..., Found]

WORDS = [
    *"label a|label b|label|kernel /k|linux /k|initrd /i,|append initrd=/i,/j x|append -|append|menu label ^A".split(
        "|"
    ),
    *"menu|menu default|menu include more.cfg|include extlinux.conf|include|default a|ontimeout b".split("|"),
    *"timeout 5|prompt 1|ui menu.c32|text help|endtext|fdt /d|fdtdir /d|# x|\0".split("|"),
    *ELSEWHERE,
    *SKIPPED,
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the configuration and reads it; /boot/k and /boot/i are there."""

    def make(text: str, path: str = CONFIG, **others: str) -> Found:
        for name, content in {path: text, "boot/k": "k", "boot/i": "i", **others}.items():
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        found = extlinux.find(str(tmp_path))
        assert found is not None
        return found

    return make


def only(found: Found) -> BootEntry:
    (entry,) = found.entries
    return entry


def test_a_label_is_an_entry(write: Write) -> None:
    entry = only(write("LABEL l0\n Menu Label ^Linux\n Linux /boot/k\n InitRD /boot/i\n Append root=/dev/a  quiet\n"))
    assert (entry.id, entry.title, entry.kernel, entry.initrds) == ("l0", "Linux", "/boot/k", ("/boot/i",))
    assert (entry.cmdline, entry.problems, entry.remarks) == ("root=/dev/a quiet", (), ())


@pytest.mark.parametrize("path", ["../k", "/k", "/boot/k", "//boot/./k", "../../boot/k", "../../../../boot/k"])
def test_paths_begin_beside_the_file_or_at_the_root_of_its_filesystem(write: Write, path: str) -> None:
    assert only(write(f"label a\nkernel {path}")).kernel == "/boot/k"


@pytest.mark.parametrize("path", CONFIGS)
def test_configurations_are_looked_for_where_they_may_be(write: Write, path: str) -> None:
    assert write("label a\nlinux /boot/k", path.lstrip("/")).entries[0].problems == ()


def test_the_first_configuration_is_the_one(write: Write) -> None:
    assert only(write("label a\nlinux /k", **{CONFIGS[1].lstrip("/"): "label b"})).id == "a"


@pytest.mark.parametrize(
    ("lines", "initrds", "cmdline"),
    [
        ("initrd ../u,../i", ("/boot/u", "/boot/i"), "all"),
        ("append initrd=/boot/u,/boot/i x", ("/boot/u", "/boot/i"), "x"),
        ('append x initrd=/boot/u y="a b" initrd=/boot/i', ("/boot/i",), 'x y="a b"'),
        ("initrd /boot/i\nappend initrd=/boot/u", ("/boot/i",), ""),
        ("append -", (), ""),
        ("append", (), ""),
        ("", (), "all"),
    ],
)
def test_initrds_and_command_lines(write: Write, lines: str, initrds: tuple[str, ...], cmdline: str) -> None:
    entry = only(write(f"append all\nlabel a\nlinux /boot/k\n{lines}", **{"boot/u": "u"}))
    assert (entry.initrds, entry.cmdline, entry.problems) == (initrds, cmdline, ())


def test_kernel_may_be_followed_by_options(write: Write) -> None:
    assert only(write("label a\nkernel /boot/k root=/dev/a quiet")).cmdline == "root=/dev/a quiet"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("linux /gone", "there is no /gone"),
        ("linux /boot/k\ninitrd /boot/gone", "there is no /boot/gone"),
        ("linux /boot/k\nfdt /boot/gone", "there is no /boot/gone"),
        ("localboot 0x80", "it starts something else than Linux, by LOCALBOOT"),
        ("kernel reboot.c32", "it starts /boot/extlinux/reboot.c32, which is a program of the boot loader"),
        ("", "it starts something else than Linux, by NOTHING"),
    ],
)
def test_what_cannot_be_taken_says_why(write: Write, lines: str, problem: str) -> None:
    assert problem in only(write(f"label a\n{lines}")).problems


def test_device_trees(write: Write) -> None:
    found = write("label a\nlinux /k\nfdt /t.dtb\nlabel b\nlinux /k\nfdtdir /d\nfdtoverlays /o", **{"boot/t.dtb": "t"})
    assert [entry.devicetree for entry in found.entries] == ["/boot/t.dtb", ""]
    assert found.entries[1].remarks == (
        "the boot loader would choose a device tree, kexec keeps the running one",
        "the boot loader would apply device tree overlays, kexec does not",
    )


def test_the_version_is_in_the_name(write: Write) -> None:
    assert only(write("label a\nlinux /vmlinuz-6.12.43", **{"boot/vmlinuz-6.12.43": "k"})).version == "6.12.43"


LABELS = "label a\nlinux /k\nlabel b\nlinux /k\nlabel c\nlinux /k\n"


@pytest.mark.parametrize(
    ("head", "following", "reason"),
    [
        ("", "a", "it is the first label, and none is the default"),
        ("default b", "b", "DEFAULT names b"),
        ("default c\ndefault b extra words", "b", "DEFAULT names b"),
        ("default b\nontimeout c", "b", "DEFAULT names b"),
        ("default b\nontimeout c\nprompt 1\ntimeout 50", "c", "ONTIMEOUT names c"),
        ("default b\nontimeout c\nui menu.c32\ntimeout 0", "b", "DEFAULT names b"),
        ("default vesamenu.c32\nontimeout c\ntimeout 50", "c", "ONTIMEOUT names c"),
        ("default vesamenu.c32", "a", "it is the first label, and none is the default"),
        ("default linux root=/dev/a", "", "DEFAULT names linux root=/dev/a, which is no label"),
    ],
)
def test_which_label_boots(write: Write, head: str, following: str, reason: str) -> None:
    found = write(f"{head}\n{LABELS}")
    assert (found.next, found.reason) == (following, reason)


@pytest.mark.parametrize(("head", "following"), [("default menu.c32", "b"), ("default a", "a")])
def test_a_menus_default_counts_where_no_label_is_the_default(write: Write, head: str, following: str) -> None:
    assert write(f"{head}\nlabel a\nlinux /k\nlabel b\nmenu default\nlinux /k").next == following


def test_a_label_that_is_there_twice_is_the_first(write: Write) -> None:
    found = write("label a\nlinux /k\nlabel a\nlinux /gone")
    assert (only(found).kernel, found.problems) == ("/boot/k", ("the label a is there twice",))


def test_a_label_without_a_name_is_no_entry(write: Write) -> None:
    found = write("label\nlinux /k\nlabel b\nlinux /boot/k")
    assert (only(found).id, found.next) == ("b", "b")
    assert found.problems == (f"/{CONFIG}:1: a label has no name",)


def test_other_files_are_included_beside_it_and_from_the_root(write: Write) -> None:
    more = {"boot/extlinux/more.cfg": "label b\nlinux /k", "boot/x/y.cfg": "label c\nlinux /k"}
    found = write("include more.cfg tag\nmenu include /boot/x/y.cfg\nlabel a\nlinux /k\ninclude gone.cfg", **more)
    assert [entry.id for entry in found.entries] == ["b", "c", "a"]
    assert found.problems == (f"/{CONFIG}:5: there is no /boot/extlinux/gone.cfg to include",)


def test_files_that_include_each_other_come_to_an_end(write: Write) -> None:
    found = write("include b.cfg\nlabel a\nlinux /k", **{"boot/extlinux/b.cfg": "include extlinux.conf\ninclude b.cfg"})
    assert only(found).id == "a"
    assert len(found.problems) == 2


def test_files_that_include_ever_more_come_to_an_end(write: Write) -> None:
    more = {f"boot/extlinux/{n}.cfg": "\n".join(f"include {m}.cfg" for m in range(20)) for n in range(20)}
    started = time.monotonic()
    assert len(write("include 0.cfg\nlabel a\nlinux /k", **more).problems) == 16
    assert time.monotonic() - started < 5


def test_a_machine_without_a_configuration_has_no_labels(tmp_path: Path) -> None:
    assert extlinux.find(str(tmp_path)) is None


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "huge"])
def test_a_file_that_is_none_is_told(tmp_path: Path, kind: str) -> None:
    place = tmp_path / CONFIG
    place.parent.mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "loop":
        place.symlink_to("extlinux.conf")
    else:
        place.touch()
        os.truncate(place, 10 << 30)
    found = extlinux.find(str(tmp_path))
    assert found is not None
    assert (found.entries, found.next, len(found.problems)) == ((), "", 1)
    assert found.problems[0].startswith(f"/{CONFIG} cannot be read: ")


def test_thousands_of_labels_take_no_time(write: Write) -> None:
    started = time.monotonic()
    found = write("".join(f"label l{n}\nlinux /boot/k\ninitrd /boot/i\nappend root=/dev/a\n" for n in range(3000)))
    assert (len(found.entries), found.problems) == (3000, ())
    assert time.monotonic() - started < 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=100), st.lists(st.sampled_from(WORDS), max_size=12).map("\n".join).map(str.encode)))
def test_any_file_is_read(tmp_path: Path, data: bytes) -> None:
    place = tmp_path / CONFIG
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    (place.parent / "more.cfg").write_text("label c\nlinux /k\ninclude extlinux.conf")
    found = extlinux.find(str(tmp_path))
    assert found is not None
    assert found.reason
    assert found.next == "" or found.next in {entry.id for entry in found.entries}
    assert all(entry.title.isprintable() and entry.problems for entry in found.entries)
