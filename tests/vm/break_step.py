# SPDX-License-Identifier: MIT
"""In a guest: `kexecctl reboot` with one step of its plan broken. Prints the places, or walks.

    break_step.py list before|after ARGUMENTS...
    break_step.py NUMBER FAULT ARGUMENTS...
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

sys.path.insert(0, "/usr/lib/kexecd")

from faults import Fault, broken, places  # type: ignore[import-not-found] # delivered beside this file

from kexecd.cli.choosing import boot_partitions
from kexecd.cli.descent import go_down
from kexecd.cli.draft import draw_up
from kexecd.cli.main import parser
from kexecd.errors import Refusal
from kexecd.lock import hold
from kexecd.record import RUN_DIR


def main(first: str, second: str, *arguments: str) -> int:
    options = parser().parse_args(["reboot", "--json", *arguments])
    with hold(RUN_DIR, "restart this machine"):
        with boot_partitions():
            draft = draw_up(options)
        if first == "list":
            print(json.dumps(places(draft.plan, committed=second == "after")))
            return 0
        draft = replace(draft, plan=broken(draft.plan, int(first), Fault(second)))
        try:
            return go_down(draft, force=options.force, as_json=True)
        except Refusal as refusal:
            print(json.dumps({"refused": refusal.as_json()}))
            return refusal.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
