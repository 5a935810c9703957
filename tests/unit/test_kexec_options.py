# SPDX-License-Identifier: MIT
"""KEXEC_OPT_ARGS, option by option."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.config.kexec_options import NAMES, OPTIONS, Does, KexecOptions, Method, parse, with_running
from kexecd.errors import BadConfig


def refused(value: str) -> BadConfig:
    with pytest.raises(BadConfig) as caught:
        parse(value, "/etc/conf.d/kexec:7")
    assert caught.value.what == "cannot take /etc/conf.d/kexec:7"
    return caught.value


@pytest.mark.parametrize("value", ["", "  ", "\t\n"])
def test_nothing_is_the_default(value: str) -> None:
    assert parse(value) == KexecOptions()


@pytest.mark.parametrize(
    ("value", "method"),
    [
        ("-s", Method.FILE),
        ("--kexec-file-syscall", Method.FILE),
        ("-c", Method.TOOLS),
        ("--kexec-syscall", Method.TOOLS),
        ("-a", Method.AUTO),
        ("--kexec-syscall-auto", Method.AUTO),
        ("-s -c", Method.TOOLS),
        ("-cs", Method.FILE),
    ],
)
def test_the_last_word_on_the_method_counts(value: str, method: Method) -> None:
    assert parse(value) == KexecOptions(method=method)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("--reuse-cmdline", KexecOptions(reuse_cmdline=True)),
        ("--append=quiet", KexecOptions(append="quiet")),
        ("--append quiet", KexecOptions(append="quiet")),
        ("--append=a --command-line=b=c", KexecOptions(append="b=c")),
        ("--append=", KexecOptions(append="")),
        ("--initrd=/i", KexecOptions(initrd="/i")),
        ("--ramdisk boot/i", KexecOptions(initrd="/boot/i")),
        ("-l", KexecOptions()),
        ("-ld", KexecOptions(passed=("-d",))),
    ],
)
def test_what_says_which_image_is_ours(value: str, expected: KexecOptions) -> None:
    assert parse(value) == expected


@pytest.mark.parametrize("value", ["--dtb=/b.dtb", "--devicetreeblob /b.dtb", "-a --dtb=/b.dtb"])
def test_a_device_tree_is_for_kexec_tools(value: str) -> None:
    found = parse(value)
    assert (found.devicetree, found.method, found.passed) == ("/b.dtb", Method.TOOLS, ())
    assert found.for_tools == ("--dtb=/b.dtb",)


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        ("-d", ("-d",)),
        ("-di", ("-d", "-i")),
        ("-t bzImage", ("-t", "bzImage")),
        ("-tbzImage", ("-t", "bzImage")),
        ("-dtbzImage64", ("-d", "-t", "bzImage64")),
        ("--type=bzImage", ("--type=bzImage",)),
        ("--type bzImage", ("--type=bzImage",)),
        ("--mem-max 0x1000 --no-checks", ("--mem-max=0x1000", "--no-checks")),
        ("--console-serial --serial-baud=9600", ("--console-serial", "--serial-baud=9600")),
    ],
)
def test_what_only_kexec_tools_knows_is_kept_for_it(value: str, passed: tuple[str, ...]) -> None:
    assert parse(value) == KexecOptions(passed=passed)


@pytest.mark.parametrize("name", [name for name, option in NAMES.items() if option.does is Does.REFUSED])
def test_what_would_not_load_is_refused(name: str) -> None:
    assert refused(f"-d {name} x").why.startswith(f"in KEXEC_OPT_ARGS, `{name}` ")
    assert refused(name if NAMES[name].takes_value is False else f"{name}=1").hint == "remove it from KEXEC_OPT_ARGS"


def test_what_is_dangerous_is_found_among_short_options_that_are_written_together() -> None:
    assert "`-e` jumps at once, without any shutdown" in refused("-de").why


@pytest.mark.parametrize("name", ["-x", "--no-ifdown", "-y", "--no-sync", "--hotplug"])
def test_what_changes_nothing_is_said(name: str) -> None:
    (warning,) = parse(name, "f:1").warnings
    assert warning.startswith(f"f:1: {name} changes nothing here: ")


def test_what_is_not_known_is_passed_on_and_said() -> None:
    found = parse("--brand-new=1 -Z", "f:1")
    assert found.passed == ("--brand-new=1", "-Z")
    assert found.warnings[0] == ("f:1: --brand-new is not known here; kexec-tools gets it as it is, where it is used")


@pytest.mark.parametrize(
    ("short", "full"), [("--reuse-c", "--reuse-cmdline"), ("--unl", "--unload"), ("--deb", "--debug")]
)
def test_a_long_option_may_be_shortened(short: str, full: str) -> None:
    if NAMES[full].does is Does.REFUSED:
        assert f"`{full}`" in refused(short).why
    else:
        assert parse(short) == parse(full)


def test_a_shortened_option_that_may_be_two_is_refused() -> None:
    assert "`--no` may be --no-checks or --no-cma or " in refused("--no").why
    assert refused("--kexec").hint == "write the whole name"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('--append="ro quiet"', '`quiet"` is no option, and kexec would take it for the kernel'),
        ("/boot/bzImage", "`/boot/bzImage` is no option"),
        ("-", "`-` is no option"),
        ("--", "`--` is no option"),
        ("--append", "`--append` has no value"),
        ("-t", "`-t` has no value"),
        ("--debug=1", "`--debug` takes no value"),
        ("--initrd=", "`--initrd` has an empty value"),
        ("-s --dtb=/b", "`--dtb` is not for kexec_file_load(2)"),
    ],
)
def test_what_makes_no_sense_is_refused(value: str, why: str) -> None:
    assert why in refused(value).why
    assert refused(value).hint


def test_each_name_is_in_one_row() -> None:
    assert len(NAMES) == sum(len(option.names) for option in OPTIONS)
    for option in OPTIONS:
        assert bool(option.why) is (option.does in (Does.REFUSED, Does.IDLE))


def test_what_the_running_command_line_has_is_not_added_again(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text('BOOT_IMAGE=/k root=/dev/vda1 dyndbg="file a.c +p" quiet\n')
    found = with_running('quiet dyndbg="file a.c +p" panic=5', str(tmp_path))
    assert found == 'root=/dev/vda1 dyndbg="file a.c +p" quiet panic=5'
    with pytest.raises(BadConfig, match="a double quote is never closed"):
        with_running('"ro', str(tmp_path))


WORDS = st.lists(st.one_of(st.sampled_from([*NAMES, "=", "--", "-", "/x", "--no", "-dtx"]), st.text(max_size=6)))


@given(WORDS.map(" ".join))
def test_any_value_is_options_or_a_refusal(value: str) -> None:
    try:
        found = parse(value)
    except BadConfig:
        return
    assert "-e" not in found.for_tools
    assert not {name for name in found.for_tools if (known := NAMES.get(name)) and known.does is Does.REFUSED}
