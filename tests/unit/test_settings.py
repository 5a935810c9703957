# SPDX-License-Identifier: MIT
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kexecd.config.kexec_options import KexecOptions, Method
from kexecd.config.settings import ROWS, Settings, read_settings
from kexecd.errors import BadConfig, Refusal

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(path: str, text: str) -> None:
        place = tmp_path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    return write


def test_without_files_everything_is_default(tmp_path: Path) -> None:
    assert read_settings(str(tmp_path)) == Settings()


def test_each_row_is_a_field() -> None:
    assert {row.dest for row in ROWS} <= {field.name for field in fields(Settings)}


def test_gentoos_variables_are_read_with_where_they_stand(tmp_path: Path, write: Write) -> None:
    write(
        "/etc/conf.d/kexec",
        '# comment\nKNAME="kernel-6.6.30-gentoo"\nINITRD=/efi/initramfs.img\nKPARAM="ro quiet"\nROOTPART=/dev/vda2\n'
        'KEXEC_OPT_ARGS="--no-checks  -d"\nLOAD_DURING_SHUTDOWN=no\nDONT_MOUNT_BOOT=yes\nBOOTPART=/efi/\n',
    )
    found = read_settings(str(tmp_path))
    assert found.kernel == "/efi/kernel-6.6.30-gentoo"
    assert found.initrd == "/efi/initramfs.img"
    assert found.cmdline == "ro quiet"
    assert found.root == "/dev/vda2"
    assert found.boot_dir == "/efi"
    assert found.kexec_options == KexecOptions(passed=("--no-checks", "-d"))
    assert not found.load_during_shutdown
    assert not found.mount_boot
    assert found.origin("kernel") == "/etc/conf.d/kexec:2"
    assert found.origin("load_kexec") == "default"
    assert not found.warnings


@pytest.mark.parametrize(
    ("value", "expected"),
    [("bzImage", "/boot/bzImage"), ("/k", "/k"), ("sub/k", "/sub/k"), ("./k", "/./k")],
)
def test_only_a_bare_kernel_name_lies_below_bootpart(tmp_path: Path, write: Write, value: str, expected: str) -> None:
    write("/etc/conf.d/kexec", f"KNAME={value}\nINITRD={value}")
    found = read_settings(str(tmp_path))
    assert (found.kernel, found.initrd) == (expected, expected)


def test_an_empty_value_is_not_set_in_gentoos_files(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", 'KNAME=x\nKNAME=""\nINITRD=\nKPARAM=\nLOAD_DURING_SHUTDOWN=')
    assert read_settings(str(tmp_path)) == Settings()


def test_a_minus_disables_kexec(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", 'KNAME="-"')
    found = read_settings(str(tmp_path))
    assert found.disabled
    assert found.kernel is None
    assert found.origin("kernel") == "/etc/conf.d/kexec:1"


@pytest.mark.parametrize("value", ["YES", "true", "1", "on", "Yes"])
def test_what_is_not_the_literal_yes_is_no_and_warned_about(tmp_path: Path, write: Write, value: str) -> None:
    write("/etc/conf.d/kexec", f"LOAD_DURING_SHUTDOWN={value}")
    found = read_settings(str(tmp_path))
    assert not found.load_during_shutdown
    assert [warning.partition(", ")[0] for warning in found.warnings] == [
        f'/etc/conf.d/kexec:1: LOAD_DURING_SHUTDOWN="{value}" is not the literal "yes"'
    ]


@pytest.mark.parametrize(
    ("value", "mounts", "warned"), [("no", True, 0), ("NO", False, 1), ("0", False, 1), ("yes", False, 0)]
)
def test_only_the_literal_no_lets_boot_be_mounted(
    tmp_path: Path, write: Write, value: str, mounts: bool, warned: int
) -> None:
    write("/etc/conf.d/kexec", f"DONT_MOUNT_BOOT={value}")
    found = read_settings(str(tmp_path))
    assert found.mount_boot is mounts
    assert len(found.warnings) == warned


def test_a_runlevels_own_file_is_read_instead_of_the_general_one(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", "KNAME=general\nKPARAM=ro")
    write("/etc/conf.d/kexec.battery", "KNAME=own")
    found = read_settings(str(tmp_path), runlevel="battery")
    assert (found.kernel, found.cmdline) == ("/boot/own", None)
    assert read_settings(str(tmp_path), runlevel="default").kernel == "/boot/general"


@pytest.mark.parametrize("runlevel", ["../x", "a\0b"])
def test_a_runlevel_that_is_a_path_is_refused(tmp_path: Path, runlevel: str) -> None:
    with pytest.raises(BadConfig, match="no name of a runlevel"):
        read_settings(str(tmp_path), runlevel=runlevel)


def test_conf_d_comes_before_kexec_conf(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", "KNAME=first\nKPARAM=")
    write("/etc/kexec.conf", "KNAME=second\nKPARAM=ro")
    found = read_settings(str(tmp_path))
    assert (found.kernel, found.cmdline) == ("/boot/first", "ro")
    assert found.origin("cmdline") == "/etc/kexec.conf:2"


def test_one_file_with_two_names_counts_once(tmp_path: Path, write: Write) -> None:
    write("/etc/kexec.conf", "KNAME=mine")
    (tmp_path / "etc/conf.d").mkdir()
    (tmp_path / "etc/conf.d/kexec").symlink_to("../kexec.conf")
    assert read_settings(str(tmp_path)).origin("kernel") == "/etc/conf.d/kexec:1"


def test_debians_variables_are_read(tmp_path: Path, write: Write) -> None:
    write("/etc/default/kexec", 'LOAD_KEXEC=true\nKERNEL_IMAGE="/vmlinuz"\nINITRD="/initrd.img"\nAPPEND="ro"\n')
    found = read_settings(str(tmp_path))
    assert (found.kernel, found.initrd, found.cmdline) == ("/vmlinuz", "/initrd.img", "ro")
    assert found.load_kexec
    assert found.stock_kernel


@pytest.mark.parametrize("text", ["LOAD_KEXEC=false", "LOAD_KEXEC=", "APPEND=", "LOAD_KEXEC=yes"])
def test_without_the_literal_true_debian_loads_nothing(tmp_path: Path, write: Write, text: str) -> None:
    write("/etc/default/kexec", text)
    found = read_settings(str(tmp_path))
    assert not found.load_kexec
    assert not found.disabled
    assert len(found.warnings) == text.endswith("yes")


def test_an_empty_initrd_of_debian_means_none(tmp_path: Path, write: Write) -> None:
    write("/etc/default/kexec", "KERNEL_IMAGE=/k\nINITRD=")
    assert read_settings(str(tmp_path)).initrd == ""


def test_debians_snippets_are_sourced_in_the_order_of_run_parts(tmp_path: Path, write: Write) -> None:
    write("/etc/default/kexec", "APPEND=a")
    write("/etc/default/kexec.d/b", 'APPEND="$APPEND b"')
    write("/etc/default/kexec.d/B", 'APPEND="$APPEND B"')
    write("/etc/default/kexec.d/10-x", 'APPEND="$APPEND 10"')
    for name in ("c.conf", "c~", ".c", "ü", "c.dpkg-old"):
        write(f"/etc/default/kexec.d/{name}", "reboot")
    (tmp_path / "etc/default/kexec.d/directory").mkdir()
    (tmp_path / "etc/default/kexec.d/dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "etc/default/kexec.d/fifo")
    assert read_settings(str(tmp_path)).cmdline == "a 10 B b"


def test_gentoos_files_come_before_debians(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", "KNAME=gentoo")
    write("/etc/default/kexec", "KERNEL_IMAGE=/debian\nINITRD=/initrd.img\nAPPEND=ro\nLOAD_KEXEC=true")
    found = read_settings(str(tmp_path))
    assert found.kernel == "/boot/gentoo"
    assert found.initrd is None, "an initrd of Debian's would be joined to a kernel of Gentoo's"
    assert found.cmdline == "ro"


def test_grubs_choice_takes_the_place_of_the_named_kernel(tmp_path: Path, write: Write) -> None:
    write("/etc/default/kexec", "KERNEL_IMAGE=/vmlinuz\nINITRD=/initrd.img\nUSE_GRUB_CONFIG=true\nLOAD_KEXEC=true")
    found = read_settings(str(tmp_path))
    assert found.use_grub_config
    assert (found.kernel, found.initrd) == (None, None)
    assert "KERNEL_IMAGE, INITRD and APPEND are not used" in found.warnings[0]


def test_a_root_named_twice_is_warned_about(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", 'KPARAM="root=UUID=1 ro"\nROOTPART=/dev/vda2')
    assert read_settings(str(tmp_path)).warnings == (
        "/etc/conf.d/kexec:2: KPARAM has a root= of its own (/etc/conf.d/kexec:1), so ROOTPART is not used",
    )


def test_options_of_kexec_are_read_with_what_they_mean(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", 'KNAME=k\nKEXEC_OPT_ARGS="-c -d --initrd=/i -x"')
    found = read_settings(str(tmp_path))
    assert (found.kexec_options.method, found.kexec_options.passed) == (Method.TOOLS, ("-d",))
    assert (found.kernel, found.initrd, found.origin("initrd")) == ("/boot/k", "/i", "/etc/conf.d/kexec:2")
    assert found.warnings == ("/etc/conf.d/kexec:2: -x changes nothing here: no interface is taken down by the jump",)


def test_an_option_that_would_not_load_is_refused_with_its_place(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", '\nKEXEC_OPT_ARGS="-d -e"')
    with pytest.raises(BadConfig, match="cannot take /etc/conf.d/kexec:2: in KEXEC_OPT_ARGS, `-e` jumps at once"):
        read_settings(str(tmp_path))


def test_words_of_an_option_are_added_to_the_running_command_line(tmp_path: Path, write: Write) -> None:
    write("/proc/cmdline", "root=/dev/vda1 ro\n")
    write("/etc/conf.d/kexec", "KEXEC_OPT_ARGS=--append=quiet")
    found = read_settings(str(tmp_path))
    assert (found.cmdline, found.origin("cmdline")) == ("root=/dev/vda1 ro quiet", "/etc/conf.d/kexec:1")


def test_ten_kexecs_in_a_row_add_them_once(tmp_path: Path, write: Write) -> None:
    write("/proc/cmdline", "root=/dev/vda1 ro")
    write("/etc/conf.d/kexec", 'KPARAM="quiet ro panic=5"\nKEXEC_OPT_ARGS=--reuse-cmdline')
    for _ in range(10):
        found = read_settings(str(tmp_path)).cmdline
        assert found == "root=/dev/vda1 ro quiet panic=5"
        write("/proc/cmdline", found)


def test_variables_come_before_options_that_say_the_same(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", 'KPARAM="ro"\nINITRD=/i\nKEXEC_OPT_ARGS="--append=quiet --initrd=/other"')
    found = read_settings(str(tmp_path))
    assert (found.cmdline, found.initrd) == ("ro", "/i")
    assert found.warnings == (
        "/etc/conf.d/kexec:3: KPARAM is set (/etc/conf.d/kexec:1), so --append is not used",
        "/etc/conf.d/kexec:3: INITRD is set (/etc/conf.d/kexec:2), so --initrd is not used",
    )


def test_an_initrd_of_gentoos_options_is_not_joined_to_a_kernel_of_debian(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", "KEXEC_OPT_ARGS=--initrd=/i")
    write("/etc/default/kexec", "KERNEL_IMAGE=/k")
    found = read_settings(str(tmp_path))
    assert (found.kernel, found.initrd) == ("/k", None)
    assert found.warnings == (
        "/etc/conf.d/kexec:1: --initrd is not used for the kernel that /etc/default/kexec:1 names",
    )


def test_a_name_with_a_slash_is_said_to_lie_elsewhere_than_it_looks(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", "KNAME=gentoo/bzImage\nINITRD=/boot/initrd")
    assert read_settings(str(tmp_path)).warnings == (
        '/etc/conf.d/kexec:1: KNAME="gentoo/bzImage" has a slash, so it is looked for in / and not in BOOTPART',
    )


def test_no_root_is_guessed_where_none_is_set(tmp_path: Path, write: Write) -> None:
    write("/proc/mounts", "/dev/dm-0 / ext4 rw 0 0\n")
    write("/etc/conf.d/kexec", "KPARAM=ro")
    found = read_settings(str(tmp_path))
    assert (found.root, found.cmdline) == (None, "ro")


def test_a_script_is_refused_with_its_place(tmp_path: Path, write: Write) -> None:
    write("/etc/conf.d/kexec", "KNAME=vmlinuz-$(uname -r)")
    with pytest.raises(BadConfig, match="/etc/conf.d/kexec:1:15: found `\\$\\(`"):
        read_settings(str(tmp_path))


VARIABLES = sorted({name for row in ROWS for name in (row.gentoo, row.debian) if name})
LINES = st.lists(st.tuples(st.sampled_from(VARIABLES), st.sampled_from(["", "yes", "-", "a/b", "true", '"x y"', "/"])))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(gentoo=LINES, debian=LINES, noise=st.binary(max_size=8))
def test_any_file_gives_settings_of_the_right_types(
    tmp_path: Path, write: Write, gentoo: list[tuple[str, str]], debian: list[tuple[str, str]], noise: bytes
) -> None:
    for path, lines in (("/etc/conf.d/kexec", gentoo), ("/etc/default/kexec", debian)):
        write(path, "".join(f"{name}={value}\n" for name, value in lines))
    (tmp_path / "etc/kexec.conf").write_bytes(noise)
    try:
        found = read_settings(str(tmp_path))
    except Refusal:
        return
    for name in ("load_during_shutdown", "mount_boot", "load_kexec", "use_grub_config", "disabled", "stock_kernel"):
        assert isinstance(getattr(found, name), bool), name
    for name in ("kernel", "initrd", "cmdline", "root"):
        assert isinstance(getattr(found, name), str | None), name
    assert found.kernel is None or found.kernel.startswith("/")
    assert isinstance(found.kexec_options, KexecOptions)
    assert found.boot_dir.startswith("/")
