# SPDX-License-Identifier: MIT
"""`make bench [ROWS="idle busy"] [RUNS=3]`: the table on stdout, .cache/bench.json, what guests said in .cache/bench/.

Exits with 1 if kexecd does not keep what it promises (loads.Load.goal), or if a row could not be measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from tests.vm.bench import race, results
from tests.vm.bench.contestants import CONTESTANTS
from tests.vm.bench.loads import LOADS
from tests.vm.bench.recipe import RECIPE, project
from tests.vm.lab.accel import best_accel
from tests.vm.lab.cache import REPO
from tests.vm.lab.errors import LabError
from tests.vm.lab.image import BARE, build

OUTPUT = REPO / ".cache" / "bench.json"
LOGS = REPO / ".cache" / "bench"


def main() -> int:
    names = [load.name for load in LOADS]
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"which rows (default: all of {', '.join(names)})")
    parser.add_argument("--runs", type=int, default=3, help="of each contestant that is not slow (default: 3)")
    parser.add_argument("--only", default="", metavar="WORD", help="contestants with WORD in their name, and --fast")
    parser.add_argument("--checkout", type=Path, default=REPO, metavar="DIR", help="measure the kexecd in DIR instead")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(names):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # guests end with whoever started them
    begin = time.monotonic()
    contestants = [c for c in CONTESTANTS if options.only in c.name or "--fast" in c.name]
    LOGS.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    for load in LOADS:
        if load.name in (options.rows or names):
            try:
                rows.append(race.race(load, contestants, options.runs, project(options.checkout), LOGS))
            except LabError as error:  # of this row alone: the others have taken many minutes
                told = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]
                print("\n".join(told), file=sys.stderr)
                failed = True
    if not rows:
        return 1
    accel = best_accel(build(RECIPE, BARE).kernel).name
    OUTPUT.write_text(json.dumps(results.as_json(rows, accel), indent=2) + "\n")
    print(f"\n{results.table(rows)}\n")
    for goal in results.goals(rows):
        print(f"  {'yes' if goal.met else 'NO '}  {goal.text}")
    print("\nThe new kernel was loaded before by `kexecctl load`, which has started kexecd's daemon.")
    print(f"{options.runs} runs each, the median; guests under {accel}; {time.monotonic() - begin:.0f} s all in all.")
    return 0 if all(goal.met for goal in results.goals(rows)) and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
