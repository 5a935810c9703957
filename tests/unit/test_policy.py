# SPDX-License-Identifier: MIT
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexecd.config import hook_rows, policy
from kexecd.config.checks import Answer, CheckId, CheckRule
from kexecd.config.hook_rows import HookRow
from kexecd.config.policy import (
    PATH,
    ROWS,
    Choosing,
    OnDirty,
    Policy,
    Updates,
    default_file,
    parse,
    read_policy,
    untrusted,
)
from kexecd.errors import BadConfig, Refusal


def mistakes(text: str) -> list[str]:
    with pytest.raises(BadConfig) as refusal:
        parse(text, "f")
    return refusal.value.why.split("; f:")


def test_a_missing_file_is_the_default_policy(tmp_path: Path) -> None:
    assert read_policy(str(tmp_path)) == Policy()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "grace:\n", "{}"])
def test_a_file_that_sets_nothing_is_the_default_policy(text: str) -> None:
    assert parse(text) == Policy()


def test_settings_are_read_with_where_they_stand() -> None:
    graces = "grace:\n  guests: 60\n  sessions: 3\n  services: 7.5\n  processes: 0\n"
    found = parse(f"within: 20\n{graces}on-dirty: kexec\nannounce: false\n", "f")
    assert found == Policy(
        within=20.0,
        grace_guests=60.0,
        grace_sessions=3.0,
        grace_services=7.5,
        grace_processes=0.0,
        on_dirty=OnDirty.KEXEC,
        announce=False,
        origins=(
            ("within", "f:1"),
            ("grace_guests", "f:3"),
            ("grace_sessions", "f:4"),
            ("grace_services", "f:5"),
            ("grace_processes", "f:6"),
            ("on_dirty", "f:7"),
            ("announce", "f:8"),
        ),
    )
    assert found.origin("within") == "f:1"
    assert Policy().origin("within") == "default"


def test_every_mistake_is_told_at_once() -> None:
    assert mistakes("witin: 3\ngrace:\n  services: fast\n  sevices: 1\nannounce: maybe\nwithin: 3\nwithin: 4\n") == [
        "f:1:1: there is no setting witin; did you mean within?",
        "3:13: grace.services has to be a number of seconds, 0 to 86400, not 'fast'",
        "4:3: there is no setting grace.sevices; did you mean grace.services?",
        "5:11: announce has to be true or false, not 'maybe'",
        "7:1: within was already set in line 6",
    ]


@pytest.mark.parametrize("value", ["1:30", "017", "0x10", "0b11", "1_0", ".5", "5.", ".inf", ".nan", "1e3", "+5", "-5"])
def test_a_number_that_yaml_reads_otherwise_than_a_person_is_refused(value: str) -> None:
    assert "within has to be a number of seconds" in mistakes(f"within: {value}")[0]


@pytest.mark.parametrize("value", ["'5'", "", "~", "[5]", "{a: 5}", "2000-01-01", "0", "86401", "9" * 400])
def test_what_is_no_number_in_the_range_is_refused(value: str) -> None:
    assert "within has to be a number of seconds, 1 to 86400" in mistakes(f"within: {value}")[0]


@pytest.mark.parametrize("value", ["yes", "no", "on", "off", "1", "'true'", ""])
def test_only_true_and_false_are_true_and_false(value: str) -> None:
    assert "announce has to be true or false" in mistakes(f"announce: {value}")[0]


@pytest.mark.parametrize("value", ["no", "Kexec", "reboot", "[kexec]"])
def test_a_choice_is_one_of_its_words(value: str) -> None:
    assert "on-dirty has to be one of firmware, kexec" in mistakes(f"on-dirty: {value}")[0]


@pytest.mark.parametrize("value", list(Choosing))
def test_what_comes_first_can_be_chosen(value: Choosing) -> None:
    assert Policy().choice is Choosing.BOOT_LOADER
    assert parse(f"choice: {value}").choice is value


@pytest.mark.parametrize("value", ["oldest", "Newest", "boot_loader", "true", "[newest]"])
def test_what_comes_first_is_one_of_two(value: str) -> None:
    assert "choice has to be one of boot-loader, newest" in mistakes(f"choice: {value}")[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("within: &a 5", "an anchor"),
        ("within: *a", "an alias"),
        ("within: !!int 5", "a tag"),
        ("within: !x 5", "a tag"),
        ("!!map {within: 5}", "a tag"),
        ("%YAML 1.1\n---\nwithin: 5", "a directive"),
        ("<<: {within: 5}", "a key has to be a plain word"),
        ("[a]: 5", "a key has to be a plain word"),
        ("- within", "the file has to be made of `key: value` lines"),
        ("within", "the file has to be made of `key: value` lines"),
        ("grace: 5", "grace has to be made of `key: value` lines"),
        ("grace.services: 5", "grace.services is written as `services:` in a line below `grace:`"),
        ("within: 5\n---\nwithin: 6", "this is not YAML"),
        ("within: [", "this is not YAML"),
        ("within: '", "this is not YAML"),
        ("\twithin: 5", "this is not YAML"),
        ("within: 5\0", "a character that no text has"),
        ("[" * 5000, "nested too deeply"),
        ("no: 5", "there is no setting no"),
        ("on: 5", "there is no setting on"),
    ],
)
def test_what_is_no_part_of_the_subset_is_refused(text: str, found: str) -> None:
    assert found in mistakes(text)[0]


@pytest.mark.parametrize("uid", [1, 1000])
def test_a_file_of_somebody_else_is_not_trusted(uid: int) -> None:
    assert untrusted(uid, 0o100644) == f"it belongs to user {uid}, not to root"


@pytest.mark.parametrize("mode", [0o100664, 0o100646, 0o100666])
def test_a_file_that_others_may_write_is_not_trusted(mode: int) -> None:
    assert "others than root may write to it" in untrusted(0, mode)


@pytest.mark.parametrize("mode", [0o100644, 0o100600, 0o040755])
def test_a_file_that_only_root_may_write_is_trusted(mode: int) -> None:
    assert untrusted(0, mode) == ""


@pytest.mark.parametrize(
    ("path", "uid", "mode"), [("d/f", 0, 0o666), ("d/f", 1, 0o644), ("d", 0, 0o777), ("d", 1, 0o755)]
)
def test_on_this_machine_file_and_directory_have_to_be_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, uid: int, mode: int
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("within: 5")
    monkeypatch.setattr(policy, "PATH", str(tmp_path / "d/f"))
    assert read_policy().within == 5
    os.chown(tmp_path / path, uid, -1)
    os.chmod(tmp_path / path, mode)
    with pytest.raises(BadConfig, match="cannot trust"):
        read_policy()


@pytest.mark.parametrize("kind", ["fifo", "directory", "large", "loop"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / PATH.lstrip("/")
    path.parent.mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.write_text("#" * (65 << 10))
    with pytest.raises(BadConfig, match="cannot read"):
        read_policy(str(tmp_path))


def test_the_default_file_sets_nothing() -> None:
    assert parse(default_file()) == Policy()


def test_the_default_file_shows_the_defaults() -> None:
    lines = default_file().splitlines()
    # Prose has "# " in front of it, a setting has "#", and in a section "#  ".
    commented = [line[1:] for line in lines if line[1:2] != " " or (line[2:3] == " " and line[3:4] != "#")]
    found = parse("\n".join(commented))
    assert {name for name, _ in found.origins} == {row.dest for row in ROWS}
    assert found == Policy(origins=found.origins, hooks=found.hooks, checks=found.checks)
    # A check has no default here, and neither has a hook: both stand for an example.
    assert found.checks
    (hook,) = found.hooks
    assert hook == HookRow(name=hook.name, command=hook.command, origin=hook.origin)


def test_a_check_is_answered_by_its_name() -> None:
    found = parse("checks:\n  raid: refuse\n  sessions: ignore\n", "f")
    assert found.checks == (
        CheckRule(CheckId.RAID, Answer.REFUSE, "f:2"),
        CheckRule(CheckId.SESSIONS, Answer.IGNORE, "f:3"),
    )
    assert parse("checks:\n") == Policy()


def test_what_a_new_kernel_has_to_show_is_lists_of_texts() -> None:
    found = parse(
        """
confirm:
  limit: 120
  panic: 0
  commands: ["/usr/bin/test -e '/run/my app'", /bin/true]
  units: [nginx, getty@tty1.service]
  reach: ["192.0.2.1:22", "[2001:db8::1]:443", "gateway.example:80"]
  watchdog: false
firmware:
  after: 50
  updates: refuse
"""
    )
    assert (found.confirm_limit, found.confirm_panic, found.confirm_watchdog) == (120, 0, False)
    assert found.confirm_commands == ("/usr/bin/test -e '/run/my app'", "/bin/true")
    assert found.confirm_units == ("nginx", "getty@tty1.service")
    assert found.confirm_reach == ("192.0.2.1:22", "[2001:db8::1]:443", "gateway.example:80")
    assert (found.firmware_after, found.firmware_updates) == (50, Updates.REFUSE)


@pytest.mark.parametrize(
    "line",
    [
        "commands: [true]",
        "commands: [relative/path]",
        """commands: ["/bin/sh -c 'never closed"]""",
        "commands: [[/bin/sh, -c]]",
        "commands: ['']",
        "commands: /bin/true",
        "units: ['a b']",
        "units: ['-x']",
        "units: ['']",
        "reach: [192.0.2.1]",
        "reach: ['host:0']",
        "reach: ['host:port']",
        "reach: ['2001:db8::1:443']",
        "reach: [12:30]",
        "limit: 86401",
        "panic: 0.5",
    ],
)
def test_what_nobody_could_check_is_refused_when_it_is_read(line: str) -> None:
    with pytest.raises(BadConfig, match=f"confirm.{line.partition(':')[0]} has to be"):
        parse(f"confirm:\n  {line}\n")


def test_a_list_may_be_empty() -> None:
    assert parse("confirm:\n  commands: []\n  units: []\n  reach: []\n").confirm_units == ()


def test_an_answer_that_no_check_takes_is_told() -> None:
    assert mistakes("checks:\n  rayd: warn\n  zfs: note\n  clock: [warn]\n  raid: warn\n  raid: warn\n") == [
        "f:2:3: there is no setting checks.rayd; did you mean checks.raid?",
        "3:8: checks.zfs has to be one of ignore, warn, refuse, not 'note'",
        "4:10: checks.clock has to be one of ignore, warn, refuse, not this list",
        "6:3: checks.raid was already set in line 5",
    ]
    assert mistakes("checks: [raid]\n") == ["f:1:9: checks has to be made of `key: value` lines"]


def test_the_default_file_shows_every_key_of_a_hook() -> None:
    shown = {line.lstrip("# -").partition(":")[0] for line in default_file().partition("#hooks:")[2].splitlines()}
    assert {row.key.removeprefix("hooks.") for row in hook_rows.ROWS} <= shown


def test_the_default_file_is_the_one_that_is_installed() -> None:
    installed = Path(__file__).parents[2] / "config" / "kexecd.yaml"
    assert installed.read_text() == default_file()


YAML = st.lists(
    st.sampled_from(
        ["within", "grace", "services", ": ", "\n", "  ", "- ", "5", "&a", "*a", "!", "{", "}", "[", "]", "'", ", "]
        + ["hooks:\n- ", "name: a", "command: [/a", "priority: ", "calls: [", "freeze"]
    )
).map("".join)


@given(st.one_of(YAML, st.text(), st.binary().map(lambda data: data.decode(errors="surrogateescape"))))
def test_any_text_is_a_policy_or_a_refusal(text: str) -> None:
    try:
        parse(text)
    except Refusal:
        return
