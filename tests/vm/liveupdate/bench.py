# SPDX-License-Identifier: MIT
"""`make bench-live`: what live update and files take of the way to the jump, with much memory in many pieces.

The middle one of several restarts of one guest counts: beside none, by memory has to be within MOST. Exits with 1 if
it is not, or if something did not arrive. Nothing else may run on this machine meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.vm.lab.evidence import Kind
from tests.vm.liveupdate import stage
from tests.vm.liveupdate.many import COUNT, MIB, Series, alone, figure

MOST = 0.5
"""Seconds that live update may take of the way to the jump, in an emulated machine."""

KERNEL = ("--kernel", stage.KERNEL)
FILES = (*KERNEL, "--append", "kho=off")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.liveupdate.bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="restarts of each kind (default: 3)")
    runs = parser.parse_args().runs
    with (
        tempfile.TemporaryDirectory(prefix="kexecd-bench-live-") as directory,
        stage.start(stage.SYSTEMD, Path(directory), live=True) as guest,
    ):
        alone(guest)
        figure(guest, held=False, load=KERNEL)  # the first restart of a guest takes longer than any other
        # In turn: a machine that has become busier is so for each of them.
        kinds = ((False, KERNEL), (True, KERNEL), (True, FILES))
        rows = [[figure(guest, held=held, load=load) for held, load in kinds] for _ in range(runs)]
    none, memory, files = map(Series, ("none", "by memory", "by file"), zip(*rows, strict=True))
    print(f"to the jump, with {MIB} MiB in {COUNT} memfds: {none}; {memory}; {files}")
    good = all(one.restart.kind is Kind.KEXEC for row in rows for one in row)
    good = good and (memory.carriers, files.carriers) == ({"memory"}, {"file"})
    more = memory.seconds - none.seconds
    print(f"{'yes' if good else 'NO '}  each was a kexec, and all of it was there again")
    print(f"{'yes' if more < MOST else 'NO '}  by memory takes {more:.2f} s more than none, and may take {MOST:g} s")
    return 0 if good and more < MOST else 1


if __name__ == "__main__":
    sys.exit(main())
