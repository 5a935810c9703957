# SPDX-License-Identifier: MIT
"""kexecctl config: what is in effect, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kexecd.cli.main import main
from kexecd.config import policy, settings
from kexecd.config.policy import read_policy
from kexecd.errors import ExitCode
from tests.unit.boot_tree import BootTree

Output = pytest.CaptureFixture[str]


@pytest.fixture
def tree(tmp_path: Path) -> BootTree:
    return BootTree(tmp_path)


def as_json(tree: BootTree, capsys: Output) -> Any:
    assert main(["config", "--root", tree.root, "--json"]) == ExitCode.OK
    return json.loads(capsys.readouterr().out)


def lines(tree: BootTree, capsys: Output) -> dict[str, list[str]]:
    """Each line as its name, and the columns behind it."""
    assert main(["config", "--root", tree.root]) == ExitCode.OK
    printed = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line.split()[1:] for line in printed}


def test_without_files_everything_is_default(tree: BootTree, capsys: Output) -> None:
    found = as_json(tree, capsys)
    assert found["schema"] == 1
    assert found["warnings"] == []
    assert {one["origin"] for one in found["settings"]} == {"default"}
    assert all(one["default"] for one in found["settings"])


def test_every_setting_of_both_kinds_is_shown(tree: BootTree, capsys: Output) -> None:
    names = [one["name"] for one in as_json(tree, capsys)["settings"]]
    assert names == [*(row.dest for row in settings.ROWS), *(row.key for row in policy.ROWS)]
    assert list(lines(tree, capsys)) == names


def test_a_value_is_shown_with_its_place(tree: BootTree, capsys: Output) -> None:
    tree.write("/etc/conf.d/kexec", "# mine\nKNAME=bzImage\nDONT_MOUNT_BOOT=yes\n")
    tree.write(policy.PATH, "grace:\n  services: 7.5\nchoice: newest\n")
    shown = lines(tree, capsys)
    assert shown["kernel"] == ["/boot/bzImage", "/etc/conf.d/kexec:2"]
    assert shown["mount_boot"] == ["false", "/etc/conf.d/kexec:3"]
    assert shown["grace.services"] == ["7.5", f"{policy.PATH}:2"]
    assert shown["choice"] == ["newest", f"{policy.PATH}:3"]
    assert shown["within"] == ["10", "default"]


def test_as_json_a_value_has_its_type(tree: BootTree, capsys: Output) -> None:
    tree.write("/etc/conf.d/kexec", 'KEXEC_OPT_ARGS="-s -d"\n')
    found = {one["name"]: one for one in as_json(tree, capsys)["settings"]}
    assert set(found["kernel"]) == {"name", "variables", "value", "default", "origin", "help"}
    assert (found["kernel"]["value"], found["kernel"]["variables"]) == (None, ["KNAME", "KERNEL_IMAGE"])
    assert found["initrd"]["variables"] == ["INITRD"]
    assert found["mount_boot"]["value"] is True
    assert (found["within"]["value"], found["within"]["variables"]) == (10.0, [])
    assert found["on-dirty"]["value"] == "firmware"
    assert found["kexec_options"]["value"]["method"] == "file"
    assert found["kexec_options"]["value"]["passed"] == ["-d"]
    assert found["kexec_options"]["default"] is False


def test_options_of_kexec_are_shown_for_what_they_come_to(tree: BootTree, capsys: Output) -> None:
    tree.write("/etc/conf.d/kexec", 'KEXEC_OPT_ARGS="-c -t bzImage --initrd=/i"\n')
    shown = lines(tree, capsys)["kexec_options"]
    assert shown == ["by", "tools:", "--initrd=/i", "-t", "bzImage", "/etc/conf.d/kexec:1"]


def test_that_kexec_is_switched_off_is_shown(tree: BootTree, capsys: Output) -> None:
    tree.write("/etc/conf.d/kexec", "KNAME=-\n")
    assert lines(tree, capsys)["kernel"] == ["-", "/etc/conf.d/kexec:1"]


def test_that_there_is_to_be_no_initrd_is_shown(tree: BootTree, capsys: Output) -> None:
    tree.write("/etc/default/kexec", "KERNEL_IMAGE=/k\nINITRD=\n")
    assert lines(tree, capsys)["initrd"] == ["none", "/etc/default/kexec:2"]


def test_warnings_are_shown(tree: BootTree, capsys: Output) -> None:
    tree.write("/etc/conf.d/kexec", "LOAD_DURING_SHUTDOWN=YES\n")
    assert "/etc/conf.d/kexec:1:" in lines(tree, capsys)["warning:"]
    assert as_json(tree, capsys)["warnings"][0].startswith("/etc/conf.d/kexec:1: ")


@pytest.mark.parametrize(("path", "text"), [("/etc/conf.d/kexec", "KNAME=$(x)"), (policy.PATH, "within: soon")])
def test_a_file_that_cannot_be_taken_is_refused_with_its_place(
    tree: BootTree, capsys: Output, path: str, text: str
) -> None:
    tree.write(path, text)
    assert main(["config", "--root", tree.root, "--json"]) == ExitCode.BAD_CONFIG
    said = capsys.readouterr()
    assert f"{path}:1:" in said.err
    assert json.loads(said.out)["refused"]["exit"] == "bad-config"


def test_the_policy_of_a_tree_is_read_from_that_tree(tree: BootTree) -> None:
    tree.write(policy.PATH, "within: 20")
    assert read_policy(tree.root).within == 20
