# SPDX-License-Identifier: MIT
"""The checks made, and what comes of them: findings, the worst first, and the refusal if there is one."""

from __future__ import annotations

from collections.abc import Iterable

from kexecd.config.checks import Answer, CheckRule
from kexecd.errors import Refusal
from kexecd.preflight.facts import Facts
from kexecd.preflight.finding import Check, CheckFailed, Finding, Flaw, Scope, Severity
from kexecd.preflight.table import CHECKS

SEVERITY = {Answer.WARN: Severity.WARN, Answer.REFUSE: Severity.REFUSE}
ORDER = tuple(Severity)


def judge(
    facts: Facts, rules: Iterable[CheckRule] = (), *, scope: Scope | None = None, checks: Iterable[Check] = CHECKS
) -> tuple[Finding, ...]:
    """What speaks against it, the worst first, within one severity in the order of the table.

    rules: what the administrator says to a check; the last about each counts. scope: which checks are made; None: all.
    Raises nothing for what cannot be looked at: that is a note.
    """
    said = {rule.check: rule for rule in rules}
    found = []
    for check in checks:
        if scope is not None and check.scope not in (scope, Scope.BOTH):
            continue
        rule = said.get(check.id)
        if rule is None or rule.answer is not Answer.IGNORE:
            found += [_finding(check, flaw, rule) for flaw in _look(check, facts)]
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.severity)))


def refuse(findings: Iterable[Finding], what: str) -> None:
    """Raise the first refusal among them, if there is one, as CheckFailed; `what` is the deed that is refused."""
    first = next((finding for finding in findings if finding.severity is Severity.REFUSE), None)
    if first is not None:
        raise CheckFailed(what, first)


def _look(check: Check, facts: Facts) -> list[Flaw]:
    try:
        return list(check.look(facts))
    except (OSError, ValueError, Refusal) as error:
        why = error.why if isinstance(error, Refusal) else (getattr(error, "strerror", None) or str(error)).lower()
        return [Flaw(f"{check.what} could not be looked at: {why}", "look yourself, if it matters here", Severity.NOTE)]


def _finding(check: Check, flaw: Flaw, rule: CheckRule | None) -> Finding:
    severity, origin = flaw.severity or check.severity, ""
    # `warn` makes nothing louder than it is: a note that a check has for something that it could not see stays one.
    if rule and not (rule.answer is Answer.WARN and severity is Severity.NOTE):
        severity, origin = SEVERITY[rule.answer], rule.origin
    return Finding(check.id, severity, flaw.why, flaw.remedy, flaw.code or check.code, flaw.evidence, origin)
