# SPDX-License-Identifier: MIT
"""kexecctl: the command line, and the only place where a Refusal becomes a message and an exit status.

Each command's module is imported when it is called: cold start is part of the product (tests/perf/test_cold_start.py).
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module

from kexecd import __version__
from kexecd.errors import ExitCode, Refusal

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs more than this one
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable


class Command:
    """module: of kexecd.cli, with a function of the command's name. options: what adds them to its parser.

    function: its name, where the command's is a word of Python's.
    """

    def __init__(
        self,
        name: str,
        module: str,
        help: str,
        options: tuple[Callable[[ArgumentParser], object], ...],
        *,
        function: str = "",
    ) -> None:
        self.name, self.module, self.help, self.options, self.function = name, module, help, options, function or name


def _json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _root(parser: ArgumentParser) -> None:
    parser.add_argument("--root", default="/", metavar="DIR", help="look at the system below DIR instead of this one")


def _verbose(parser: ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="print ids, files and command lines too")


def _three_ways(parser: ArgumentParser) -> None:
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--fast", action="store_true", help="kexecd quits everything, in parallel, inside one deadline")
    way.add_argument("--now", action="store_true", help="nobody is asked: sync, everything read-only, jump")
    parser.add_argument("--within", type=float, metavar="SECONDS", help="the deadline of --fast (default: 10)")


def _way(parser: ArgumentParser) -> None:
    _three_ways(parser)
    parser.add_argument("--firmware", action="store_true", help="restart through the firmware, this once")


def _target(parser: ArgumentParser) -> None:
    parser.add_argument("entry", nargs="?", metavar="ENTRY", help="the id or version of a boot entry")
    parser.add_argument("--kernel", metavar="FILE", help="a kernel image, instead of an entry")
    parser.add_argument("--initrd", metavar="FILE", action="append", help="its initrd; repeat for several")
    parser.add_argument("--from", dest="from_root", metavar="DIR", help="boot the system that is mounted at DIR")
    parser.add_argument("--cmdline", metavar="LINE", help="use this command line instead of any other")
    parser.add_argument("--remove", metavar="KEY", action="append", help="take KEY, or KEY=VALUE, off the command line")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", help="put it there instead of every other KEY=")
    parser.add_argument("--append", metavar="WORDS", action="append", help="add to the command line")


def _ignore(parser: ArgumentParser) -> None:
    parser.add_argument("--ignore", metavar="CHECK", action="append", help="leave this check out; repeat for several")


def _list_checks(parser: ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="list the checks, and make none of them")


def _dry_run(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")


def _reboot(parser: ArgumentParser) -> None:
    _dry_run(parser)
    parser.add_argument("--force", action="store_true", help="jump even if a disk could not be closed")


def _service(parser: ArgumentParser) -> None:
    parser.add_argument("verb", choices=("start", "stop", "freeze", "status"), help="what the init has come to")
    parser.add_argument(
        "--going",
        choices=("reboot", "down", "stay", "ask"),
        default="ask",
        help="what this machine does next: restart, go down some other way, or stay; ask: look for it",
    )


def _deny(parser: ArgumentParser) -> None:
    parser.add_argument("verb", choices=("list", "forgive"), help="forgive: take off the list")
    parser.add_argument("which", nargs="?", metavar="WHICH", help="a version, an entry's id, or a digest's beginning")
    parser.add_argument("--all", action="store_true", help="forgive everything")


def _state(parser: ArgumentParser) -> None:
    verbs = ("put", "get", "drop", "list", "status", "serve")
    parser.add_argument("verb", choices=verbs, help="serve: hold what is handed over, until the jump")
    parser.add_argument("name", nargs="?", metavar="NAME", help="what it is called")
    parser.add_argument("file", nargs="?", metavar="FILE", help="instead of the standard input or output")
    parser.add_argument("--fd", type=int, metavar="N", help="put: hand over the very memfd that this descriptor is")
    parser.add_argument("--uid", type=int, metavar="UID", help="get, drop: another user's, for root")
    parser.add_argument("--background", action="store_true", help="serve: return when it can be asked")
    parser.add_argument("--socket", default="/run/kexecd/state", metavar="PATH", help="where the holder listens")


def _confirm(parser: ArgumentParser) -> None:
    parser.add_argument("--accept", action="store_true", help="it is good: do not wait, do not check")


def _plot(parser: ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", default="", metavar="FILE", help="where to write it, instead of to stdout")


def _write(parser: ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="where kexecd.yaml says, and keep what they are of")


COMMANDS = (
    Command("entries", "entries", "what could be booted, and which one would be", (_root, _verbose, _json)),
    Command("plan", "plan", "what a reboot would do, step by step", (_target, _way, _ignore, _root, _json)),
    Command("load", "image", "put a kernel into memory for the next kexec", (_target, _ignore, _json)),
    Command("unload", "image", "take it out again", (_json,)),
    Command("config", "config", "the settings in effect, and where each comes from", (_root, _json)),
    Command("status", "status", "what is loaded, and how this boot was reached", (_json,)),
    Command("reboot", "reboot", "restart into the new kernel", (_target, _way, _reboot, _ignore, _json)),
    Command(
        "try",
        "trial",
        "restart into a kernel this once, and back on anything but success",
        (_target, _three_ways, _dry_run, _ignore, _json),
        function="trial",
    ),
    Command("deny", "deny", "kernels that have failed, and into which there is no kexec", (_deny, _json)),
    Command("hooks", "hooks", "the administrator's own steps, in order", (_root, _json)),
    Command("service", "service", "what the services of an init call on its way up and down", (_service, _json)),
    Command(
        "check",
        "check",
        "whether this machine may be restarted so: named checks",
        (_target, _way, _ignore, _list_checks, _root, _json),
    ),
    Command("finish", "finish", "in the new kernel: let the hooks take up again what they laid aside", (_json,)),
    Command("state", "state_command", "memory that applications hand over a restart", (_state, _json)),
    Command("report", "report", "how this boot came about, and how long each part of that took", (_json,)),
    Command("history", "history", "what became of each restart that was to be a kexec", (_json,)),
    Command("plot", "plot", "the restart that led to this boot, as a picture (SVG)", (_plot, _json)),
    Command("metrics", "metrics", "the same in numbers, for Prometheus", (_write, _json)),
    Command("confirm", "confirm", "in the new kernel: find it good, or go back to the old one", (_confirm, _json)),
    Command("cancel", "cancel", "take a restart back, as long as nobody has been asked to quit", (_json,)),
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status, an ExitCode."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"kexecctl {__version__}")
        return ExitCode.OK
    options = parser(arguments[0] if arguments else "").parse_args(arguments)

    def run() -> ExitCode:
        command: Callable[[Namespace], ExitCode]
        command = getattr(import_module(f"kexecd.cli.{options.module}"), options.function)
        return command(options)

    return outcome(run, as_json=getattr(options, "json", False))


def outcome(run: Callable[[], ExitCode], *, as_json: bool) -> ExitCode:
    """The exit status of what is run, which is told why if it is refused."""
    try:
        return run()
    except Refusal as refusal:
        return refused(refusal, as_json=as_json)
    except BrokenPipeError:  # `kexecctl plan | head`
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.FAILURE


_parsers: dict[str, ArgumentParser] = {}
"""Those that have been made: the daemon makes one for all requests."""


def parser(asked: str = "") -> ArgumentParser:
    """Of all commands, or of the one that is asked for: the others' options cost as much as some of them do."""
    if asked not in _parsers:
        _parsers[asked] = _make_parser(asked)
    return _parsers[asked]


def _make_parser(asked: str) -> ArgumentParser:
    from argparse import ArgumentParser, HelpFormatter

    # Told its width, argparse does not import shutil, and with it every compressor, to find that out.
    def formatter(prog: str) -> HelpFormatter:
        return HelpFormatter(prog, width=_columns() - 2)

    about = "Restart Linux into the right kernel, without the firmware."
    top = ArgumentParser(prog="kexecctl", description=about, formatter_class=formatter)
    top.add_argument("--version", action="version", version=f"kexecctl {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in [one for one in COMMANDS if one.name == asked] or COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            formatter_class=formatter,
            allow_abbrev=False,
        )
        sub.set_defaults(module=command.module, function=command.function)
        for add in command.options:
            add(sub)
    return top


def _columns() -> int:
    """Of the terminal, as shutil.get_terminal_size has it."""
    with contextlib.suppress(ValueError):
        if (told := int(os.environ.get("COLUMNS", "0"))) > 0:
            return told
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def refused(refusal: Refusal, *, as_json: bool) -> ExitCode:
    if as_json:
        import json

        print(json.dumps({"schema": 1, "refused": refusal.as_json()}))
    print(f"kexecctl: {refusal.sentence()}", file=sys.stderr)
    if refusal.hint:
        print(f"  hint: {refusal.hint}", file=sys.stderr)
    return refusal.exit_code
