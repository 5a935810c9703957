# SPDX-License-Identifier: MIT
"""kexecctl: the command line, and the only place where a Refusal becomes a message and an exit status.

Each command's module is imported when it is called: cold start is part of the product (tests/perf/test_cold_start.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from kexecd import __version__
from kexecd.errors import ExitCode, Refusal

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


class Command(NamedTuple):
    name: str
    module: str  # of kexecd.cli, with a function of the command's name
    help: str
    options: tuple[Callable[[ArgumentParser], object], ...]


def _json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _root(parser: ArgumentParser) -> None:
    parser.add_argument("--root", default="/", metavar="DIR", help="look at the system below DIR instead of this one")


def _verbose(parser: ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="print ids, files and command lines too")


def _way(parser: ArgumentParser) -> None:
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--fast", action="store_true", help="kexecd quits everything, in parallel, inside one deadline")
    way.add_argument("--now", action="store_true", help="nobody is asked: sync, everything read-only, jump")
    parser.add_argument("--firmware", action="store_true", help="restart through the firmware, this once")
    parser.add_argument("--within", type=float, metavar="SECONDS", help="the deadline of --fast (default: 10)")


def _target(parser: ArgumentParser) -> None:
    parser.add_argument("entry", nargs="?", metavar="ENTRY", help="the id or version of a boot entry")
    parser.add_argument("--kernel", metavar="FILE", help="a kernel image, instead of an entry")
    parser.add_argument("--initrd", metavar="FILE", action="append", help="its initrd; repeat for several")
    parser.add_argument("--from", dest="from_root", metavar="DIR", help="boot the system that is mounted at DIR")
    parser.add_argument("--cmdline", metavar="LINE", help="use this command line instead of any other")
    parser.add_argument("--remove", metavar="KEY", action="append", help="take KEY, or KEY=VALUE, off the command line")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", help="put it there instead of every other KEY=")
    parser.add_argument("--append", metavar="WORDS", action="append", help="add to the command line")


def _reboot(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
    parser.add_argument("--force", action="store_true", help="jump even if a disk could not be closed")


COMMANDS = (
    Command("entries", "entries", "what could be booted, and which one would be", (_root, _verbose, _json)),
    Command("plan", "plan", "what a reboot would do, step by step", (_target, _way, _root, _json)),
    Command("load", "image", "put a kernel into memory for the next kexec", (_target, _json)),
    Command("unload", "image", "take it out again", (_json,)),
    Command("config", "config", "the settings in effect, and where each comes from", (_root, _json)),
    Command("status", "status", "what is loaded, and how this boot was reached", (_json,)),
    Command("reboot", "reboot", "restart into the new kernel", (_target, _way, _reboot, _json)),
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status, an ExitCode."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"kexecctl {__version__}")
        return ExitCode.OK
    options = parser().parse_args(arguments)
    try:
        run: Callable[[Namespace], ExitCode] = getattr(import_module(f"kexecd.cli.{options.module}"), options.command)
        return run(options)
    except Refusal as refusal:
        return refused(refusal, as_json=getattr(options, "json", False))
    except BrokenPipeError:  # `kexecctl plan | head`
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.FAILURE


def parser() -> ArgumentParser:
    from argparse import ArgumentParser

    top = ArgumentParser(prog="kexecctl", description="Restart Linux into the right kernel, without the firmware.")
    top.add_argument("--version", action="version", version=f"kexecctl {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        sub.set_defaults(module=command.module)
        for add in command.options:
            add(sub)
    return top


def refused(refusal: Refusal, *, as_json: bool) -> ExitCode:
    if as_json:
        import json

        print(json.dumps({"schema": 1, "refused": refusal.as_json()}, indent=2))
    print(f"kexecctl: {refusal.sentence()}", file=sys.stderr)
    if refusal.hint:
        print(f"  hint: {refusal.hint}", file=sys.stderr)
    return refusal.exit_code
