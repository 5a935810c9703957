# SPDX-License-Identifier: MIT
"""`make soak`: one storage guest lives through many kexecs in a row; the first that is not clean ends it.

Prints a line for each, and at the end a summary; .cache/soak.json holds all of it. Exits with 1 if anything was lost,
replayed or late.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.vm.journey import WITHIN, Kexec, kexec, prepare
from tests.vm.lab.booted import booted
from tests.vm.lab.cache import REPO
from tests.vm.lab.errors import LabError
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import BARE, build
from tests.vm.lab.recipe import DEBIAN12_STORAGE

RESULT = REPO / ".cache" / "soak.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.soak", description=__doc__)
    parser.add_argument("kexecs", type=int, nargs="?", default=50, help="how many (50)")
    wanted = parser.parse_args().kexecs
    begin = time.monotonic()
    done: list[Kexec] = []
    snapshot = booted(build(DEBIAN12_STORAGE, BARE), cpus=1)
    with (
        tempfile.TemporaryDirectory(prefix="kexecd-soak-") as workdir,
        Guest.from_snapshot(snapshot, workdir=Path(workdir)) as guest,
    ):
        trouble = _walk(guest, wanted, done)
        if trouble:
            print(f"\n{trouble}\n\n--- the guest's console ---\n{guest.console_tail(400)}", flush=True)
    _keep(wanted, done, trouble, time.monotonic() - begin)
    print(_summary(wanted, done, time.monotonic() - begin))
    return 1 if trouble or len(done) < wanted else 0


def _walk(guest: Guest, wanted: int, done: list[Kexec]) -> str:
    """As many kexecs as are wanted; what went wrong, or nothing."""
    prepare(guest)
    for number in range(1, wanted + 1):
        try:
            seen = kexec(guest, number)
        except LabError as error:
            return f"kexec {number}: {type(error).__name__}: {error}"
        done.append(seen)
        print(seen.line(), flush=True)
        if seen.problems:
            return "\n".join((f"kexec {number}:", *seen.problems, seen.told))
    return ""


def _keep(wanted: int, done: Sequence[Kexec], trouble: str, seconds: float) -> None:
    result = {
        "wanted": wanted,
        "clean": sum(not seen.problems for seen in done),
        "within": WITHIN,
        "minutes": round(seconds / 60, 1),
        "trouble": trouble,
        "kexecs": [seen.as_json() for seen in done],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _summary(wanted: int, done: Sequence[Kexec], seconds: float) -> str:
    clean = sum(not seen.problems for seen in done)
    files = sum(content.files for seen in done for content in seen.said.values())
    replayed = sum(bool(seen.restart.recovered) for seen in done)
    lost = sum(bool(seen.lost) for seen in done)
    down = sorted(seen.down for seen in done if seen.down is not None)
    times = f"{down[0]:.1f} / {median(down):.1f} / {down[-1]:.1f} s" if down else "none"
    return (
        f"\n{clean} of {wanted} kexecs were clean, in {seconds / 60:.0f} minutes: {replayed} replayed a journal,"
        f" {lost} lost a file, of {files} files written.\nTo the jump, least / median / most: {times},"
        f" allowed: {WITHIN:g} s. All of it: {RESULT.relative_to(REPO)}"
    )


if __name__ == "__main__":
    sys.exit(main())
