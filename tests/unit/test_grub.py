# SPDX-License-Identifier: MIT
"""What GRUB would show and boot, in trees made for one question each; the whole menus of distributions are golden."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kexecd.discover.grub.source import find
from kexecd.errors import BadConfig
from kexecd.model import BootEntry, Found, Source

ROOT = "11111111-aaaa-4bbb-8ccc-000000000001"
BOOT = "22222222-aaaa-4bbb-8ccc-000000000002"
OTHER = "33333333-aaaa-4bbb-8ccc-000000000003"
FSTAB = f"UUID={ROOT} / ext4 defaults 0 1\n"
BOTH = FSTAB + f"UUID={BOOT} /boot ext4 defaults 0 2\n"
ENTRIES = """
menuentry Alpha --id a { linux /boot/vmlinuz-1; }
submenu 'Sub > more' --id s {
  menuentry 'S zero' --id s0 { linux /boot/vmlinuz-1; }
  submenu Deep --id deep { menuentry D0 --id d0 { linux /boot/vmlinuz-1; }; menuentry D1 { linux /boot/vmlinuz-1; } }
  menuentry Alpha --id a { linux /boot/vmlinuz-1; }
}
menuentry '10 little' --id ten { linux /boot/vmlinuz-1; }
menuentry 'Has > arrow' --id 'x>y' { linux /boot/vmlinuz-1; }
"""

Tree = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes the files that are named, the others of one byte; returns the root."""

    def make(cfg: str | None, *others: str, fstab: str = "", files: Mapping[str, str] | None = None) -> str:
        texts = {**dict.fromkeys(others, "x"), **(files or {})}
        if cfg is not None:
            texts.setdefault("/boot/grub/grub.cfg", cfg)
        if fstab:
            texts["/etc/fstab"] = fstab
        for path, text in texts.items():
            place = tmp_path / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return str(tmp_path)

    return make


def grub(root: str) -> Found:
    found = find(root, arch="x86_64")
    assert found is not None
    return found


def only(root: str) -> BootEntry:
    (entry,) = grub(root).entries
    return entry


def environment(**variables: str) -> str:
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    return ("# GRUB Environment Block\n" + lines).ljust(1024, "#")


def test_an_entry_has_its_files_and_its_command_line(tree: Tree) -> None:
    cfg = """menuentry 'Debian' --id deb {
        linux /boot/vmlinuz-6.1.0-50-amd64 root=UUID=x  ro quiet
        initrd /boot/ucode.img /boot/initrd.img-6.1.0-50-amd64
        devicetree /boot/board.dtb
    }"""
    names = ("vmlinuz-6.1.0-50-amd64", "initrd.img-6.1.0-50-amd64", "ucode.img", "board.dtb")
    found = grub(tree(cfg, *(f"/boot/{name}" for name in names)))
    assert found.entries == (
        BootEntry(
            id="deb",
            title="Debian",
            version="6.1.0-50-amd64",
            source=Source.GRUB,
            kernel="/boot/vmlinuz-6.1.0-50-amd64",
            initrds=("/boot/ucode.img", "/boot/initrd.img-6.1.0-50-amd64"),
            cmdline="root=UUID=x ro quiet",
            devicetree="/boot/board.dtb",
        ),
    )
    assert (found.next, found.problems) == ("deb", ())
    assert found.reason == "/boot/grub/grub.cfg names no default: GRUB takes the first entry"


def test_without_a_configuration_there_is_no_grub(tree: Tree) -> None:
    assert find(tree(None, "/boot/vmlinuz-1")) is None


# grub-emu 2.06 took these, with this menu.
@pytest.mark.parametrize(
    ("default", "booted"),
    [
        *(("0", "a"), ("1", "s>s0"), ("2", "ten"), ("3", "x>>y"), ("9", "a"), ("-1", "a"), (" 1", "s>s0")),
        *(("1>1", "s>deep>d0"), ("1>1>1", "s>deep>D1"), ("1>deep>D1", "s>deep>D1"), ("s>a", "s>a"), ("s", "s>s0")),
        *(("Sub >> more>Alpha", "s>a"), ("Sub > more>Alpha", "a"), ("10 little", "a"), ("2nd", "ten"), ("ten", "ten")),
        *(("x>>y", "x>>y"), ("x>y", "a"), ("Has >> arrow", "x>>y"), ("nope", "a"), ("nope>1", "a"), ("1>nope", "s>s0")),
        *(("1>7", "s>s0"), ("0x1", "s>s0"), ("010", "a"), ("1>", "s>s0"), ("s>deep", "s>deep>d0"), ("s>2", "s>a")),
        *(("a>s", "a"), ("9" * 20, "a"), ("S zero", "a"), ("", "a")),
    ],
)
def test_the_default_is_resolved_as_grub_does(tree: Tree, default: str, booted: str) -> None:
    assert grub(tree(f"set default='{default}'\n{ENTRIES}", "/boot/vmlinuz-1")).next == booted


@pytest.mark.parametrize(
    ("default", "booted"),
    [("3f00-6.1", "3f00-6.1"), ("1", "s>second"), ("1>0", "3f00-6.1"), ("s>0", "s>first"), ("Three", "3f00-6.1")],
)
def test_red_hats_grub_takes_ids_before_numbers(tree: Tree, default: str, booted: str) -> None:
    cfg = f"""set default='{default}'
set menu_hide_ok=0
menuentry Three --id 3f00-6.1 {{ linux /boot/vmlinuz-1; }}
submenu Sub --id s {{
  menuentry First --id first {{ linux /boot/vmlinuz-1; }}
  menuentry Second --id second {{ linux /boot/vmlinuz-1; }}
}}"""
    assert grub(tree(cfg, "/boot/vmlinuz-1")).next == booted


def test_what_grub_reboot_asked_for_comes_before_what_was_saved(tree: Tree) -> None:
    cfg = """if [ -s $prefix/grubenv ]; then load_env; fi
if [ "${next_entry}" ]; then set default="${next_entry}"; set next_entry=; else set default="${saved_entry}"; fi
menuentry A --id a { linux /boot/vmlinuz-1; }
menuentry B --id b { linux /boot/vmlinuz-1; }
"""
    saved = {"/boot/grub/grubenv": environment(saved_entry="b")}
    found = grub(tree(cfg, "/boot/vmlinuz-1", files=saved))
    assert (found.next, found.reason) == ("b", """GRUB's environment block says saved_entry="b\"""")
    both = {"/boot/grub/grubenv": environment(saved_entry="b", next_entry="a", prev_saved_entry="b")}
    found = grub(tree(cfg, files=both))
    assert (found.next, found.reason) == ("a", """GRUB's environment block says next_entry="a", for one boot""")


def test_the_last_failed_boot_does_not_change_the_entry(tree: Tree) -> None:
    cfg = "load_env\nif [ ${recordfail} = 1 ]; then set timeout=30; fi\nset default=1\n" + ENTRIES
    assert grub(tree(cfg, "/boot/vmlinuz-1", files={"/boot/grub/grubenv": environment(recordfail="1")})).next == "s>s0"


def test_red_hats_boot_counter_changes_the_entry_when_it_has_run_out(tree: Tree) -> None:
    cfg = """load_env
if [ -n "${boot_counter}" -a "${boot_success}" = "0" ]; then
  if [ "${boot_counter}" = "0" -o "${boot_counter}" = "-1" ]; then set default=1; else decrement boot_counter; fi
fi
menuentry A { linux /boot/vmlinuz-$boot_counter; }
menuentry B { linux /boot/vmlinuz-1; }
"""
    one = {"/boot/grub/grubenv": environment(boot_counter="2", boot_success="0")}
    found = grub(tree(cfg, "/boot/vmlinuz-1", files=one))
    assert (found.next, found.entries[0].kernel) == ("A", "/boot/vmlinuz-1")
    assert grub(tree(None, files={"/boot/grub/grubenv": environment(boot_counter="0", boot_success="0")})).next == "B"


@pytest.mark.parametrize("text", ["", "saved_entry=1\n", "# GRUB Environment Block", "\xff\0" * 512])
def test_a_broken_environment_block_is_a_problem(tree: Tree, text: str) -> None:
    found = grub(tree("load_env\n" + ENTRIES, "/boot/vmlinuz-1", files={"/boot/grub/grubenv": text}))
    assert found.next == ""
    assert found.problems == ("/boot/grub/grub.cfg:1:1: not understood: /boot/grub/grubenv is no environment block",)


def test_values_of_the_environment_block_are_unescaped(tree: Tree) -> None:
    block = "# GRUB Environment Block\n# WARNING: do not edit\nx=a\\\\b\\\nc\nempty=\ny==\n" + "#" * 100
    cfg = "load_env\nmenuentry A { linux /k \"$x\" $empty '$x' $y; }\n"
    root = tree(cfg, "/k", files={"/boot/grub/grubenv": block})
    assert only(root).cmdline == "a\\\\b\nc $x ="


@pytest.mark.parametrize(
    ("words", "cmdline"),
    [
        ("a  b\tc", "a b c"),
        ('dyndbg="file a.c +p"', '"dyndbg=file a.c +p"'),
        (r"'it'\''s' \"q\"", r"it\'s \"q\""),
        (r"a\b 'c\d' e\\f", r"ab c\\d e\\f"),
        (r"one\ two", '"one two"'),
        ("$unset x$unset'' \"$unset\"", "x "),
        ("$list \"$list\" '$list'", '1 2 "1 2" $list'),
        ("a \\\n  b", "a b"),
        ("a # b", "a"),
        ("a#b", "a#b"),
        ("if then fi", "if then fi"),
        ("memmap=1M'$'2M", "memmap=1M$2M"),
    ],
)
def test_arguments_are_split_and_joined_as_grub_does(tree: Tree, words: str, cmdline: str) -> None:
    assert only(tree(f"set list='1 2'\nmenuentry A {{\n linux /k {words}\n}}", "/k")).cmdline == cmdline


def test_what_grubs_differ_in_spoils_the_entry(tree: Tree) -> None:
    entry = only(tree("menuentry A {\n linux /k root=LABEL=a\\x20b\n}", "/k"))
    assert entry.problems == (
        "/boot/grub/grub.cfg:2:2: not understood: root=LABEL=a\\x20b, which not every GRUB hands on alike",
    )


@pytest.mark.parametrize(
    ("condition", "truth"),
    [
        *(("[ -z '' -a -n x ]", True), ("[ x = y -o x = x ]", True), ("[ ! x = x ]", False), ("! [ x = y ]", True)),
        *(("[ 10 -gt 9 ]", True), ("[ 0x10 -eq 16 ]", True), ("[ -1 -lt 0 ]", True), ("[ foo -eq 0 ]", True)),
        *(("[ ]", True), ("[ a ]", True), ("[ '' ]", False), ("test x != y", True), ("[ b '>' a ]", True)),
        *(("[ ( x = y -o x = x ) -a y = y ]", True), ("[ -e /boot/grub ]", True), ("[ -f /boot/grub ]", False)),
        *(("[ -d $prefix ]", True), ("[ -s $prefix/empty ]", False), ("[ -f ${config_directory}/empty ]", True)),
        *(("[ -f $prefix/none ]", False), ("true", True), ("false", False), ("keystatus --shift", False)),
        *(("sleep --interruptible 0", True), ("loadfont unicode", True), ("cpuid -l", True), ("[ $? = 0 ]", True)),
        *(("[ $grub_platform = pc -a $grub_cpu = i386 ]", True), ("[ x$feature_menuentry_id = xy ]", True)),
        *(("[ -s (hd0,gpt1)/boot/vmlinuz-1 ]", True), ("[ -n ]", True), ("[ a b ]", True), ("[ -z '' ) ]", True)),
    ],
)
def test_conditions(tree: Tree, condition: str, truth: bool) -> None:
    cfg = f"if {condition}; then set default=1; else set default=0; fi\n{ENTRIES}"
    found = grub(tree(cfg, "/boot/vmlinuz-1", files={"/boot/grub/empty": ""}))
    assert (found.next, found.problems) == ("s>s0" if truth else "a", ())


def test_functions_loops_and_parameters(tree: Tree) -> None:
    cfg = """function add {
  set all="$all $1"
  if [ $# = 2 ]; then return 0; fi
  set all="$all-"
}
for i in 1 2 "3 4"; do if [ "$i" = 2 ]; then continue; fi; add $i; done
add five six
set n=0
while [ $n -lt 10 ]; do increment n; if [ $n = 3 ]; then break; fi; done
until [ $n = 9 ]; do set n=9; done
menuentry A { setparams one two; shift; linux /k $all $n $1 $#; }
"""
    assert only(tree(cfg, "/k")).cmdline == "1- 3 five 9 two 1"


def test_what_never_ends_is_a_problem(tree: Tree) -> None:
    found = grub(tree("while true; do set a=1; done\n" + ENTRIES, "/boot/vmlinuz-1"))
    assert (found.next, found.problems) == ("", ("/boot/grub/grub.cfg: not understood: it never ends",))
    entry = only(
        tree(None, "/k", files={"/boot/grub/grub.cfg": "menuentry A { linux /k; until false; do true; done; }"})
    )
    assert entry.problems == ("/boot/grub/grub.cfg: not understood: it never ends",)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "frobnicate",
            "regexp --set x y z",
            "echo a && echo b",
            "}",
            "if true; fi",
            'echo "$ 5"',
            "case x in",
            "foo ; ;",
        ),
        *(
            "[ a -nt b ]",
            "cmostest 5:1",
            "linux /boot/vmlinuz-1",
            "source (loop)/x",
            "eval x",
            "if x; then set y=1; fi",
        ),
        *(
            "search --whatever x",
            "[ -f (hd0,1 ]; unknown",
            "menuentry x",
            "submenu y { }",
            "insmod regexp; echo /boot/*",
        ),
    ],
)
def test_what_is_not_understood_outside_of_entries_leaves_next_open(tree: Tree, line: str) -> None:
    found = grub(tree(f"set default=1\n  {line}\n{ENTRIES}", "/boot/vmlinuz-1"))
    assert found.next == ""
    assert found.problems
    assert found.problems[0].startswith("/boot/grub/grub.cfg:2:")
    assert found.reason == found.problems[0]
    assert [entry.id for entry in found.entries][-2:] == ["ten", "x>>y"], "what stands behind it is read all the same"


def test_what_is_not_understood_inside_an_entry_spoils_only_that(tree: Tree) -> None:
    cfg = "menuentry A { linux /k; }\nmenuentry B { frobnicate 1; linux /k; }\nmenuentry C { linux /k; }"
    found = grub(tree("set default=1\n" + cfg, "/k"))
    bad = "/boot/grub/grub.cfg:3:15: not understood: frobnicate"
    assert {entry.id: entry.problems for entry in found.entries} == {"A": (), "B": (bad,), "C": ()}
    assert (found.next, found.problems) == ("B", ())


def test_what_is_not_understood_in_a_submenu_matters_on_the_way_to_it(tree: Tree) -> None:
    cfg = "menuentry A { linux /k; }\nsubmenu S { frobnicate; menuentry B { linux /k; }; }"
    assert grub(tree(cfg, "/k")).next == "A"
    found = grub(tree(None, files={"/boot/grub/grub.cfg": "set default=S\n" + cfg}))
    assert (found.next, found.reason) == ("", "/boot/grub/grub.cfg:3:13: not understood: frobnicate")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "chainloader /EFI/Microsoft/Boot/bootmgfw.efi",
            "it starts another boot loader (/EFI/Microsoft/Boot/bootmgfw.efi)",
        ),
        ("chainloader +1", "it starts another boot loader (+1)"),
        (
            "multiboot2 /xen.gz x; module2 /k",
            "it starts a hypervisor, or another kernel than Linux, through Multiboot (/xen.gz)",
        ),
        ("xen_hypervisor /xen.gz", "it starts a hypervisor, or another kernel than Linux, through Multiboot (/xen.gz)"),
        ("fwsetup", "it opens the firmware's settings"),
        ("halt", "it switches the machine off"),
        ("configfile /x/grub.cfg", "it opens another menu (/x/grub.cfg)"),
        ("echo nothing", "it starts nothing"),
        ("linux16 /memtest86+.bin", "it is a memory test, not Linux"),
    ],
)
def test_what_kexec_cannot_take_says_so(tree: Tree, body: str, why: str) -> None:
    assert only(tree(f"menuentry A {{ {body}; }}", "/k", "/memtest86+.bin")).problems == (why,)


def test_a_missing_file_is_the_entrys_problem(tree: Tree) -> None:
    root = tree("menuentry A { linux /boot/vmlinuz-1; initrd /boot/initrd-1 /boot/initrd-2; }", "/boot/initrd-1")
    entry = only(root)
    assert entry.problems == ("there is no /boot/vmlinuz-1", "there is no /boot/initrd-2")
    assert entry.initrds == ("/boot/initrd-1", "/boot/initrd-2")


def test_a_password_is_a_remark(tree: Tree) -> None:
    cfg = "set superusers=root\npassword root x\nmenuentry A { linux /k; }\nmenuentry B --unrestricted { linux /k; }"
    assert [entry.remarks for entry in grub(tree(cfg, "/k")).entries] == [
        ("GRUB asks for a password before it starts this one",),
        (),
    ]


def search(uuid: str, line: str) -> str:
    return f"menuentry A {{\n set root='hd0,gpt9'\n search --no-floppy --fs-uuid --set=root {uuid}\n linux {line}\n}}\n"


@pytest.mark.parametrize(
    ("fstab", "uuid", "line", "kernel"),
    [
        (FSTAB, ROOT, "/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        (FSTAB, ROOT.upper(), "/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        (BOTH, BOOT, "/vmlinuz-1", "/boot/vmlinuz-1"),
        (BOTH, BOOT, "($root)/vmlinuz-1", "/boot/vmlinuz-1"),
        ("", BOOT, "/vmlinuz-1", "/boot/vmlinuz-1"),
        ("", ROOT, "/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        ("", ROOT, "/@/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        ("/dev/mapper/vg-root / ext4 defaults\n", ROOT, "/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        (f"UUID={ROOT} / btrfs subvol=@ 0 0\n", ROOT, "/@/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        (f"UUID={ROOT} / btrfs subvol=@ 0 0\n", ROOT, "/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        (f"UUID={ROOT} / btrfs defaults 0 0\n", ROOT, "/@/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        (f"UUID={ROOT} / btrfs subvol=@ 0 0\n", ROOT, "/@old/boot/vmlinuz-1", "/@old/boot/vmlinuz-1"),
        (FSTAB, OTHER, "(hd0,gpt2)/boot/vmlinuz-1", "/boot/vmlinuz-1"),
        (BOTH, OTHER, "(own)/vmlinuz-1", "/boot/vmlinuz-1"),
        (BOTH, OTHER, "${prefix}/../vmlinuz-1", "/boot/grub/../vmlinuz-1"),
    ],
)
def test_paths_of_grub_are_found_in_the_tree(tree: Tree, fstab: str, uuid: str, line: str, kernel: str) -> None:
    entry = only(tree(search(uuid, line), "/boot/vmlinuz-1", fstab=fstab))
    assert entry.kernel == kernel
    assert entry.problems == (() if "old" not in kernel else ("there is no /@old/boot/vmlinuz-1",))


@pytest.mark.parametrize("command", ["search --label --set=root", "search -l -s root", "search.fs_label"])
def test_labels_are_looked_up_too(tree: Tree, command: str) -> None:
    variable = " root" if "." in command else ""
    cfg = f"menuentry A {{ {command} my-boot{variable}; linux /vmlinuz-1; }}"
    fstab = FSTAB.replace("\n", "\nLABEL=my-boot /boot ext4 defaults 0 2\n")
    assert only(tree(cfg, "/boot/vmlinuz-1", fstab=fstab)).kernel == "/boot/vmlinuz-1"


def test_a_filesystem_is_found_by_a_file(tree: Tree) -> None:
    cfg = "set root=hd9\nsearch --file --set /vmlinuz-1\nmenuentry A { linux /vmlinuz-1; }"
    assert only(tree(cfg, "/boot/vmlinuz-1", fstab=BOTH)).kernel == "/boot/vmlinuz-1"
    cfg = "if search --file --set=root /none; then set default=1; fi\n" + ENTRIES
    assert grub(tree(None, files={"/boot/grub/grub.cfg": cfg})).next == "a"


def test_a_kernel_on_a_filesystem_that_is_not_mounted_is_not_taken(tree: Tree) -> None:
    entry = only(tree(search(OTHER, "/boot/vmlinuz-1"), "/boot/vmlinuz-1", fstab=BOTH))
    assert entry.kernel == ""
    assert entry.problems == (f"/boot/vmlinuz-1 is on a filesystem that is not mounted here (UUID {OTHER})",)


def test_a_kernel_that_another_mount_hides_is_not_taken(tree: Tree) -> None:
    entry = only(tree(search(ROOT, "/boot/vmlinuz-1"), "/boot/vmlinuz-1", fstab=BOTH))
    why = f"/boot/vmlinuz-1 is on a part of a filesystem that is not mounted here (UUID {ROOT})"
    assert (entry.kernel, entry.problems) == ("", (why,))


def test_of_two_filesystems_without_a_known_uuid_only_the_first_is_ours(tree: Tree) -> None:
    """os-prober finds a second system, with a kernel of the same name."""
    second = search(OTHER, "/boot/vmlinuz-1").replace("A", "B")
    root = tree(search(ROOT, "/boot/vmlinuz-1") + second, "/boot/vmlinuz-1", fstab="/dev/mapper/vg-root / ext4 x\n")
    ours, theirs = grub(root).entries
    assert (ours.kernel, ours.problems) == ("/boot/vmlinuz-1", ())
    assert theirs.problems == (f"/boot/vmlinuz-1 is on a filesystem that is not mounted here (UUID {OTHER})",)


def test_udev_says_which_device_a_uuid_is(tree: Tree, tmp_path: Path) -> None:
    fstab = "/dev/mapper/vg-root / ext4 defaults 0 1\n"
    second = search(OTHER, "/boot/vmlinuz-1").replace("A", "B")
    root = tree(second + search(ROOT, "/boot/vmlinuz-1"), "/boot/vmlinuz-1", fstab=fstab)
    (tmp_path / "dev/mapper").mkdir(parents=True)
    (tmp_path / "dev/mapper/vg-root").symlink_to("../dm-0")
    (tmp_path / "dev/disk/by-uuid").mkdir(parents=True)
    (tmp_path / "dev/disk/by-uuid" / ROOT).symlink_to("../../dm-0")
    (tmp_path / "dev/disk/by-uuid" / OTHER).symlink_to("../../sdb1")
    theirs, ours = grub(root).entries
    assert (ours.kernel, ours.problems) == ("/boot/vmlinuz-1", ())
    assert theirs.problems == (f"/boot/vmlinuz-1 is on a filesystem that is not mounted here (UUID {OTHER})",)


def test_mountinfo_says_what_is_mounted_where(tree: Tree, tmp_path: Path) -> None:
    mounts = (
        "20 1 0:20 /@/.snapshots/1/snapshot / rw - btrfs /dev/sda2 rw\n"
        "21 20 0:20 /@/home /home rw - btrfs /dev/sda2 rw\n"
    )
    cfg = search(ROOT, "/boot/vmlinuz-1") + search(ROOT, "/@/.snapshots/1/snapshot/boot/vmlinuz-1").replace("A", "B")
    root = tree(cfg, "/boot/vmlinuz-1", files={"/proc/self/mountinfo": mounts})
    (tmp_path / "dev/disk/by-uuid").mkdir(parents=True)
    (tmp_path / "dev/disk/by-uuid" / ROOT).symlink_to("../../sda2")
    assert [(entry.kernel, entry.problems) for entry in grub(root).entries] == [("/boot/vmlinuz-1", ())] * 2


def test_different_files_that_a_path_could_be_are_a_problem(tree: Tree) -> None:
    entry = only(tree("menuentry A { linux (hd0,gpt2)/vmlinuz-1; }", "/vmlinuz-1", "/boot/vmlinuz-1"))
    assert (entry.kernel, entry.problems) == ("", ("/vmlinuz-1 could be /boot/vmlinuz-1 or /vmlinuz-1",))


def test_another_file_is_read_in_its_place(tree: Tree) -> None:
    custom = "set default=custom\nmenuentry C --id custom { linux /k; }"
    cfg = "menuentry A { linux /k; }\nif [ -f $prefix/custom.cfg ]; then source $prefix/custom.cfg; fi\n. /none.cfg"
    found = grub(tree(cfg, "/k", files={"/boot/grub/custom.cfg": custom}))
    assert ([entry.id for entry in found.entries], found.next, found.problems) == (["A", "custom"], "custom", ())


def test_files_that_read_each_other_end(tree: Tree) -> None:
    found = grub(tree("source /a.cfg\n" + ENTRIES, "/boot/vmlinuz-1", files={"/a.cfg": "source /boot/grub/grub.cfg"}))
    assert found.problems == ("/a.cfg:1:1: not understood: /boot/grub/grub.cfg reads itself",)
    assert found.next == ""


def test_a_configuration_that_opens_another_is_replaced_by_it(tree: Tree) -> None:
    other = "menuentry B { linux /k $inherited$exported; }"
    cfg = "set inherited=1\nset exported=2\nexport exported\nmenuentry A { linux /k; }\nconfigfile /other.cfg\n"
    assert (entry := only(tree(cfg, "/k", files={"/other.cfg": other}))).id == "B"
    assert entry.cmdline == "2"


STUB = f"search.fs_uuid {BOOT} root hd0,gpt2 \nset prefix=($root)'/grub2'\nconfigfile $prefix/grub.cfg\n"


def test_the_short_configuration_of_the_efi_partition_says_which_one_counts(tree: Tree) -> None:
    files = {
        "/boot/grub/grub.cfg": "menuentry Old { linux /vmlinuz-1; }",
        "/boot/grub2/grub.cfg": "menuentry New { linux /vmlinuz-1; }",
        "/boot/efi/EFI/fedora/grub.cfg": STUB,
    }
    root = tree(None, "/boot/vmlinuz-1", fstab=BOTH, files=files)
    assert grub(root).next == "New"
    os.unlink(f"{root}/boot/efi/EFI/fedora/grub.cfg")
    found = grub(root)
    assert found.next == ""
    assert found.reason == "which of /boot/grub/grub.cfg and /boot/grub2/grub.cfg GRUB reads cannot be told"


def test_a_whole_configuration_on_the_efi_partition_is_read(tree: Tree) -> None:
    files = {
        "/boot/efi/EFI/centos/grub.cfg": "menuentry New { linux /vmlinuz-1; }",
        "/boot/efi/EFI/BOOT/grub.cfg": STUB,
    }
    assert grub(tree(None, "/boot/vmlinuz-1", fstab=BOTH, files=files)).next == "New"


def test_entries_of_the_boot_loader_specification_are_put_into_the_menu(tree: Tree) -> None:
    seen: list[Mapping[str, str]] = []

    def bls(variables: Mapping[str, str]) -> tuple[BootEntry, ...]:
        seen.append(variables)
        return tuple(
            BootEntry(id=name, title=name, version="", source=Source.BLS, kernel="/k") for name in ("7f-2", "7f-1")
        )

    root = tree("set kernelopts='root=x ro'\nset default=7f-1\nblscfg\nmenuentry A { linux /k; }", "/k")
    found = find(root, bls=bls)
    assert found is not None
    assert ([entry.id for entry in found.entries], found.next) == (["7f-2", "7f-1", "A"], "7f-1")
    assert seen[0]["kernelopts"] == "root=x ro"
    assert grub(root).next == "", "nobody reads them, so the menu may be another one"

    def broken(variables: Mapping[str, str]) -> tuple[BootEntry, ...]:
        raise BadConfig("cannot read the entries", "there are too many")

    found = find(root, bls=broken)
    assert found is not None
    assert (found.next, "there are too many" in found.reason) == ("", True)


def test_two_entries_of_one_id_can_be_told_apart(tree: Tree) -> None:
    found = grub(tree("set default=A\nmenuentry A { linux /k; }\nmenuentry A { linux /k 2; }", "/k"))
    assert ([entry.id for entry in found.entries], found.next) == (["A", "A (2)"], "A")


def test_an_empty_menu_and_an_empty_submenu_boot_nothing(tree: Tree) -> None:
    assert grub(tree("set default=0\n")).reason == "the menu of /boot/grub/grub.cfg is empty"
    cfg = "submenu S { true; }\nmenuentry A { linux /k; }"
    found = grub(tree(None, files={"/boot/grub/grub.cfg": cfg}))
    assert found.next == ""
    assert found.reason == "/boot/grub/grub.cfg names no default: GRUB takes the first entry, and that submenu is empty"


def test_the_firmwares_settings_are_offered_where_the_firmware_has_them(tree: Tree) -> None:
    cfg = 'if [ "$grub_platform" = "efi" ]; then\nfwsetup --is-supported\nif [ "$?" = 0 ]; then\n'
    cfg += "menuentry Firmware { fwsetup; }\nfi\nfi\nmenuentry A { linux /k; }"
    assert [entry.id for entry in grub(tree(cfg, "/k")).entries] == ["A"]
    variable = "/sys/firmware/efi/efivars/OsIndicationsSupported-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    root = tree(None, files={variable: "\x06\0\0\0\x01" + "\0" * 7})
    assert [entry.id for entry in grub(root).entries] == ["Firmware", "A"]
    assert [entry.id for entry in grub(tree(None, files={variable: "\x06\0\0\0" + "\0" * 8})).entries] == ["A"]
