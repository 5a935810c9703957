# SPDX-License-Identifier: MIT
"""kexecctl deny: the kernels into which no kexec is made on this machine, because one has failed.

    list             which, since when, and why
    forgive WHICH    take one off the list: its version, its entry, its digest's beginning, or the attempt's nonce
    forgive --all    empty it

Where there is one only, `forgive` needs no name. As JSON, of `list` what is denied and of `forgive` what no longer is:

    {"schema": 1, "denied": [{"version": "6.2.0", "entry": "linux-6.2", "kernel_sha256": "...", "reason": "...",
                              "since": 1700000000.0, "nonce": "...", "here": true}, ...]}

here: whether it is about this machine with the firmware that it has now.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace

from kexecd import deny as records
from kexecd import handoff
from kexecd.cli.output import print_json, print_table, shown
from kexecd.deny import Denial
from kexecd.errors import Busy, ExitCode, NotPermitted, Refusal
from kexecd.handoff import Unreadable
from kexecd.kernel.flocks import StillHeld
from kexecd.kernel.machine import fingerprint

LIST, FORGIVE = "list", "forgive"


def deny(options: Namespace) -> ExitCode:
    if os.geteuid():
        raise NotPermitted(f"cannot {options.verb} what is denied", "only root may", hint="try again with sudo")
    if options.verb == LIST:
        return _list(options)
    if options.all and options.which:
        raise Refusal("cannot forgive", "either a name or --all", exit_code=ExitCode.USAGE)
    try:
        with handoff.locked():
            forgiven = records.forgive_all() if options.all else _forgive(options.which)
    except StillHeld as error:
        raise Busy("cannot forgive", str(error)) from error
    except OSError as error:
        what, why = "cannot forgive", f"the list cannot be written: {(error.strerror or str(error)).lower()}"
        raise Refusal(what, why, errno=error.errno or 0) from error
    if options.json:
        print_json(_as_json(forgiven))
    else:
        for denial in forgiven:
            print(f"forgiven: {shown(_called(denial))}")
        if not forgiven:
            print("nothing is denied")
    return ExitCode.OK


def _forgive(which: str | None) -> tuple[Denial, ...]:
    listed = _read()
    if which is None:
        if len(listed) > 1:
            why = f"{len(listed)} kernels are denied"
            raise Refusal("cannot forgive", why, hint="say which, or --all", exit_code=ExitCode.USAGE)
        return records.forgive_all()
    if forgiven := records.forgive(which):
        return forgiven
    what, why = f"cannot forgive {which}", "nothing that is denied is called so"
    raise Refusal(what, why, hint="`kexecctl deny list` lists what is denied", exit_code=ExitCode.NO_ENTRY)


def _list(options: Namespace) -> ExitCode:
    listed = _read()
    if options.json:
        print_json(_as_json(listed))
        return ExitCode.OK
    here = fingerprint()
    rows = []
    for denial in listed:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(denial.since))
        where = "" if denial.machine == here else "of another machine or firmware: it may be booted here"
        rows += [(_called(denial), when, denial.reason), *([("", "", where)] if where else [])]
    print_table(rows)
    if not listed:
        print("nothing is denied")
    return ExitCode.OK


def _read() -> tuple[Denial, ...]:
    try:
        return records.denials()
    except Unreadable as error:
        path, hint = os.path.join(handoff.STATE_DIR, records.DENY), "`kexecctl deny forgive --all` begins a new list"
        raise Refusal("cannot tell what is denied", f"{path} cannot be read: {error}", hint=hint) from error


def _called(denial: Denial) -> str:
    return denial.version or denial.entry_id or denial.nonce


def _as_json(denials: tuple[Denial, ...]) -> dict[str, object]:
    here = fingerprint()
    return {
        "denied": [
            {
                "version": denial.version,
                "entry": denial.entry_id,
                "kernel_sha256": denial.kernel_sha256,
                "reason": denial.reason,
                "since": denial.since,
                "nonce": denial.nonce,
                "here": denial.machine == here,
            }
            for denial in denials
        ]
    }
