# SPDX-License-Identifier: MIT
"""`make demo-live`: a key-value server keeps its table over kexecs, by the kernel's live update and by files.

The guest is Debian 12 with a kernel of our own, which has live update; compiling that takes ten minutes, once. Exits
with 1 if anything that it shows is not as it should be.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.vm.lab.evidence import Kind
from tests.vm.lab.guest import Guest
from tests.vm.lab.oracle import Restart
from tests.vm.liveupdate import stage
from tests.vm.liveupdate.many import COUNT, MIB, Figure, alone, figure

KEYS = 100_000
KERNEL = ("--kernel", stage.KERNEL)
FILES = (*KERNEL, "--append", "kho=off")


def main() -> int:
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="kexecd-demo-live-") as directory,
        stage.start(stage.SYSTEMD, Path(directory), live=True) as guest,
    ):
        good = _keys(guest)
        good = _figures(guest) and good
    print(f"\n{'All of it holds.' if good else 'NOT AS IT SHOULD BE.'} The demo took {time.monotonic() - begin:.0f} s.")
    return 0 if good else 1


def _keys(guest: Guest) -> bool:
    print(f"== Linux {guest.uname()}: examples/keyvalue has its table in a memfd, which kexecd-state holds", flush=True)
    stage.shell(guest, "fill", str(KEYS))
    before = stage.table(guest)
    print(f"  {before.keys} keys, {before.writes} writes, {before.checksum}")
    _show(guest, "state", "list")
    _show(guest, "state", "status")
    good = True
    for load, carrier in ((KERNEL, "memory"), (KERNEL, "memory"), (FILES, "file")):
        print(f"\n== kexecctl load {' '.join(load)}; kexecctl reboot --fast", flush=True)
        good = _goes(guest, before, carrier, stage.restart(guest, "--fast", load=load)) and good
    return good


def _goes(guest: Guest, before: stage.Sum, carrier: str, seen: Restart) -> bool:
    after, told = stage.table(guest), stage.status(guest)
    print(f"  {seen.explain()}")
    print(f"  {after.keys} keys, {after.writes} writes, {after.checksum}, by {told['carrier']}: {told['why']}")
    return seen.kind is Kind.KEXEC and not seen.recovered and after == before and told["carrier"] == carrier


def _figures(guest: Guest) -> bool:
    print(f"\n== {COUNT} memfds with {MIB} MiB, and none: seconds from the command to the jump", flush=True)
    alone(guest)
    rows: list[tuple[str, Figure]] = []
    for what, held, load in (("none", False, KERNEL), ("by memory", True, KERNEL), ("by file", True, FILES)):
        rows.append((what, figure(guest, held=held, load=load)))
        print(f"  {what:<10} {rows[-1][1].seconds:5.2f}", flush=True)
    carriers = [one.carrier for _, one in rows]
    return carriers == ["", "memory", "file"] and all(one.restart.kind is Kind.KEXEC for _, one in rows)


def _show(guest: Guest, *words: str) -> None:
    print(f"\n== kexecctl {' '.join(words)}")
    for line in guest.run(stage.KEXECCTL, *words, timeout=60).stdout.splitlines():
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
