# SPDX-License-Identifier: MIT
"""Which hooks there are, in which order, and which are refused: trees below a root of their own."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from kexecd.cli.hooks import hooks as hooks_command
from kexecd.config import policy
from kexecd.config.hook_rows import HookCall, HookRow, OnFailure
from kexecd.config.hooks import DIRECTORY, LEFTOVERS, Hook, find_hooks, priority_of, read_hooks
from kexecd.config.policy import parse
from kexecd.errors import BadConfig, ExitCode

SCRIPT = "#!/bin/sh\nexit 0\n"


class Tree:
    """A root with hooks in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / DIRECTORY.lstrip("/")
        self.directory.mkdir(parents=True)

    def hook(self, name: str, *, mode: int = 0o755) -> Path:
        return self.program(f"{DIRECTORY}/{name}", mode=mode)

    def program(self, path: str, *, mode: int = 0o755) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SCRIPT, encoding="utf-8")
        file.chmod(mode)
        return file

    def yaml(self, text: str) -> None:
        (self.root / policy.PATH.lstrip("/")).write_text(text, encoding="utf-8")

    def read(self) -> tuple[Hook, ...]:
        return read_hooks(str(self.root))

    def refused(self) -> BadConfig:
        with pytest.raises(BadConfig) as refusal:
            self.read()
        assert refusal.value.exit_code is ExitCode.BAD_CONFIG
        return refusal.value


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tmp_path.chmod(0o755)
    return Tree(tmp_path)


def rows(text: str) -> tuple[HookRow, ...]:
    return parse(text, "f").hooks


def mistakes(text: str) -> list[str]:
    with pytest.raises(BadConfig) as refusal:
        parse(text, "f")
    return refusal.value.why.split("; f:")


# kexecd.yaml


def test_a_row_is_read_with_where_it_stands() -> None:
    text = """
within: 20
hooks:
  - name: backup
    command: [/usr/local/sbin/backup, --last, a b]
    priority: 500
    timeout: 2.5
    on-failure: warn
    calls: [prepare, cancel]
  - name: database
    command:
      - /bin/true
    priority: LAST
"""
    assert rows(text) == (
        HookRow(
            name="backup",
            origin="f:4",
            command=("/usr/local/sbin/backup", "--last", "a b"),
            priority=500,
            timeout=2.5,
            on_failure=OnFailure.WARN,
            calls=frozenset((HookCall.PREPARE, HookCall.CANCEL)),
        ),
        HookRow(name="database", origin="f:10", command=("/bin/true",), priority=20000),
    )


@pytest.mark.parametrize("text", ["hooks:\n", "hooks: []\n", "hooks: ~\n"])
def test_a_list_without_a_row_is_no_hook(text: str) -> None:
    assert rows(text) == ()


@pytest.mark.parametrize(("written", "number"), [("FIRST", 0), ("DEFAULT", 10000), ("LAST", 20000), ("19999", 19999)])
def test_a_priority_is_a_word_or_a_number(written: str, number: int) -> None:
    assert rows(f"hooks: [{{name: a, command: [/a], priority: {written}}}]")[0].priority == number


def test_a_word_of_a_command_is_what_is_written_whatever_yaml_makes_of_it() -> None:
    (hook,) = rows("hooks: [{name: a, command: [/bin/sleep, 017, 1:30, no, 1e3, '', 0x10, 2000-01-01, '~']}]")
    assert hook.command == ("/bin/sleep", "017", "1:30", "no", "1e3", "", "0x10", "2000-01-01", "~")


def test_every_mistake_is_told_at_once_with_its_place() -> None:
    text = """witin: 3
hooks:
  - name: a b
    comand: [/bin/true]
    timeout: 0
  - command: /bin/true
    on-failure: maybe
  - name: c
    command: [bin/true]
    calls: [prepare, thaw]
    priority: 20001
"""
    assert mistakes(text) == [
        "f:1:1: there is no setting witin; did you mean within?",
        "3:11: hooks.name has to be a name of letters, digits, `_`, `.` and `-`, not 'a b'",
        "4:5: there is no setting hooks.comand; did you mean hooks.command?",
        "5:14: hooks.timeout has to be a number of seconds, 1 to 86400, not '0'",
        "6:14: hooks.command has to be a list of words, the first of them an absolute path, not '/bin/true'",
        "7:17: hooks.on-failure has to be one of veto, warn, not 'maybe'",
        "9:14: hooks.command has to be a list of words, the first of them an absolute path, not this list",
        "10:12: hooks.calls has to be a list of prepare, freeze, cancel, finish, not this list",
        "11:15: hooks.priority has to be FIRST, DEFAULT, LAST or a number, 0 to 20000, not '20001'",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hooks: 5", "hooks has to be a list, each hook with `- ` in front of its first key"),
        ("hooks: {name: a}", "hooks has to be a list"),
        ("hooks: [a]", "hooks has to be made of `key: value` lines"),
        ("hooks: [[{name: a}]]", "hooks has to be made of `key: value` lines"),
        ("hooks: [{command: [/a]}]", "a hook has to have a name"),
        ("hooks: [{name: no, command: [/a]}]", "hooks.name has to be a name"),
        ("hooks: [{name: 5, command: [/a]}]", "hooks.name has to be a name"),
        ("hooks: [{name: -a, command: [/a]}]", "hooks.name has to be a name"),
        ("hooks: [{name: [a], command: [/a]}]", "hooks.name has to be a name"),
        ("hooks: [{name: a, name: b}]", "hooks.name was already set in line 1"),
        ("hooks: [{name: a, command: [/a]}, {name: a, command: [/b]}]", "there is a hook a already, at f:1"),
        ("hooks: [{name: a}]", "the hook a has no command, and nothing that could be set without"),
        ("hooks: [{name: a, priority: FIRST}]", "hooks.priority needs a command"),
        ("hooks: [{name: a, timeout: 1, calls: [freeze]}]", "hooks.calls needs a command"),
        ("hooks: [{name: a, command: []}]", "hooks.command has to be a list of words"),
        ("hooks: [{name: a, command: ['']}]", "hooks.command has to be a list of words"),
        ("hooks: [{name: a, command: [/a, ]}, {name: b, command: [/a, ~]}]", "hooks.command has to be a list of words"),
        ("hooks: [{name: a, command: [/a, [b]]}]", "hooks.command has to be a list of words"),
        ('hooks: [{name: a, command: [/a, "b\\0"]}]', "hooks.command has to be a list of words"),
        ("hooks: [{name: a, command: {/a: b}}]", "hooks.command has to be a list of words"),
        ("hooks: [{name: a, command: [/a], calls: []}]", "hooks.calls has to be a list of prepare"),
        ("hooks: [{name: a, command: [/a], calls: [freeze, freeze]}]", "hooks.calls has to be a list of prepare"),
        ("hooks: [{name: a, command: [/a], calls: freeze}]", "hooks.calls has to be a list of prepare"),
        ("hooks: [{name: a, command: [/a], priority: first}]", "hooks.priority has to be FIRST"),
        ("hooks: [{name: a, command: [/a], priority: 1.5}]", "hooks.priority has to be FIRST"),
        ("hooks: [{name: a, command: [/a], priority: 010}]", "hooks.priority has to be FIRST"),
        ("hooks: [{name: a, command: [/a], on-failure: no}]", "hooks.on-failure has to be one of veto, warn"),
        ("hooks: [{name: &n a, command: [/a]}]", "an anchor"),
        ("hook: []", "there is no setting hook; did you mean hooks?"),
    ],
)
def test_what_is_no_hook_is_refused(text: str, found: str) -> None:
    assert any(found in mistake for mistake in mistakes(text))


# /etc/kexecd/hooks.d


def test_without_the_directory_there_are_no_hooks(tmp_path: Path) -> None:
    assert read_hooks(str(tmp_path)) == ()


def test_an_executable_gets_every_call_and_its_priority_from_its_name(tree: Tree) -> None:
    for name in ("90-late", "plain", "00-first.sh", "99-last"):
        tree.hook(name)
    found = tree.read()
    assert [(hook.name, hook.priority) for hook in found] == [
        ("first.sh", 0),
        ("plain", 10000),
        ("late", 18163),
        ("last", 20000),
    ]
    assert found[0].command == (f"{DIRECTORY}/00-first.sh",) and found[0].origin == found[0].command[0]
    assert {(hook.timeout, hook.on_failure, hook.calls) for hook in found} == {
        (10.0, OnFailure.VETO, frozenset(HookCall))
    }


def test_the_numbers_of_names_reach_from_first_to_last_over_the_default_evenly() -> None:
    found = [priority_of(number) for number in range(100)]
    assert (found[0], found[50], found[99]) == (0, 10000, 20000)
    steps = [after - before for before, after in zip(found, found[1:], strict=False)]
    assert set(steps[:50]) == {200} and set(steps[50:]) == {204, 205}


def test_rows_and_executables_make_one_order(tree: Tree) -> None:
    tree.hook("20-b")
    tree.program("/opt/a")
    tree.yaml("hooks: [{name: c, command: [/opt/a], priority: 4000}, {name: a, command: [/opt/a], priority: 4000}]")
    assert [hook.name for hook in tree.read()] == ["a", "b", "c"]


def test_a_row_without_a_command_sets_what_an_executables_name_cannot(tree: Tree) -> None:
    tree.hook("20-backup")
    tree.yaml("hooks: [{name: backup, timeout: 300, on-failure: warn}]")
    (hook,) = tree.read()
    assert (hook.timeout, hook.on_failure, hook.priority) == (300, OnFailure.WARN, 4000)
    assert hook.origin == f"{DIRECTORY}/20-backup" and hook.calls == frozenset(HookCall)


def test_a_row_without_a_command_for_which_there_is_no_executable_is_a_mistake(tree: Tree) -> None:
    tree.yaml("hooks:\n- name: backup\n  timeout: 300")
    assert "kexecd.yaml:2: backup has no command, and no executable in /etc/kexecd/hooks.d" in tree.refused().why


@pytest.mark.parametrize("other", ["90-backup", "backup"])
def test_two_hooks_of_one_name_are_a_mistake(tree: Tree, other: str) -> None:
    tree.hook("10-backup")
    tree.hook(other)
    assert "are two hooks of the name backup" in tree.refused().why


def test_a_row_and_an_executable_of_one_name_are_a_mistake(tree: Tree) -> None:
    tree.hook("10-backup")
    tree.program("/opt/a")
    tree.yaml("hooks: [{name: backup, command: [/opt/a]}]")
    assert "10-backup and /etc/kexecd/kexecd.yaml:1 are two hooks of the name backup" in tree.refused().why


@pytest.mark.parametrize("ending", LEFTOVERS)
def test_what_packages_and_editors_leave_is_passed_over_with_a_remark(tree: Tree, ending: str) -> None:
    tree.hook(f"50-backup{ending}")
    found = find_hooks(str(tree.root))
    assert found.hooks == ()
    assert "50-backup" in found.remarks[0] and "left by a package manager or an editor" in found.remarks[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (".50-backup.swx", "it is hidden"),
        ("50-a b", "its name is not made of"),
        ("50-\x1b[2J", "its name is not made of"),
        ("50-a\nb", "its name is not made of"),
        ("a" * 65, "its name is not made of"),
        ("50--rf", "its name is not made of"),
    ],
)
def test_a_name_that_is_no_hooks_is_passed_over_with_a_remark(tree: Tree, name: str, why: str) -> None:
    tree.hook(name)
    found = find_hooks(str(tree.root))
    assert found.hooks == () and why in found.remarks[0]


def test_what_is_not_executable_is_passed_over_with_a_remark(tree: Tree) -> None:
    tree.hook("README", mode=0o644)
    tree.hook("50-backup")
    found = find_hooks(str(tree.root))
    assert [hook.name for hook in found.hooks] == ["backup"]
    assert found.remarks == ("/etc/kexecd/hooks.d/README is passed over: it is not executable",)


def test_a_number_of_other_than_two_digits_is_remarked(tree: Tree) -> None:
    tree.hook("050-backup")
    found = find_hooks(str(tree.root))
    assert found.hooks[0].priority == 10000 and "does not begin with two digits" in found.remarks[0]


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket", "directory"])
@pytest.mark.parametrize("way", ["itself", "link", "row"])
def test_what_is_no_file_is_refused_and_not_opened(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, kind: str, way: str
) -> None:
    path = tree.directory / "50-it" if way == "itself" else tree.root / "it"
    make(path, kind)
    if way == "link":
        (tree.directory / "50-it").symlink_to("/it")
    if way == "row":
        tree.yaml("hooks: [{name: it, command: [/it]}]")
    opened, really = list[str](), os.open

    def watched(path: str, flags: int, mode: int = 0o777) -> int:
        opened.append(path)
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", watched)
    assert f"is a {kind} and no program" in tree.refused().why
    assert not [one for one in opened if one.endswith("it")]


def make(path: Path, kind: str) -> None:
    if kind == "FIFO":
        os.mkfifo(path, 0o755)
    elif kind == "device":
        os.mknod(path, 0o755 | stat.S_IFCHR, os.makedev(1, 3))
    elif kind == "directory":
        path.mkdir()
    else:
        place = os.getcwd()
        os.chdir(path.parent)  # a socket's address is short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(place)
        path.chmod(0o755)


@pytest.mark.parametrize("leads", ["/nowhere", "/etc/kexecd/hooks.d/50-it"])
def test_a_link_that_leads_to_nothing_is_refused(tree: Tree, leads: str) -> None:
    (tree.directory / "50-it").symlink_to(leads)
    assert "/etc/kexecd/hooks.d/50-it cannot be used: " in tree.refused().why


@pytest.mark.parametrize(("mode", "why"), [(0o644, "is not executable"), (None, "no such file or directory")])
def test_a_command_that_is_no_program_is_refused_with_its_row(tree: Tree, mode: int | None, why: str) -> None:
    if mode:
        tree.program("/opt/backup", mode=mode)
    tree.yaml("hooks: [{name: a, command: [/opt/backup]}]")
    said = tree.refused().why
    assert said.startswith("/etc/kexecd/kexecd.yaml:1: /opt/backup ") and why in said


def test_a_hooks_d_that_is_no_directory_is_refused(tree: Tree) -> None:
    tree.directory.rmdir()
    tree.directory.write_text("", encoding="utf-8")
    assert "hooks.d is not a directory" in tree.refused().why


# Trust


BROKEN = [(0, 0o775), (0, 0o757), (0, 0o1777), (1000, 0o755)]


def breach(file: Path, uid: int, mode: int) -> str:
    """Give a file away; returns what a refusal has to say about it."""
    os.chown(file, uid, -1)
    file.chmod(mode)
    return f"it belongs to user {uid}, not to root" if uid else f"others than root may write to it (mode {mode:04o})"


@pytest.mark.parametrize("path", ["etc", "etc/kexecd", "etc/kexecd/hooks.d", "etc/kexecd/hooks.d/50-backup"])
@pytest.mark.parametrize(("uid", "mode"), BROKEN)
def test_whatever_others_than_root_could_change_is_refused_and_the_hint_mends_it(
    tree: Tree, path: str, uid: int, mode: int
) -> None:
    tree.hook("50-backup")
    why = breach(tree.root / path, uid, mode)
    refusal = tree.refused()
    assert refusal.why == f"/{path} cannot be trusted: {why}"
    subprocess.run(["/bin/sh", "-c", refusal.hint], check=True)
    assert [hook.name for hook in tree.read()] == ["backup"]


@pytest.mark.parametrize("path", ["opt", "opt/backup", "opt/backup/run"])
@pytest.mark.parametrize(("uid", "mode"), BROKEN)
def test_a_rows_command_is_judged_as_an_executable_is(tree: Tree, path: str, uid: int, mode: int) -> None:
    tree.program("/opt/backup/run")
    tree.yaml("hooks: [{name: a, command: [/opt/backup/run]}]")
    why = breach(tree.root / path, uid, mode)
    assert tree.refused().why == f"/{path} cannot be trusted: {why}"


@pytest.mark.parametrize("path", ["srv", "srv/here", "srv/hook"])
@pytest.mark.parametrize(("uid", "mode"), BROKEN)
def test_behind_a_link_everything_that_it_leads_over_is_judged(tree: Tree, path: str, uid: int, mode: int) -> None:
    tree.program("/srv/hook")
    (tree.root / "srv/here").mkdir()
    (tree.directory / "50-backup").symlink_to("../../../srv/here/../hook")
    assert [hook.name for hook in tree.read()] == ["backup"]
    why = breach(tree.root / path, uid, mode)
    assert tree.refused().why == f"/{path} cannot be trusted: {why}"


def test_a_link_of_somebody_else_is_refused_and_the_hint_mends_it(tree: Tree) -> None:
    tree.program("/srv/hook")
    link = tree.directory / "50-backup"
    link.symlink_to("/srv/hook")
    os.lchown(link, 1000, -1)
    refusal = tree.refused()
    assert refusal.why == f"{DIRECTORY}/50-backup cannot be trusted: it belongs to user 1000, not to root"
    subprocess.run(["/bin/sh", "-c", refusal.hint], check=True)
    assert [hook.name for hook in tree.read()] == ["backup"]


def test_everything_that_cannot_be_trusted_is_told_at_once_and_each_once(tree: Tree) -> None:
    for name in ("10-a", "20-b"):
        breach(tree.hook(name), 1000, 0o755)
    breach(tree.directory, 0, 0o777)
    refusal = tree.refused()
    assert refusal.why.count("cannot be trusted") == 3 and refusal.hint.count("chown") == 3
    subprocess.run(["/bin/sh", "-c", refusal.hint], check=True)
    assert [hook.name for hook in tree.read()] == ["a", "b"]


def test_of_a_path_with_odd_characters_the_hint_is_still_one_command(tree: Tree) -> None:
    breach(tree.program("/opt/a b;c/run").parent, 0, 0o777)
    tree.yaml("hooks: [{name: a, command: ['/opt/a b;c/run']}]")
    subprocess.run(["/bin/sh", "-c", tree.refused().hint], check=True)
    assert [hook.name for hook in tree.read()] == ["a"]


def test_an_untrusted_file_that_is_never_run_is_nobodys_business(tree: Tree) -> None:
    breach(tree.hook("README"), 1000, 0o666)
    assert tree.read() == ()


def test_whoever_a_captured_tree_belongs_to_counts_as_its_root(tree: Tree) -> None:
    tree.hook("50-backup")
    for path in (tree.root, *tree.root.rglob("*")):
        os.chown(path, 1000, -1)
    assert [hook.name for hook in tree.read()] == ["backup"]
    os.chown(tree.directory, 1001, -1)
    assert "it belongs to user 1001" in tree.refused().why


# kexecctl hooks


def test_the_command_lists_them_in_order_with_what_was_passed_over(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.hook("90-late")
    tree.hook("README", mode=0o644)
    tree.program("/opt/backup")
    tree.yaml("hooks: [{name: backup, command: [/opt/backup, -v], calls: [cancel, prepare], on-failure: warn}]")
    assert hooks_command(Namespace(root=str(tree.root), json=False)) is ExitCode.OK
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed[:2]] == [
        "10000 backup prepare,cancel 10 s warn /opt/backup -v (/etc/kexecd/kexecd.yaml:1)".split(),
        "18163 late prepare,freeze,cancel,finish 10 s veto /etc/kexecd/hooks.d/90-late".split(),
    ]
    assert printed[2:] == ["note: /etc/kexecd/hooks.d/README is passed over: it is not executable"]


def test_the_command_has_a_documented_form_as_json(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.hook("50-backup")
    hooks_command(Namespace(root=str(tree.root), json=True))
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "hooks": [
            {
                "name": "backup",
                "priority": 10000,
                "calls": ["prepare", "freeze", "cancel", "finish"],
                "timeout": 10.0,
                "on_failure": "veto",
                "command": [f"{DIRECTORY}/50-backup"],
                "origin": f"{DIRECTORY}/50-backup",
            }
        ],
        "remarks": [],
    }
