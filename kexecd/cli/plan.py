# SPDX-License-Identifier: MIT
"""kexecctl plan: what a reboot would do, from the very steps that it would run."""

from __future__ import annotations

from argparse import Namespace

from kexecd.cli.choosing import boot_partitions
from kexecd.cli.draft import Draft, Line, command_line, draw_up
from kexecd.cli.output import print_json
from kexecd.errors import ExitCode
from kexecd.model import Way


def plan(options: Namespace) -> ExitCode:
    present(options, options.root)
    return ExitCode.OK


def present(options: Namespace, root: str) -> None:
    """Draw up the plan for these options and print it."""
    with boot_partitions(root):
        draft = draw_up(options, root=root)
        line = command_line(draft, options, root)
    if options.json:
        print_json(as_json(draft, line))
    else:
        _print(draft, line)


def as_json(draft: Draft, line: Line | None) -> dict[str, object]:
    entry = draft.seen.choice.entry if draft.seen else None
    added, removed = line.difference() if line else ((), ())
    return {
        "way": str(draft.plan.way),
        "act": str(draft.plan.act),
        "within": draft.plan.within,
        "init": draft.init.name,
        "target": {
            "kernel": draft.loaded.kernel.path if draft.loaded else entry.kernel if entry else None,
            "version": draft.loaded.version if draft.loaded else entry.version if entry else None,
            "loaded": draft.loaded is not None,
            "cmdline": line.text if line else "",
            "cmdline_diff": {
                "running": line.running if line else "",
                "added": list(added),
                "removed": list(removed),
            },
            "reason": draft.reason,
            "remarks": list(line.remarks) if line else [],
        },
        "phases": [
            {
                "name": phase.name,
                "priority": phase.priority,
                "why": phase.why,
                "commit": phase.commit,
                "steps": [{"name": step.name, "does": step.describe()} for step in phase.steps],
            }
            for phase in draft.plan.phases
        ],
        "last": draft.last(),
    }


def _print(draft: Draft, line: Line | None) -> None:
    print(f"into   {draft.going_to}: {draft.reason}")
    if line:
        print(f"with   {line.text}")
        added, removed = line.difference()
        for mark, words in (("+", added), ("-", removed)):
            if words:
                print(f"       {mark} {' '.join(words)}")
        for remark in line.remarks:
            print(f"note   {remark}")
    within = f", within {draft.plan.within:g} s" if draft.plan.way is Way.FAST else ""
    print(f"way    {draft.plan.way}{within}")
    print()
    for phase in draft.plan.phases:
        if phase.commit:
            print("       ---- commit point: from here on the machine goes down, whatever happens")
        if phase.steps:
            print(f"{phase.priority:>5}  {phase.name:<10} {phase.why}")
        for step in phase.steps:
            print(f"         - {step.describe()}")
    print(f"{19900:>5}  {draft.plan.act:<10} {draft.last()}")
