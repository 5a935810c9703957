# SPDX-License-Identifier: MIT
"""kexecctl check: what speaks against a kexec of this machine, worst first (docs/checks.md). As JSON:

    {"schema": 1, "may": false, "way": "fast", "target": {"id": "...", "version": "...", "loaded": false},
     "findings": [{"check": "raid", "severity": "warn", "why": "...", "remedy": "...", "exit": null,
                   "evidence": ["https://..."], "origin": null}, ...],
     "ignored": ["sessions", ...]}

may: there is no finding of the severity `refuse`; else the command ends with the first one's exit code, whose name is
that finding's `exit`. target: null where nothing could be chosen. origin: the line of kexecd.yaml that made a finding
this severe, null where that is the check itself. With --list instead: `checks`, a list of `check`, `severity`, `scope`,
`what`.

The same checks are made before a load and before a restart: before_load(), before_restart().
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from contextlib import ExitStack

from kexecd.cli.choosing import Look, boot_partitions, chosen, look_for, names_image, target_for
from kexecd.cli.output import print_json, print_table
from kexecd.config.checks import Answer, CheckId, CheckRule, ignored
from kexecd.config.policy import Policy, read_policy
from kexecd.errors import ExitCode, Refusal
from kexecd.model import BootTarget, ImageRecord, Way
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.finding import Finding, Scope, Severity
from kexecd.preflight.judge import judge, refuse
from kexecd.preflight.table import CHECKS
from kexecd.record import RUN_DIR, loaded_record
from kexecd.state import read
from kexecd.teardown.survey import Survey


def check(options: Namespace) -> ExitCode:
    if options.list:
        _list(as_json=options.json)
        return ExitCode.OK
    rules = _rules(options, read_policy(options.root))
    # A restart through the firmware needs no image, and whatever a disk or a person has against it counts all the same.
    scope = Scope.RESTART if options.firmware else None
    with boot_partitions(options.root), ExitStack() as opened:
        subject = _subject(options, options.root, opened)
        findings = judge(Facts(options.root, subject), rules, scope=scope)
    first = next((finding for finding in findings if finding.severity is Severity.REFUSE), None)
    if options.json:
        print_json(_as_json(subject, findings, rules))
    else:
        _print(findings)
    return first.code if first else ExitCode.OK


def before_load(options: Namespace, seen: Look, target: BootTarget) -> tuple[str, ...]:
    """The checks of the scope `load`: what is to be told, as sentences. Raises CheckFailed, a Refusal."""
    subject = Subject(
        way=_way(options),
        target=target,
        settings=seen.settings,
        choice=seen.choice,
        loader=None if seen.foreign else seen.loader,
        named=names_image(options),
        ours_loaded=loaded_record() is not None,
        system=seen.root if seen.foreign else "",
    )
    policy = read_policy()
    findings = judge(Facts(subject=subject, policy=policy), _rules(options, policy), scope=Scope.LOAD)
    refuse(findings, f"cannot load {target.kernel.path}")
    return _warnings(findings)


def before_restart(options: Namespace, policy: Policy, image: ImageRecord | None, here: Survey) -> tuple[str, ...]:
    """The checks of the scope `restart`: what is to be told, as sentences. Raises CheckFailed, a Refusal.

    image: what is in memory and is to be used; None: something will be loaded for it.
    """
    way = _way(options)
    # The settings take longer to read than all the rest, and whoever asks to go down at once into an image that is in
    # memory has said what is wanted.
    wish = _firmware_wish("/") if way is Way.ORDERLY or image is None else ""
    subject = Subject(way=way, image=image, ours_loaded=image is not None, firmware_wish=wish)
    facts = Facts(subject=subject, processes=here.processes, mounts=here.mounts, policy=policy)
    findings = judge(facts, _rules(options, policy), scope=Scope.RESTART)
    refuse(findings, "cannot restart this machine")
    return _warnings(findings)


def turn_of_firmware(options: Namespace, policy: Policy, image: ImageRecord | None, seen: Look | None) -> str:
    """Why this restart is to be one through the firmware, as a sentence; empty where nothing speaks for that.

    image: what is in memory and is to be used; seen: else, what would be loaded. Raises what its files are refused for.
    """
    from kexecd.preflight import turn  # late: beside the table of all checks it costs nothing

    rules = _rules(options, policy)
    if turn.is_silent(policy):
        return ""
    with ExitStack() as opened:
        target = None
        if image is None and seen is not None:
            from kexecd.target import close  # late: an image that is in memory has no files to close

            target = target_for(options, seen)
            opened.callback(close, target)
        facts = Facts(subject=Subject(way=_way(options), target=target, image=image), policy=policy)
        findings = judge(facts, rules, checks=[one for one in CHECKS if one.id in turn.IDS])
    first = next((finding for finding in findings if finding.severity is Severity.REFUSE), None)
    return f"{first.why} (check {first.check})" if first else ""


def came_back() -> str:
    """Why the next restart is to be an ordinary one whatever its kernel, which nobody knows; empty where it is not."""
    from kexecd.preflight import turn  # late: see above

    return turn.came_back(policy=read_policy())


def _rules(options: Namespace, policy: Policy) -> tuple[CheckRule, ...]:
    names = list(getattr(options, "ignore", None) or ())
    if getattr(options, "trial", False):
        names.append(CheckId.DENIED)  # that is what trying is for
    return (*policy.checks, *ignored(names))


def _way(options: Namespace) -> Way:
    """As it is asked for; an init that stops its services goes down in its own order."""
    if getattr(options, "now", False):
        return Way.NOW
    return Way.FAST if getattr(options, "fast", False) else Way.ORDERLY


def _subject(options: Namespace, root: str, opened: ExitStack) -> Subject:
    """What a restart with these options would boot; its files stay open as long as `opened` is."""
    from kexecd.target import close  # late: an image that is in memory has no files to close

    way, ours = _way(options), loaded_record() if root == "/" else None
    wish = _firmware_wish(root)
    if options.firmware:
        return Subject(way=way, ours_loaded=ours is not None)
    if ours and not names_image(options):
        return Subject(way=way, image=ours, ours_loaded=True, firmware_wish=wish)
    target = refusal = None
    seen = None
    try:
        seen = look_for(options, root)
        chosen(seen)
        target = target_for(options, seen, root)
        opened.callback(close, target)
    except Refusal as error:
        refusal = error
    return Subject(
        way=way,
        target=target,
        refusal=refusal,
        settings=seen.settings if seen else None,
        choice=seen.choice if seen else None,
        loader=seen.loader if seen and not seen.foreign else None,
        problems=seen.problems if seen else (),
        named=names_image(options),
        ours_loaded=ours is not None,
        firmware_wish=wish,
        system=seen.root if seen and seen.foreign else "",
    )


def _firmware_wish(root: str) -> str:
    from kexecd.config.settings import read_settings  # late: see before_restart()
    from kexecd.init.wishes import firmware_wish

    try:
        settings = read_settings(root)
    except Refusal:  # whoever chooses an entry is refused for it
        return ""
    wish = firmware_wish(settings, read(RUN_DIR) if root == "/" else None, root)
    return wish.why if wish else ""


def _warnings(findings: Iterable[Finding]) -> tuple[str, ...]:
    told = (finding for finding in findings if finding.severity is Severity.WARN)
    return tuple(f"{finding.why}; {finding.remedy} (check {finding.check})" for finding in told)


def _as_json(subject: Subject, findings: tuple[Finding, ...], rules: tuple[CheckRule, ...]) -> dict[str, object]:
    entry = subject.target.entry if subject.target else subject.choice.entry if subject.choice else None
    image = subject.image
    target = {"id": entry.id, "version": entry.version or None, "loaded": False} if entry else None
    if image:
        target = {"id": image.entry_id, "version": image.version or None, "loaded": True}
    last = {rule.check: rule.answer for rule in rules}
    return {
        "may": not any(finding.severity is Severity.REFUSE for finding in findings),
        "way": str(subject.way),
        "target": target,
        "findings": [finding.as_json() for finding in findings],
        "ignored": [str(name) for name, answer in last.items() if answer is Answer.IGNORE],
    }


def _print(findings: tuple[Finding, ...]) -> None:
    rows = []
    for finding in findings:
        rows.append((str(finding.severity), str(finding.check), finding.why))
        rows += [("", "", f"-> {finding.remedy}")] if finding.remedy else []
        rows += [("", "", f"   {place}") for place in finding.evidence]
    print_table(rows)
    if not findings:
        print("nothing speaks against it")


def _list(*, as_json: bool) -> None:
    if as_json:
        fields = [
            {"check": str(one.id), "severity": str(one.severity), "scope": str(one.scope), "what": one.what}
            for one in CHECKS
        ]
        print_json({"checks": fields})
    else:
        print_table([(str(one.id), str(one.severity), str(one.scope), one.what) for one in CHECKS])
