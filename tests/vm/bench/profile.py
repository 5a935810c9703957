# SPDX-License-Identifier: MIT
"""`python3 -m tests.vm.bench.profile [ROW]`: where the time of a `kexecctl reboot --fast` goes, part by part.

Two looks at the same guest. First at what is imported where there is no daemon, by Python's own -X importtime, in a run
that changes nothing. Then at a real restart by the daemon: calls that are known to cost something print a line when
they begin and when they end, and every line's time is the host's, as in the race.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.vm.bench import stage
from tests.vm.bench.contestants import FAST, KEXECCTL
from tests.vm.bench.loads import LOADS
from tests.vm.bench.race import GO, JUMP, WARM_UP
from tests.vm.bench.recipe import Pid1, project
from tests.vm.lab.cache import REPO
from tests.vm.lab.console import Line
from tests.vm.lab.guest import Guest

MARK = "bench: @"
LAUNCHER = "/usr/sbin/kexecd"

# module:function or module:Class.method of what is watched; what a version of kexecd does not have is passed over.
CALLS = (
    "kexecd.daemon.hand:serve",
    "kexecd.daemon.hand:_get_ready",
    "kexecd.cli.practice:go_down",
    "kexecd.cli.practice:write_down",
    "kexecd.daemon.hand:_take",
    "kexecd.cli.main:parser",
    "kexecd.cli.main:import_module",
    "kexecd.cli.reboot:draw_up",
    "kexecd.cli.draft:detect",
    "kexecd.cli.draft:read_policy",
    "kexecd.cli.draft:read_hooks",
    "kexecd.cli.draft:loaded_record",
    "kexecd.cli.draft:look_for",
    "kexecd.cli.draft:survey",
    "kexecd.cli.draft:build",
    "kexecd.cli.descent:_detach",
    "kexecd.teardown.survey:running",
    "kexecd.teardown.survey:terminals",
    "kexecd.teardown.graph:build_from",
    "kexecd.teardown.verdict:look",
    "kexecd.kernel.proc:scan",
    "kexecd.kernel.mountinfo:read",
    "kexecd.kernel.block:storage",
    "kexecd.kernel.block:live",
    "kexecd.kernel.namespaces:others",
    "kexecd.init.systemd:active_units",
    "kexecd.init.systemd:sort_out",
    "kexecd.init.systemd:needed_units",
    "kexecd.wayback.begin:record",
    "kexecd.wayback.begin:write",
    "kexecd.wayback.begin:hold_one_shot",
    "kexecd.wayback.watchdog:leave_running",
    "kexecd.handoff:write",
    "kexecd.handoff:expected",
    "kexecd.report.down:keep",
    "kexecd.daemon.child:leave_daemon",
    "kexecd.daemon.child:run",
    "kexecd.bus.signals:progress",
    "kexecd.cli.steps:in_child",
    "kexecd.teardown.processes:Everyone.__call__",
    "kexecd.teardown.processes:_Quitting._look",
    "kexecd.teardown.processes:_Quitting.ask",
    "kexecd.teardown.processes:_Quitting.tell_slowest",
    "kexecd.teardown.spare:Spare.renewed",
    "kexecd.teardown.spare:serving",
    "kexecd.teardown.watched:Watched.drop_ended",
    "kexecd.teardown.workers:_start",
    "kexecd.report.events:Sinks.__call__",
    "kexecd.report.log:Log.__call__",
    "kexecd.cli.descent:Standby",
    "kexecd.cli.descent:Door",
    "kexecd.kernel.syscalls:reboot",
    "kexecd.kernel.spawn:start",
    "kexecd.kernel.spawn:run",
)

# An import hook, so that each function is wrapped as soon as its module is there, before others take it by name.
DRIVER = """\
import os, resource, sys
def mark(text):
    out = os.open("/dev/ttyS0", os.O_WRONLY | os.O_NOCTTY)  # each time: kexecd's children close what is open
    used = resource.getrusage(resource.RUSAGE_SELF)
    cost = f"{(used.ru_utime + used.ru_stime) * 1000:.0f} ms {used.ru_minflt} faults"
    os.write(out, f"MARK{os.getpid()} {text} ({cost})\\n".encode())
    os.close(out)
mark("> python is up")
wanted = {}
for call in CALLS:
    module, _, name = call.partition(":")
    wanted.setdefault(module, []).append(name)
def watched(real, name):
    def call(*arguments, **options):
        mark(f"> {name}")
        try:
            return real(*arguments, **options)
        finally:
            mark(f"< {name}")
    return call
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name not in wanted:
            return None
        names = wanted.pop(name)
        from importlib.machinery import PathFinder
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                for each in names:
                    *above, last = each.split(".")
                    place = module
                    for part in above:
                        place = getattr(place, part, None)
                    if hasattr(place, last):
                        setattr(place, last, watched(getattr(place, last), f"{name}.{each}"))
            spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
sys.argv = ["kexecd"]
exec(compile(open("LAUNCHER").read(), "LAUNCHER", "exec"))
"""

IMPORT = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|(\s+)(\S+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.bench.profile", description=__doc__)
    parser.add_argument("row", nargs="?", default="idle", choices=[load.name for load in LOADS])
    parser.add_argument("--checkout", type=Path, default=REPO, metavar="DIR", help="measure the kexecd in DIR instead")
    parser.add_argument("--imports", type=int, default=40, metavar="N", help="how many modules to list (default: 40)")
    options = parser.parse_args()
    install = project(options.checkout)
    load = next(load for load in LOADS if load.name == options.row)
    with tempfile.TemporaryDirectory(prefix="kexecd-profile-") as directory:
        snapshot = stage.prepared(load, Pid1.SYSTEMD, _made(Path(directory) / "ready"), install)
        with stage.started(snapshot, _made(Path(directory) / "run")) as guest:
            guest.run("/bin/sh", "-c", WARM_UP, timeout=60)
            guest.run("systemctl", "stop", "kexecd.service")
            command = ("/usr/bin/python3", "-I", "-X", "importtime", KEXECCTL, "reboot", "--fast", "--dry-run")
            imports = guest.run(*command, timeout=60, check=False).stderr
            guest.put("/run/driver.py", DRIVER_TEXT.encode())
            guest.run("systemd-run", "--quiet", "--unit=profiled", "/usr/bin/python3", "-I", "/run/driver.py")
            up = "until [ -S /run/kexecd/request ]; do sleep 0.1; done; kexecctl status; sleep 1.5"
            guest.run("/bin/sh", "-c", up)
            lines = _restart(guest)
    print(*_modules(imports, options.imports), sep="\n")
    print()
    print(*_timeline(lines), sep="\n")
    return 0


DRIVER_TEXT = DRIVER.replace("MARK", MARK).replace("CALLS", repr(CALLS)).replace("LAUNCHER", LAUNCHER)


def _restart(guest: Guest) -> Sequence[Line]:
    mark = guest.mark()
    guest.spawn("/bin/sh", "-c", f"echo '{GO}' > /dev/ttyS0; exec \"$@\"", "go", *FAST.command)
    guest.wait_for_line(JUMP, mark, 60)
    return guest.lines(mark)


def _modules(importtime: str, most: int) -> Iterator[str]:
    """The modules that cost most by themselves, and sums; milliseconds of the guest."""
    found = [(int(match[1]) / 1000, match[4]) for match in IMPORT.finditer(importtime)]
    sums: dict[str, float] = defaultdict(float)
    for milliseconds, name in found:
        sums[".".join(name.split(".")[:2]) if name.startswith("kexecd.") else "Python's own"] += milliseconds
    yield f"imports: {sum(ms for ms, _ in found):.0f} ms, {len(found)} modules (`reboot --fast --dry-run`)"
    yield from (f"  {milliseconds:7.1f}  {name}" for name, milliseconds in sorted(sums.items(), key=lambda x: -x[1]))
    yield "of which the dearest, each without what it imports:"
    yield from (f"  {milliseconds:7.1f}  {name}" for milliseconds, name in sorted(found, reverse=True)[:most])


def _timeline(lines: Iterable[Line]) -> Iterator[str]:
    """Every line that says something, with milliseconds since the start and since the line before."""
    kept = [line for line in lines if line.text.startswith("bench: ") or "kexecd: " in line.text or "]" in line.text]
    begin = next(line.at for line in kept if line.text.startswith(GO))
    before = begin
    yield "a restart: milliseconds since the start, since the line before, and the line"
    for line in kept:
        yield f"  {(line.at - begin) * 1000:7.0f} {(line.at - before) * 1000:6.0f}  {line.text[:110]}"
        before = line.at


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


if __name__ == "__main__":
    sys.exit(main())
