# SPDX-License-Identifier: MIT
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kexecd.discover import bls
from kexecd.discover.menu import key_values, split_counters
from kexecd.model import BootEntry

Boot = Callable[..., str]

KEYS = (
    "title version machine-id sort-key linux initrd efi uki uki-url options devicetree devicetree-overlay architecture "
    "profile extra grub_users grub_arg grub_class id"
).split()


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    """Makes the entries of /boot, by name, and files of one byte; returns the root."""

    def make(entries: Mapping[str, str] | None = None, *files: str) -> str:
        folder = tmp_path / "boot/loader/entries"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (entries or {}).items():
            (folder / name).write_text(text)
        for path in ("/boot/k", "/boot/i", *files):
            place = tmp_path / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x")
        return str(tmp_path)

    return make


def only(root: str, variables: Mapping[str, str] | None = None, machine: str = "") -> BootEntry:
    (entry,) = bls.entries(root, variables, machine=machine)
    return entry


def ids(root: str) -> list[str]:
    return [entry.id.removesuffix(".conf") for entry in bls.entries(root)]


def test_an_entry_names_its_files_by_the_root_of_its_partition(boot: Boot) -> None:
    entry = only(boot({"a.conf": "title A\nversion 6.1\nlinux /k\ninitrd i\noptions root=/dev/a\noptions quiet\n"}))
    assert (entry.title, entry.version, entry.kernel, entry.initrds) == ("A", "6.1", "/boot/k", ("/boot/i",))
    assert (entry.cmdline, entry.problems, entry.remarks) == ("root=/dev/a quiet", (), ())


@pytest.mark.parametrize("path", ["//k", "./k", "\\k", "/../../k", "x/../k"])
def test_a_path_never_leaves_its_partition(boot: Boot, path: str) -> None:
    assert only(boot({"a.conf": f"linux {path}"})).kernel == "/boot/k"


def test_where_boot_is_no_partition_its_paths_begin_with_boot(boot: Boot) -> None:
    entry = only(boot({"a.conf": "linux /boot/k\ninitrd /boot/gone"}))
    assert (entry.kernel, entry.initrds, entry.problems) == ("/boot/k", ("/boot/gone",), ("there is no /boot/gone",))


def test_a_partition_may_have_a_directory_of_that_name_itself(boot: Boot) -> None:
    assert only(boot({"a.conf": "linux /boot/k"}, "/boot/boot/k")).kernel == "/boot/boot/k"


def test_initrds_keep_their_order(boot: Boot) -> None:
    entry = only(boot({"a.conf": "linux /k\ninitrd /ucode\ninitrd /i"}, "/boot/ucode"))
    assert entry.initrds == ("/boot/ucode", "/boot/i")


def test_one_partition_under_two_names_is_read_once(boot: Boot, tmp_path: Path) -> None:
    root = boot({"a.conf": "linux /k"})
    (tmp_path / "efi").symlink_to("/boot")
    assert len(bls.entries(root)) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title A", "it names nothing to boot"),
        ("linux /gone", "there is no /boot/gone"),
        ("linux /k\nefi /k", "it names both linux and efi"),
        ("efi /k", "it starts an EFI program, which cannot be booted by kexec"),
        ("uki-url http://a/b.efi", "its kernel would come from the network, which kexecd does not fetch"),
        ("uki /k\nprofile 1", "it asks for profile 1 of its image, and kexecd only takes the first"),
        ("linux /k\ndevicetree /gone.dtb", "there is no /boot/gone.dtb"),
        ("linux /k\narchitecture AA64", "it is for AA64, this machine is x86_64"),
        ("linux /k\nversion 0-rescue-1", "it is a rescue kernel"),
        ("linux /k\noptions $kernelopts", "GRUB's variable $kernelopts is in its options, and only GRUB knows it"),
    ],
)
def test_what_cannot_be_taken_says_why(boot: Boot, text: str, problem: str) -> None:
    assert problem in only(boot({"a.conf": text}), machine="x86_64").problems


@pytest.mark.parametrize(("name", "machine"), [("x64", "x86_64"), ("IA32", "i686"), ("arm", "armv7l"), ("riscv64", "")])
def test_an_entry_for_this_machine_is_taken(boot: Boot, name: str, machine: str) -> None:
    assert only(boot({"a.conf": f"linux /k\narchitecture {name}"}), machine=machine).problems == ()


def test_an_entry_out_of_tries_is_last_and_says_so(boot: Boot) -> None:
    root = boot(dict.fromkeys(("c+0-3.conf", "b+1-2.conf", "a.conf"), "linux /k"))
    assert [(e.id, e.problems) for e in bls.entries(root)] == [
        ("b.conf", ()),
        ("a.conf", ()),
        ("c.conf", ("its boot counter has run out",)),
    ]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("foo", ("foo", None, 0)),
        ("foo+3", ("foo", 3, 0)),
        ("foo+2-1", ("foo", 2, 1)),
        ("6.12.43+deb13-amd64", ("6.12.43+deb13-amd64", None, 0)),
        ("6.12.43+deb13-amd64+0-3", ("6.12.43+deb13-amd64", 0, 3)),
        ("foo+", ("foo+", None, 0)),
        ("foo+3-", ("foo+3-", None, 0)),
        ("foo+3x", ("foo+3x", None, 0)),
    ],
)
def test_counters_are_the_last_of_a_name(name: str, parts: tuple[str, int | None, int]) -> None:
    assert split_counters(name) == parts


def test_sort_keys_come_first_then_machines_then_the_newest(boot: Boot) -> None:
    def entry(key: str, machine: str, version: str) -> str:
        return f"linux /k\nsort-key {key}\nmachine-id {machine}\nversion {version}"

    root = boot(
        {
            "z.conf": "linux /k\nversion 99",
            "1.conf": entry("debian", "a", "6.1.0-9"),
            "2.conf": entry("debian", "a", "6.1.0-50"),
            "3.conf": entry("debian", "b", "7.0"),
            "4.conf": entry("arch", "z", "1"),
            "5.conf": entry("debian", "a", "6.1.0-50~rc1"),
        }
    )
    assert ids(root) == ["4", "2", "5", "1", "3", "z"]


def test_without_sort_keys_the_names_decide_with_their_suffix(boot: Boot) -> None:
    names = ("arch.conf", "arch-lts.conf", "arch-fallback.conf", "linux-6.9.conf", "Linux-6.10.conf")
    assert ids(boot(dict.fromkeys(names, "linux /k"))) == [
        *("Linux-6.10", "linux-6.9"),
        *("arch", "arch-lts", "arch-fallback"),
    ]


@pytest.mark.parametrize("name", ["a.conf.bak", ".a.conf", "auto-a.conf", "a", "a.conf~"])
def test_other_files_are_passed_over(boot: Boot, name: str) -> None:
    assert bls.entries(boot({name: "linux /k"})) == ()


def test_values_may_be_quoted_and_comments_may_stand_anywhere(boot: Boot) -> None:
    entry = only(boot({"a.conf": " # no\ntitle \"A B\"\r\n\tlinux\t/k \noptions\n#options x\noptions 'y'\n"}))
    assert (entry.title, entry.kernel, entry.cmdline) == ("A B", "/boot/k", "y")


def test_grub_keeps_quotes_and_expands_its_variables(boot: Boot) -> None:
    text = 'linux /k\ninitrd /i $tuned_initrd\noptions "$kernelopts" $none ${tuned_params} \\$x'
    entry = only(boot({"a.conf": text}, "/boot/t"), {"kernelopts": "root=$r", "r": "/dev/a", "tuned_initrd": "/t"})
    assert entry.cmdline == '"root=/dev/a"   \\$x'
    assert entry.initrds == ("/boot/i", "/boot/t")
    assert entry.remarks == ("$none is in its options, and GRUB has no value for it",)


def test_grub_has_options_and_initrds_for_entries_without(boot: Boot) -> None:
    root = boot({"a.conf": "linux /sub/k\ninitrd /sub/i"}, "/boot/sub/k", "/boot/sub/i", "/boot/sub/u")
    entry = only(root, {"default_kernelopts": "root=/dev/a", "early_initrd": "u"})
    assert (entry.cmdline, entry.initrds) == ("root=/dev/a", ("/boot/sub/u", "/boot/sub/i"))


def test_systemd_boot_leaves_other_dollars_alone(boot: Boot) -> None:
    entry = only(boot({"a.conf": "linux /k\noptions systemd.setenv=A=$B"}))
    assert (entry.cmdline, entry.problems) == ("systemd.setenv=A=$B", ())


def test_a_version_that_is_a_sentence_is_no_release(boot: Boot) -> None:
    assert only(boot({"a.conf": "linux /k\nversion Generation 12 NixOS"})).version == ""


def test_titles_do_nothing_to_a_terminal(boot: Boot) -> None:
    assert only(boot({"a.conf": "linux /k\ntitle a\x1b[31mb"})).title == "a\N{REPLACEMENT CHARACTER}[31mb"


def test_grub_orders_by_the_names_of_packages(boot: Boot) -> None:
    names = ("m-0-rescue", "m-5.0.9-301.fc30", "m-5.0.10-300.fc30", "m-5.0.10-300.fc9", "m-5.0.10~rc1-1", "n-1-1")
    root = boot({f"{name}.conf": "linux /k\nsort-key a" for name in names})
    assert [entry.id for entry in bls.grub_order(bls.entries(root, {}))] == [
        *("n-1-1", "m-5.0.10-300.fc30", "m-5.0.10-300.fc9", "m-5.0.10~rc1-1", "m-5.0.9-301.fc30", "m-0-rescue"),
    ]


def test_files_that_are_none_are_entries_with_a_problem(boot: Boot, tmp_path: Path) -> None:
    root = boot()
    folder = tmp_path / "boot/loader/entries"
    os.mkfifo(folder / "fifo.conf")
    (folder / "folder.conf").mkdir()
    (folder / "loop.conf").symlink_to("loop.conf")
    (folder / "gone.conf").symlink_to("nowhere")
    (folder / "huge.conf").touch()
    os.truncate(folder / "huge.conf", 10 << 30)
    assert {entry.id: entry.problems[0].removeprefix("/boot/loader/entries/") for entry in bls.entries(root)} == {
        "fifo.conf": "fifo.conf cannot be read: not a regular file",
        "folder.conf": "folder.conf cannot be read: not a regular file",
        "loop.conf": "loop.conf cannot be read: too many levels of symbolic links",
        "gone.conf": "there is no /boot/loader/entries/gone.conf",
        "huge.conf": "huge.conf cannot be read: larger than 65536 bytes",
    }


@pytest.mark.parametrize("place", ["boot", "boot/loader", "boot/loader/entries"])
def test_a_directory_that_cannot_be_read_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).symlink_to(Path(place).name)
    problems: list[str] = []
    assert not list(bls.read(str(tmp_path), problems))
    loop = "/boot/loader/entries cannot be read: too many levels of symbolic links"
    assert problems == ([] if place == "boot" else [loop])


def test_thousands_of_entries_take_no_time(boot: Boot) -> None:
    root = boot({f"a-{n}.conf": f"linux /k\ninitrd /i\nversion {n}\nsort-key s" for n in range(2000)})
    started = time.monotonic()
    assert bls.entries(root)[0].version == "1999"
    assert time.monotonic() - started < 5


@given(st.text(max_size=80))
def test_any_text_is_lines_of_keys_and_values(text: str) -> None:
    for key, value in key_values(text):
        assert key == key.strip(" \t")
        assert "\n" not in key + value


VALUES = st.text("/$k{}i\\.\"' a0-rescue\0\x1b\udc80", max_size=12)
LINES = st.lists(st.builds("{} {}".format, st.sampled_from(KEYS), VALUES), max_size=8).map("\n".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    st.one_of(st.binary(max_size=200), LINES.map(lambda text: text.encode(errors="surrogateescape"))),
    st.sampled_from([None, {}, {"kernelopts": "$kernelopts", "early_initrd": "a b", "i": "/"}]),
)
def test_any_file_is_an_entry(boot: Boot, data: bytes, variables: Mapping[str, str] | None) -> None:
    root = boot()
    Path(root, "boot/loader/entries/a.conf").write_bytes(data)
    entry = only(root, variables, "x86_64")
    assert entry.title.isprintable()
    assert entry.kernel.startswith("/boot") or entry.problems
