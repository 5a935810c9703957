# SPDX-License-Identifier: MIT
"""python -m tests.vm.lab.kernel [--jobs N] [--twin]: build the lab's kernel, and print where it is."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from tests.vm.lab.errors import LabError
from tests.vm.lab.kernel.build import build


def main() -> int:
    parser = ArgumentParser(prog="python -m tests.vm.lab.kernel", description=__doc__)
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="compilers at a time (default: processors)")
    parser.add_argument("--twin", action="store_true", help="the kernel that cannot take over what the first hands it")
    options = parser.parse_args()
    try:
        kernel = build(twin=options.twin, jobs=options.jobs)
    except LabError as error:
        print(f"no kernel: {error}", file=sys.stderr)
        return 1
    print(f"{kernel.image} ({kernel.release}, {kernel.image.stat().st_size >> 10} KiB, luo-v{kernel.luo})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
