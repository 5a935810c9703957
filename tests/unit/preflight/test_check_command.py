# SPDX-License-Identifier: MIT
"""kexecctl check, on a tree with a kernel to boot; and the same checks before a load and before a restart."""

from __future__ import annotations

import json
import resource
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kexecd.cli.check import before_load, before_restart
from kexecd.cli.choosing import Look
from kexecd.cli.main import main, parser
from kexecd.config.checks import Answer, CheckId, CheckRule
from kexecd.config.policy import PATH, Policy
from kexecd.config.settings import Settings
from kexecd.errors import ExitCode
from kexecd.model import Choice
from kexecd.preflight.devices import rows
from kexecd.preflight.finding import CheckFailed
from kexecd.preflight.table import CHECKS
from kexecd.teardown.survey import Survey
from tests.unit.images import bzimage
from tests.unit.initrds import newc
from tests.unit.preflight.machine import INITRD, UUID, VERSION, Machine
from tests.unit.preflight.people_cases import started

TOP = Path(__file__).parents[3]
DISABLED = "/proc/sys/kernel/kexec_load_disabled"
SECONDS = 1.5
"""Of CPU, for all checks."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with ExitStack() as opened:
        machine = Machine(tmp_path, opened)
        machine.write(f"/boot/vmlinuz-{VERSION}", bzimage())
        machine.write(f"/boot/initrd.img-{VERSION}", newc(*INITRD))
        yield machine


def test_where_nothing_speaks_against_it_that_is_said(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--root", machine.root]) == ExitCode.OK
    assert capsys.readouterr().out == "nothing speaks against it\n"


def test_the_worst_is_printed_first_and_gives_the_exit_code(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write("/sys/kernel/kexec_loaded", "1\n")
    machine.write(DISABLED, "1\n")
    machine.write("/sys/bus/pci/drivers/nvidia/0000:01:00.0")
    assert main(["check", "--root", machine.root]) == ExitCode.FORBIDDEN
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["refuse", "load-disabled", "kernel.kexec_load_disabled"]
    assert lines[1].lstrip().startswith("-> it stays so until the machine is restarted through the firmware")
    assert [line.split()[1] for line in lines if line.startswith("warn")] == ["foreign-image", "drivers"]
    assert "https://github.com/NVIDIA/open-gpu-kernel-modules/issues/1027" in lines[-3]


def test_its_json_has_the_documented_form(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write(DISABLED, "1\n")
    assert main(["check", "--root", machine.root, "--fast", "--json", "--ignore", "sessions"]) == ExitCode.FORBIDDEN
    document = json.loads(capsys.readouterr().out)
    (finding,) = document.pop("findings")
    assert document == {
        "schema": 1,
        "may": False,
        "way": "fast",
        "target": {"id": f"vmlinuz-{VERSION}", "version": VERSION, "loaded": False},
        "ignored": ["sessions"],
    }
    assert finding.pop("why") and finding.pop("remedy")
    assert finding == {
        "check": "load-disabled",
        "severity": "refuse",
        "exit": "forbidden",
        "evidence": [],
        "origin": None,
    }


def test_one_check_is_ignored_and_no_other(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write(DISABLED, "1\n")
    machine.write("/proc/sys/kernel/kexec_load_limit_reboot", "0\n")
    assert main(["check", "--root", machine.root, "--ignore", "load-disabled"]) == ExitCode.FORBIDDEN
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[::2]] == ["load-limit"]
    both = ["--ignore", "load-disabled", "--ignore", "load-limit"]
    assert main(["check", "--root", machine.root, *both]) == ExitCode.OK


def test_a_name_that_no_check_has_is_refused(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--root", machine.root, "--ignore", "load-disbled"]) == ExitCode.USAGE
    assert "did you mean load-disabled?" in capsys.readouterr().err


def test_the_policy_says_what_a_finding_means(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write(DISABLED, "1\n")
    machine.write("/sys/kernel/kexec_loaded", "1\n")
    machine.write(PATH, "checks:\n  load-disabled: ignore\n  foreign-image: refuse\n")
    assert main(["check", "--root", machine.root, "--json"]) == ExitCode.FORBIDDEN
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["check"], finding["severity"], finding["origin"]) == ("foreign-image", "refuse", f"{PATH}:3")


def test_what_the_target_is_refused_for_is_a_finding(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write(f"/boot/vmlinuz-{VERSION}", bzimage()[:-1])
    assert main(["check", "--root", machine.root]) == ExitCode.BAD_IMAGE
    assert "image-files" in capsys.readouterr().out
    machine.remove(f"/boot/vmlinuz-{VERSION}")
    assert main(["check", "--root", machine.root]) == ExitCode.NO_ENTRY
    assert main(["check", "--root", machine.root, "--cmdline", "x" * 4000, "--kernel", "/none"]) == ExitCode.BAD_IMAGE
    machine.write(f"/boot/vmlinuz-{VERSION}", bzimage())
    assert main(["check", "--root", machine.root, "--cmdline", "x" * 4000]) == ExitCode.BAD_CONFIG


@pytest.mark.parametrize(("tree", "left"), [("debian-12-tries", 3), ("debian-13-uki", 2), ("fedora", None)])
def test_boots_that_are_counted_are_told(tree: str, left: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "--root", str(TOP / "tests/golden/trees" / tree / "root"), "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    told = [finding["why"] for finding in findings if finding["check"] == "boot-counting"]
    assert [f"({left} left)" in why for why in told] == ([] if left is None else [True])


@pytest.mark.parametrize("tree", sorted(path.name for path in (TOP / "tests/golden/trees").iterdir() if path.is_dir()))
def test_on_every_golden_tree_every_check_can_be_made(tree: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "--root", str(TOP / "tests/golden/trees" / tree / "root"), "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert not [finding for finding in findings if "could not be looked at" in finding["why"]]
    # They are made of boot files alone: nothing is known of a machine that could be refused for something else.
    refused = {finding["check"] for finding in findings if finding["severity"] == "refuse"}
    assert refused <= {"boot-entry", "image-files"}


def test_a_wish_for_the_firmware_is_told(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write("/nokexec")
    assert main(["check", "--root", machine.root]) == ExitCode.OK
    assert "firmware-wish" in capsys.readouterr().out


def test_a_restart_through_the_firmware_needs_no_image(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write(DISABLED, "1\n")
    machine.write("/nokexec")
    assert main(["check", "--root", machine.root, "--firmware"]) == ExitCode.OK
    assert capsys.readouterr().out == "nothing speaks against it\n"


def test_another_systems_modules_are_its_own(machine: Machine) -> None:
    """Of what is mounted at DIR its modules count, whatever this machine has."""
    machine.write("/etc/fstab", f"UUID={UUID} / ext4 rw 0 1\n")
    done = kexecctl("check", "--from", machine.root, "--json")
    assert "modules" not in {finding["check"] for finding in json.loads(done.stdout)["findings"]}
    machine.write("/lib/modules/6.12.0/modules.dep")
    (machine.path / f"lib/modules/{VERSION}").rename(machine.path / "lib/modules/5.10.0")
    done = kexecctl("check", "--from", machine.root, "--json")
    assert "modules" in {finding["check"] for finding in json.loads(done.stdout)["findings"]}


def kexecctl(*words: str) -> subprocess.CompletedProcess[bytes]:
    """As it is installed: another process, with nothing of the tests in it."""
    code = f"import sys; sys.path.insert(0, {str(TOP)!r}); from kexecd.cli.main import main; sys.exit(main())"
    command = ["/usr/bin/python3", "-I", "-c", code, *words]
    return subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60)


def test_the_checks_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == ExitCode.OK
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [str(check.id) for check in CHECKS]
    assert main(["check", "--list", "--json"]) == ExitCode.OK
    first = json.loads(capsys.readouterr().out)["checks"][0]
    assert first == {"check": "capability", "severity": "refuse", "scope": "load", "what": "root with CAP_SYS_BOOT"}


def options(*words: str) -> Namespace:
    return parser("reboot").parse_args(["reboot", *words])


def here(machine: Machine) -> Survey:
    """The real survey would see what else runs beside the tests."""
    return Survey(processes=(started(machine, "qemu-system-x86_64"),))


def test_before_a_restart_what_is_dangerous_is_told_and_what_is_too_much_is_refused(machine: Machine) -> None:
    seen = here(machine)
    image = machine.image()
    told = before_restart(options("--fast", "--ignore", "stale-image"), Policy(), image, seen)
    assert any("qemu-system-x86" in line and line.endswith("(check guests)") for line in told)
    rule = CheckRule(CheckId.GUESTS, Answer.REFUSE, "kexecd.yaml:3")
    with pytest.raises(CheckFailed) as refusal:
        before_restart(options("--fast"), Policy(checks=(rule,)), image, seen)
    assert refusal.value.what == "cannot restart this machine"
    assert refusal.value.exit_code is ExitCode.FORBIDDEN
    assert not any(
        "guests" in line for line in before_restart(options("--fast", "--ignore", "guests"), Policy(), image, seen)
    )


def test_before_a_load_only_what_is_loaded_is_judged(machine: Machine) -> None:
    target = machine.target(cmdline="root=UUID=0000-1111-2222")
    seen = Look(Settings(), (target.entry,), Choice(target.entry, "it is the newest"))
    ignored = [word for check in CHECKS if check.id is not CheckId.MEMORY for word in ("--ignore", str(check.id))]
    assert before_load(options(*ignored), seen, target) == ()


@pytest.mark.perf
def test_all_checks_of_this_machine_take_less_cpu_than_a_second_and_a_half(capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = kexecctl("check", "--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with capsys.disabled():
        print(f"\nkexecctl check: {spent:.2f} s of CPU, of {SECONDS} s")
    assert "findings" in json.loads(done.stdout)
    assert spent <= SECONDS


def test_the_page_about_the_checks_is_that_of_the_table() -> None:
    page = (TOP / "docs/checks.md").read_text(encoding="utf-8")
    assert table(page, "| check |") == [f"| `{c.id}` | {c.severity} | {c.scope} | {c.what} |" for c in CHECKS]
    known = [row for name in ("hypervisors", "machines", "drivers") for row in rows(name)]
    assert table(page, "| what |") == [
        f"| {row.name} | {row.severity} | {row.why} | {', '.join(map(short, row.evidence))} |" for row in known
    ]


def table(page: str, head: str) -> list[str]:
    """The rows of the table that begins so."""
    lines = page.partition(head)[2].splitlines()[2:]
    return lines[: next((number for number, line in enumerate(lines) if not line.startswith("|")), None)]


def short(address: str) -> str:
    return address.removeprefix("https://github.com/").replace("/issues/", "#").replace("/pull/", "#")
