# SPDX-License-Identifier: MIT
"""kexecctl plan: what a reboot would do, from the very steps that it would run."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from kexecd.cli.choosing import boot_partitions
from kexecd.cli.draft import Draft, Line, command_line, draw_up
from kexecd.cli.output import print_json, print_table, size
from kexecd.errors import ExitCode
from kexecd.model import ProcessClass, Way
from kexecd.teardown.survey import Occupant, occupants, running

MOST_OF_A_CLASS = 12
"""Rows that are printed of each class, those with something open for writing first; --json has them all."""

MOST_FILES = 3
"""Files that are printed in one row."""


def plan(options: Namespace) -> ExitCode:
    present(options, options.root)
    return ExitCode.OK


def present(options: Namespace, root: str) -> None:
    """Draw up the plan for these options and print it."""
    with boot_partitions(root):
        draft = draw_up(options, root=root)
        line = command_line(draft, options, root)
    # Of another system's tree nobody runs, and with --now nobody is asked.
    everyone = running() if root == "/" and draft.plan.way is not Way.NOW else ()
    seen = occupants(everyone)
    if options.json:
        print_json(as_json(draft, line, seen, len(everyone) - len(seen)))
    else:
        _print(draft, line)
        _print_occupants(seen, len(everyone) - len(seen))


def as_json(draft: Draft, line: Line | None, seen: Sequence[Occupant], more: int) -> dict[str, object]:
    """`more`: those who would be asked as well, and about whom nothing was read."""
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
        "warnings": list(draft.warnings),
        "last": draft.last(),
        "processes": [
            {
                "pid": each.process.pid,
                "name": each.process.name,
                "class": str(each.process_class),
                "user": each.user,
                "unit": each.unit,
                "memory": each.memory,
                "writing": list(each.writing),
            }
            for each in seen
        ],
        "more_processes": more,
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
    for warning in draft.warnings:
        print(f"warn   {warning}")
    within = f", within {draft.plan.within:g} s" if draft.plan.way is Way.FAST else ""
    print(f"way    {draft.plan.way}{within}")
    print()
    for phase in draft.plan.phases:
        if phase.commit:
            print("       ---- commit point: from here on the machine goes down, whatever happens")
        if phase.steps:
            print(f"{phase.priority:>5}  {phase.name:<13} {phase.why}")
        for step in phase.steps:
            print(f"         - {step.describe()}")
    print(f"{19900:>5}  {draft.plan.act:<13} {draft.last()}")


def _print_occupants(seen: Sequence[Occupant], more: int) -> None:
    rows = [["would quit", "pid", "user", "unit", "memory", "writing"]]
    for process_class in ProcessClass:
        members = [each for each in seen if each.process_class is process_class]
        members.sort(key=lambda each: (bool(each.writing), each.memory), reverse=True)
        if members:
            memory = size(sum(each.memory for each in members))
            rows.append([f"{len(members)} of class {process_class}", "", "", "", memory, ""])
        rows += [_row(each) for each in members[:MOST_OF_A_CLASS]]
        if len(members) > MOST_OF_A_CLASS:
            rows.append([f"  and {len(members) - MOST_OF_A_CLASS} more", "", "", "", "", ""])
    if more:
        rows.append([f"and {more} more", "", "", "", "", ""])
    if len(rows) > 1:
        print()
        print_table(rows)


def _row(each: Occupant) -> list[str]:
    files = ", ".join(each.writing[:MOST_FILES])
    if len(each.writing) > MOST_FILES:
        files += f" and {len(each.writing) - MOST_FILES} more"
    process = each.process
    return [f"  {process.name}", str(process.pid), each.user, each.unit, size(each.memory), files]
