# SPDX-License-Identifier: MIT
"""`python3 -m tests.vm.lab build|boot|shell`: the lab by hand."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.vm.lab.booted import booted
from tests.vm.lab.errors import LabError
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import BARE, GuestImage, build, project
from tests.vm.lab.packaged import administered
from tests.vm.lab.progress import say, step
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD, RECIPES, Init


def main() -> int:
    """Parse the command line and do what it says; exit code 1 when the lab fails."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.lab", description=__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default=DEBIAN12_SYSTEMD.name)
    parser.add_argument("--bare", action="store_true", help="leave the project out")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the image and its booted snapshot into the cache")
    boot = commands.add_parser("boot", help="boot from power-on and say how long it took")
    boot.add_argument("--append", default="", help="more words for the kernel command line")
    commands.add_parser("shell", help="run commands in a booted guest, one a line")
    options = parser.parse_args()
    try:
        recipe = RECIPES[options.recipe]
        # Without systemd kexecd takes part only if its scripts are enabled.
        install = project() if recipe.init is Init.SYSTEMD else administered(recipe.init)
        image = build(recipe, BARE if options.bare else install)
        with tempfile.TemporaryDirectory(prefix="lab-") as workdir:
            if options.command == "build":
                booted(image)
            elif options.command == "boot":
                _boot(image, Path(workdir), options.append)
            else:
                _shell(image, Path(workdir))
    except LabError as error:
        print(
            "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr
        )
        return 1
    return 0


def _boot(image: GuestImage, workdir: Path, append: str) -> None:
    started = time.monotonic()
    with Guest.start(image, workdir=workdir, extra_cmdline=append) as guest, step("boot"):
        mark = guest.mark()
        say(f"{guest.wait_for_line('Linux version', mark, 60).at - started:6.2f} s first kernel line")
        say(f"{guest.wait_for_line('Run /init', mark, 60).at - started:6.2f} s initrd")
        guest.wait_ready(180)
        say(f"{time.monotonic() - started:6.2f} s ready: {guest.uname()} ({guest.hardware.accel.name})")


def _shell(image: GuestImage, workdir: Path) -> None:
    with Guest.from_snapshot(booted(image), workdir=workdir) as guest:
        say(f"logs in {workdir}; end with ^D; .console shows the console")
        while guest.running:
            try:
                line = input("guest# ").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if line == ".console":
                print(guest.console_tail())
            elif line:
                _command(guest, line)


def _command(guest: Guest, line: str) -> None:
    try:
        done = guest.run("/bin/bash", "-c", line, check=False, timeout=120)
    except LabError as error:
        print(error, file=sys.stderr)
        return
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    if done.exit_code != 0:
        print(f"[exit code {done.exit_code}]", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
