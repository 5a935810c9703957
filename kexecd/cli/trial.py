# SPDX-License-Identifier: MIT
"""kexecctl try ENTRY: restart into it this once, and back into what runs now on anything but success.

It is `kexecctl reboot ENTRY` with a way back that has to be there: somebody who finds the new boot good or gives it up,
and a kernel that restarts after a panic. That it has failed before is no reason against it. The boot loader is left as
it is, so whatever restarts through the firmware is back in what it boots by default.
"""

from __future__ import annotations

from argparse import Namespace

from kexecd.cli.choosing import boot_partitions, chosen, look_for, names_image, target_for
from kexecd.cli.output import shown
from kexecd.cli.reboot import reboot
from kexecd.errors import ExitCode, Refusal
from kexecd.kernel import cmdline
from kexecd.model import BootTarget
from kexecd.preflight.facts import Facts, Subject
from kexecd.preflight.turn import denied
from kexecd.target import opened
from kexecd.wayback import usual


def trial(options: Namespace) -> ExitCode:
    options.trial, options.firmware, options.force = True, False, False
    if not names_image(options):
        hint = "`kexecctl entries` lists what there is"
        raise Refusal("cannot try", "it is not said what", hint=hint, exit_code=ExitCode.USAGE)
    with boot_partitions():
        seen = look_for(options)
        name = chosen(seen).id
        _refuse(name, foreign=seen.foreign)
        with opened(target_for(options, seen)) as target:
            _refuse_line(name, target)
            for flaw in denied(Facts(subject=Subject(target=target))):
                if not options.json:
                    print(f"note: {shown(flaw.why)}; it is tried all the same")
    return reboot(options)


def _refuse(name: str, *, foreign: bool) -> None:
    what = f"cannot try {name}"
    if foreign:
        hint = "`kexecctl reboot` goes there without a way back"
        raise Refusal(what, "another installed system does not say here how it is", hint=hint)
    if not usual.enabled():
        hint = "enable kexecd-confirm (docs/wayback.md)"
        raise Refusal(what, "nobody would find the new boot good, or give it up", hint=hint)


def _refuse_line(name: str, target: BootTarget) -> None:
    what = f"cannot try {name}"
    if cmdline.stands_still(target.cmdline):
        why = "its command line has it stand still after a panic, or has no room for panic="
        raise Refusal(what, why, hint="add `--remove panic`, or make the line shorter")
    if cmdline.asks_for_repair(target.cmdline):
        raise Refusal(what, "its command line asks for a shell, which nobody would find good or give up")
