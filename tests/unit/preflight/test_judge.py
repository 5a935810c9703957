# SPDX-License-Identifier: MIT
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kexecd.config.checks import Answer, CheckId, CheckRule, ignored
from kexecd.errors import ExitCode, Refusal
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Check, CheckFailed, Flaw, Scope, Severity
from kexecd.preflight.judge import judge, refuse


def one(
    check: CheckId,
    severity: Severity,
    *flaws: Flaw | Exception,
    scope: Scope = Scope.LOAD,
    code: ExitCode = ExitCode.FORBIDDEN,
) -> Check:
    def look(facts: Facts) -> Iterator[Flaw]:
        for flaw in flaws:
            if isinstance(flaw, Exception):
                raise flaw
            yield flaw

    return Check(check, severity, scope, "the disks", look, code)


BAD = Flaw("it is bad", "mend it")
NOTED = one(CheckId.REMARKS, Severity.NOTE, BAD)
WARNED = one(CheckId.RAID, Severity.WARN, BAD)
REFUSED = one(CheckId.MEMORY, Severity.REFUSE, BAD, code=ExitCode.NO_MEMORY)
ALSO_REFUSED = one(CheckId.LOCKDOWN, Severity.REFUSE, BAD, code=ExitCode.BAD_SIGNATURE)


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    return Facts(str(tmp_path))


def rule(check: CheckId, answer: Answer) -> CheckRule:
    return CheckRule(check, answer, "kexecd.yaml:3")


def test_the_worst_comes_first_and_equals_keep_their_order(facts: Facts) -> None:
    found = judge(facts, checks=(NOTED, WARNED, ALSO_REFUSED, REFUSED))
    assert [finding.check for finding in found] == [CheckId.LOCKDOWN, CheckId.MEMORY, CheckId.RAID, CheckId.REMARKS]


def test_a_flaw_may_weigh_otherwise_than_its_check(facts: Facts) -> None:
    check = one(CheckId.DRIVERS, Severity.WARN, BAD, Flaw("worse", "mend it", Severity.REFUSE, ExitCode.UNSUPPORTED))
    first, second = judge(facts, checks=(check,))
    assert (first.why, first.severity, first.code) == ("worse", Severity.REFUSE, ExitCode.UNSUPPORTED)
    assert (second.why, second.severity) == ("it is bad", Severity.WARN)


@pytest.mark.parametrize(
    ("check", "answer", "severity"),
    [
        (REFUSED, Answer.WARN, Severity.WARN),
        (WARNED, Answer.REFUSE, Severity.REFUSE),
        (NOTED, Answer.REFUSE, Severity.REFUSE),
        (NOTED, Answer.WARN, Severity.NOTE),
    ],
)
def test_the_administrator_says_what_a_finding_means(
    facts: Facts, check: Check, answer: Answer, severity: Severity
) -> None:
    (found,) = judge(facts, (rule(check.id, answer),), checks=(check,))
    assert found.severity is severity
    assert found.origin == ("" if severity is Severity.NOTE else "kexecd.yaml:3")


def test_a_check_that_is_ignored_is_not_made(facts: Facts) -> None:
    broken = one(CheckId.RAID, Severity.REFUSE, RuntimeError("it was made"))
    assert judge(facts, (rule(CheckId.RAID, Answer.IGNORE),), checks=(broken,)) == ()


def test_the_command_line_overrules_the_file(facts: Facts) -> None:
    rules = (rule(CheckId.MEMORY, Answer.REFUSE), *ignored(["memory"]))
    assert judge(facts, rules, checks=(REFUSED,)) == ()


def test_each_moment_has_its_checks(facts: Facts) -> None:
    restart = one(CheckId.ZFS, Severity.WARN, BAD, scope=Scope.RESTART)

    def made(scope: Scope | None) -> set[CheckId]:
        return {finding.check for finding in judge(facts, scope=scope, checks=(WARNED, restart))}

    assert made(Scope.LOAD) == {CheckId.RAID}
    assert made(Scope.RESTART) == {CheckId.ZFS}
    assert made(None) == {CheckId.RAID, CheckId.ZFS}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("no number"), Refusal("a", "b")])
def test_what_cannot_be_looked_at_is_a_note_and_stops_nobody(facts: Facts, error: Exception) -> None:
    broken = one(CheckId.RAID, Severity.REFUSE, BAD, error)
    found = judge(facts, checks=(broken, REFUSED))
    assert [(finding.check, finding.severity) for finding in found] == [
        (CheckId.MEMORY, Severity.REFUSE),
        (CheckId.RAID, Severity.NOTE),
    ]
    assert found[1].why.startswith("the disks could not be looked at: ")


def test_the_first_refusal_is_raised_with_its_remedy_and_its_way_around(facts: Facts) -> None:
    found = judge(facts, checks=(NOTED, REFUSED, ALSO_REFUSED))
    with pytest.raises(CheckFailed) as refusal:
        refuse(found, "cannot load /boot/vmlinuz")
    assert str(refusal.value) == "cannot load /boot/vmlinuz: it is bad (check memory); nothing was changed"
    assert refusal.value.hint == "mend it; `--ignore memory` goes on all the same"
    assert refusal.value.exit_code is ExitCode.NO_MEMORY
    assert refusal.value.finding is found[0]


def test_without_a_refusal_nothing_is_raised(facts: Facts) -> None:
    refuse(judge(facts, checks=(NOTED, WARNED)), "cannot load /boot/vmlinuz")


def test_a_check_that_nobody_knows_cannot_be_ignored() -> None:
    with pytest.raises(Refusal) as refusal:
        ignored(["raid", "memry"])
    assert str(refusal.value) == (
        "cannot ignore memry: there is no such check; did you mean memory?; nothing was changed"
    )
    assert refusal.value.exit_code is ExitCode.USAGE
