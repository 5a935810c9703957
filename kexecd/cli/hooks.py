# SPDX-License-Identifier: MIT
"""kexecctl hooks: the administrator's own steps, in their order, and what was passed over. As JSON:

    {"schema": 1,
     "hooks": [{"name": "backup", "priority": 10000, "calls": ["prepare", "cancel"], "timeout": 10.0,
                "on_failure": "veto", "command": ["/usr/local/sbin/backup", "--last"],
                "origin": "/etc/kexecd/kexecd.yaml:12"}, ...],
     "remarks": ["/etc/kexecd/hooks.d/README is passed over: it is not executable", ...]}

timeout: seconds, for one call. on_failure: `veto` or `warn`. origin: `file:line`, or the executable's path.
"""

from __future__ import annotations

from argparse import Namespace

from kexecd.cli.output import print_json, print_table, shown
from kexecd.config.hook_rows import HookCall
from kexecd.config.hooks import Hook, find_hooks
from kexecd.errors import ExitCode


def hooks(options: Namespace) -> ExitCode:
    found = find_hooks(options.root)
    if options.json:
        print_json({"hooks": [_as_json(hook) for hook in found.hooks], "remarks": list(found.remarks)})
        return ExitCode.OK
    print_table([_as_row(hook) for hook in found.hooks])
    for remark in found.remarks:
        print(f"note: {shown(remark)}")
    if not found.hooks:
        print("there are no hooks")
    return ExitCode.OK


def _as_row(hook: Hook) -> tuple[str, ...]:
    where = hook.origin if hook.origin == hook.command[0] else f"{' '.join(hook.command)} ({hook.origin})"
    calls = ",".join(_calls(hook))
    return (f"{hook.priority:>5}", hook.name, calls, f"{hook.timeout:g} s", str(hook.on_failure), where)


def _as_json(hook: Hook) -> dict[str, object]:
    return {
        "name": hook.name,
        "priority": hook.priority,
        "calls": _calls(hook),
        "timeout": hook.timeout,
        "on_failure": str(hook.on_failure),
        "command": list(hook.command),
        "origin": hook.origin,
    }


def _calls(hook: Hook) -> list[str]:
    """In the order in which they come."""
    return [str(call) for call in HookCall if call in hook.calls]
