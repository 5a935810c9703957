# SPDX-License-Identifier: MIT
"""kexecctl history: what became of each restart that was to be a kexec, oldest first."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict

from kexecd import history as records
from kexecd.cli.output import local_time, print_json, print_table
from kexecd.errors import ExitCode, NotPermitted
from kexecd.history import Attempt
from kexecd.kernel import sysfs
from kexecd.report.words import seconds


def history(options: Namespace) -> ExitCode:
    if os.geteuid():
        raise NotPermitted("cannot tell what became of earlier restarts", "only root may read the records")
    past = records.attempts()
    if options.json:
        debt = records.debt(past, sysfs.boot_id())
        print_json({"attempts": [asdict(attempt) for attempt in past], "kexecs_since_firmware": debt})
        return ExitCode.OK
    if not past:
        print("nobody has tried a kexec here, as far as it is written down")
        return ExitCode.OK
    print_table([("asked for", "outcome", "way", "from", "to", "after", "why"), *(_row(attempt) for attempt in past)])
    return ExitCode.OK


def _row(attempt: Attempt) -> tuple[str, ...]:
    took = attempt.settled_at - attempt.requested_at
    return (
        local_time(attempt.requested_at),
        str(attempt.outcome) + (" (a trial)" if attempt.trial else ""),
        str(attempt.way),
        attempt.from_release,
        attempt.to_version or attempt.to_entry_id or "-",
        seconds(took) if took >= 0 else "-",  # else the clock was set
        attempt.reason or "-",
    )
