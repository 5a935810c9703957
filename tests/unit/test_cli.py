# SPDX-License-Identifier: MIT
"""kexecctl on trees that are made up here: nothing of this machine is read where --root is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kexecd.cli.main import COMMANDS, main, parser
from kexecd.errors import ExitCode, NotPermitted
from kexecd.lock import hold


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    boot = tmp_path / "boot"
    boot.mkdir()
    for version in ("6.1.0-9", "6.1.0-56", "6.12.9"):
        (boot / f"vmlinuz-{version}").write_bytes(b"kernel")
        (boot / f"initrd.img-{version}").write_bytes(b"initrd")
    return tmp_path


def test_entries_are_printed_with_the_winner_and_why(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["entries", "--root", str(tree)]) == ExitCode.OK
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("*  versioned  6.12.9 ") and "newest" in first
    assert [line.split()[1] for line in others] == ["6.1.0-56", "6.1.0-9"]


def test_entries_have_a_documented_form_as_json(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["entries", "--root", str(tree), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["chosen"]["id"] == "vmlinuz-6.12.9" and document["chosen"]["reason"]
    assert set(document["entries"][0]) == {
        "id", "title", "version", "source", "kernel", "initrd", "cmdline", "default", "problems", "remarks",
    }  # fmt: skip
    assert document["entries"][0]["initrd"] == ["/boot/initrd.img-6.12.9"]
    assert [entry["default"] for entry in document["entries"]] == [True, False, False]


def test_a_tree_with_nothing_to_boot_is_an_empty_list_a_reason_and_a_named_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["entries", "--root", str(tmp_path), "--json"]) == ExitCode.NO_ENTRY
    document = json.loads(capsys.readouterr().out)
    assert document["entries"] == [] and document["chosen"]["id"] is None and document["chosen"]["reason"]


def test_a_plan_for_what_cannot_be_booted_is_refused_as_the_reboot_would_be(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--root", str(tree)]) == ExitCode.BAD_IMAGE
    said = capsys.readouterr().err
    assert said.startswith("kexecctl: cannot ") and "/boot/vmlinuz-6.12.9" in said
    assert "nothing was changed" in said


def test_a_refusal_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--root", str(tmp_path), "--json"]) == ExitCode.NO_ENTRY
    refused = json.loads(capsys.readouterr().out)["refused"]
    assert refused["exit"] == "no-entry"
    assert set(refused) == {"what", "why", "instead", "hint", "errno", "exit"}


def test_the_deadline_has_to_make_sense(tree: Path) -> None:
    for nonsense in ("0", "-1", "nan", "inf", "1e9"):
        assert main(["plan", "--fast", "--firmware", "--within", nonsense, "--root", str(tree)]) == ExitCode.USAGE


def test_each_command_has_its_function() -> None:
    from importlib import import_module

    for command in COMMANDS:
        assert callable(getattr(import_module(f"kexecd.cli.{command.module}"), command.function))


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["reboot", "--fast", "--now"], ["plan", "--withi", "3"]])
def test_a_command_line_that_makes_no_sense_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == ExitCode.USAGE


def test_the_exit_codes_are_those_that_the_readme_lists() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"| {code.value} | `{code.label}` |" in readme, code


def test_two_requests_cannot_cross_and_the_second_hears_who_is_first(tmp_path: Path) -> None:
    from kexecd.errors import Busy

    with (
        hold(str(tmp_path), "restart this machine"),
        pytest.raises(Busy, match=r"process \d+ \(restart this machine\)"),
        hold(str(tmp_path), "load a kernel"),
    ):
        pass
    with hold(str(tmp_path), "load a kernel"):
        pass


def test_whoever_may_not_write_to_run_is_told_that_it_takes_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kexecd.lock.os.open", refuse)
    with pytest.raises(NotPermitted, match="only root may"), hold(str(tmp_path), "load a kernel"):
        pass


@pytest.mark.parametrize(
    ("tree", "arguments", "differs"),
    [("ukify-profiles", [], False), ("grub-debian12-next-entry", [], False), ("arch", [], None)],
)
def test_entries_tell_whether_kexec_and_the_boot_loader_would_differ(
    tree: str, arguments: list[str], differs: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[1] / "golden/trees" / tree / "root"
    assert main(["entries", "--root", str(root), "--json", *arguments]) == ExitCode.OK
    loader = json.loads(capsys.readouterr().out)["boot_loader"]
    assert (loader and loader["differs"]) == differs


def test_the_newest_by_policy_differs_from_what_grub_would_boot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    tree = Path(__file__).parents[1] / "golden/trees/grub-debian12-next-entry/root"
    shutil.copytree(tree, tmp_path / "root", symlinks=True)
    policy = tmp_path / "root/etc/kexecd/kexecd.yaml"
    policy.parent.mkdir(parents=True)
    policy.write_text("choice: newest\n", encoding="utf-8")
    assert main(["entries", "--root", str(tmp_path / "root")]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "it is the newest that is installed" in said
    assert "differs: GRUB would boot" in said and 'next_entry="1>2"' in said
