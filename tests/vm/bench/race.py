# SPDX-License-Identifier: MIT
"""One run from a contestant's start to the jump, and all the runs of a row, in turns."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.vm.bench import stage
from tests.vm.bench.contestants import Contestant
from tests.vm.bench.loads import Load
from tests.vm.bench.recipe import Pid1
from tests.vm.bench.results import Result, Row
from tests.vm.lab import evidence
from tests.vm.lab.errors import LabTimeout, QemuGone
from tests.vm.lab.image import Install
from tests.vm.lab.progress import say
from tests.vm.lab.snapshot import Snapshot

GO = "bench: go"
JUMP = "Starting new kernel"
COMMIT = "kexecd: commit point"
MACHINES = 3
"""Machines that the runs of a row go round: one that was started at another moment is up to a tenth faster or slower,
for all contestants, but not quite alike."""

SLOW = 10.0
"""Seconds from which on one run of a contestant is enough."""

# An emulator translates code when it sees it first, which no CPU does: each contestant's program is run once, for all,
# as far as it changes nothing. And what comes of that, as a new hand of kexecd's daemon, is waited for.
WARM_UP = """
kexecctl reboot --fast --dry-run
systemctl list-units; systemctl kexec --dry-run
kexec --version; umount --version; sync --version; killall5 -V; setsid true
sleep 3
"""


def race(load: Load, contestants: Sequence[Contestant], runs: int, install: Install, logs: Path) -> Row:
    """All runs of one row. What each guest said in its last one is left in `logs`."""
    times: dict[Contestant, list[float]] = {contestant: [] for contestant in contestants}
    downs: dict[Contestant, list[float]] = {contestant: [] for contestant in contestants}
    slower: dict[Contestant, str] = {}
    with _scratch() as directory:
        snapshots = {
            pid1: [
                stage.prepared(load, pid1, _made(directory / f"{pid1}-{number}"), install)
                for number in range(min(runs, MACHINES))
            ]
            for pid1 in Pid1
            if any(contestant.pid1 is pid1 for contestant in contestants)
        }
        for turn in range(runs):
            for contestant in contestants[:: -1 if turn % 2 else 1]:
                if contestant in slower or (times[contestant] and times[contestant][0] > SLOW):
                    continue
                machines = snapshots[contestant.pid1]
                seconds, down, what = run(machines[turn % len(machines)], contestant, load, logs)
                if seconds is None:
                    slower[contestant] = what
                else:
                    times[contestant].append(seconds)
                if down is not None:
                    downs[contestant].append(down)
                say(f"{load.name}: {contestant.title}: {what}")
    return Row(load, tuple(Result(c, tuple(times[c]), slower.get(c, ""), tuple(downs[c])) for c in contestants))


def run(
    snapshot: Snapshot, contestant: Contestant, load: Load, logs: Path
) -> tuple[float | None, float | None, str]:
    """Seconds to the jump, or None; those of them from kexecd's commit point; and that in words."""
    with _scratch() as workdir, stage.started(snapshot, workdir) as guest:
        guest.run("/bin/sh", "-c", WARM_UP, timeout=60)
        mark = guest.mark()
        try:
            guest.spawn("/bin/sh", "-c", f"echo '{GO}' > /dev/ttyS0; exec \"$@\"", "go", *contestant.command)
            go = guest.wait_for_line(f"^{GO}", mark, 30).at
            jump = guest.wait_for_line(JUMP, mark, load.limit).at
        except (LabTimeout, QemuGone):
            if evidence.event_time(guest.events(mark), "RESET") is not None:
                return None, None, "went through the firmware"
            return None, None, f"over {load.limit:g} s"
        finally:
            said = [f"{line.at - mark.at:8.3f} {line.text}\n" for line in guest.lines(mark)]
            name = f"{load.name}-{contestant.pid1}-{contestant.name}.log"
            (logs / name.replace(" ", "_").replace(";", "")).write_text("".join(said))
        commit = next((line.at for line in guest.lines(mark) if line.text.startswith(COMMIT)), None)
        down = None if commit is None else jump - commit
        return jump - go, down, f"{jump - go:.2f} s" + ("" if down is None else f", {down:.2f} s of it the way down")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kexecd-bench-") as directory:
        yield Path(directory)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
