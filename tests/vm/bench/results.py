# SPDX-License-Identifier: MIT
"""What the runs say: medians, how many times as long the others take, the table for people and the JSON. Pure.

    {"schema": 1, "accel": "tcg", "rows": [
        {"name": "idle", "title": "idle", "contestants": [
            {"name": "systemctl kexec", "pid1": "systemd", "runs": [1.81, 1.79], "seconds": 1.8, "failed": "",
             "times": 2.3, "down": null}]}],
     "goals": [{"goal": "idle: systemctl kexec takes at least 2 times as long", "met": true}]}

seconds: the median; null if it did not get to the jump, and `failed` says why. times: of what kexecd takes there.
down: of kexecd's own seconds those from the commit point on.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.vm.bench.contestants import FAST, Contestant
from tests.vm.bench.loads import Load


@dataclass(frozen=True)
class Result:
    """Seconds of each run, and why there are no more; downs: those from kexecd's commit point on, without its start."""

    contestant: Contestant
    runs: tuple[float, ...]
    failed: str = ""
    downs: tuple[float, ...] = ()

    @property
    def down(self) -> float | None:
        return statistics.median(self.downs) if self.downs else None

    @property
    def seconds(self) -> float | None:
        """The median; None where it did not get to the jump."""
        return statistics.median(self.runs) if self.runs and not self.failed else None

    def at_least(self, limit: float) -> float:
        """Seconds that it takes, or more than which it takes."""
        return limit if self.seconds is None else self.seconds


@dataclass(frozen=True)
class Row:
    load: Load
    results: tuple[Result, ...]

    def ours(self, beside: Result) -> Result | None:
        """Our --fast on the same machine as `beside`."""
        wanted = (FAST.name, beside.contestant.pid1)
        return next((r for r in self.results if (r.contestant.name, r.contestant.pid1) == wanted), None)

    def times(self, result: Result) -> float | None:
        """How many times as long as ours it takes, or more than how many; None where ours did not get there."""
        ours = self.ours(result)
        return result.at_least(self.load.limit) / ours.seconds if ours and ours.seconds else None


@dataclass(frozen=True)
class Goal:
    text: str
    met: bool


def goals(rows: Iterable[Row]) -> tuple[Goal, ...]:
    """What kexecd has promised, and whether it holds."""
    found = []
    for row in rows:
        for result in row.results:
            if result.contestant.ours or result.contestant.careless:
                continue
            least = row.load.goal(result.contestant.name)
            text = f"{row.load.name}: {result.contestant.title} takes at least {least:g} times as long"
            found.append(Goal(text, (row.times(result) or 0.0) >= least))
    return tuple(found)


def table(rows: Sequence[Row]) -> str:
    """A line for each contestant, a column for each row: seconds, and how many times ours that is."""
    contestants = dict.fromkeys(result.contestant for row in rows for result in row.results)
    head = ["seconds to the jump", *(row.load.title for row in rows)]
    body = []
    for contestant in contestants:
        body.append([contestant.title, *(_cell(row, contestant) for row in rows)])
        if contestant.ours:
            body.append(["  of which the way down", *(_down(row, contestant) for row in rows)])
    widths = [max(len(line[n]) for line in (head, *body)) for n in range(len(head))]
    lines = []
    for first, *cells in (head, *body):
        rest = (f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append(f"{first:<{widths[0]}}{''.join(rest)}")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], accel: str) -> dict[str, object]:
    return {
        "schema": 1,
        "accel": accel,
        "rows": [
            {
                "name": row.load.name,
                "title": row.load.title,
                "contestants": [
                    {
                        "name": result.contestant.name,
                        "pid1": str(result.contestant.pid1),
                        "runs": [round(seconds, 3) for seconds in result.runs],
                        "seconds": result.seconds and round(result.seconds, 3),
                        "down": result.down and round(result.down, 3),
                        "failed": result.failed,
                        "times": round(times, 2) if (times := row.times(result)) else None,
                    }
                    for result in row.results
                ],
            }
            for row in rows
        ],
        "goals": [{"goal": goal.text, "met": goal.met} for goal in goals(rows)],
    }


def _down(row: Row, contestant: Contestant) -> str:
    result = next((result for result in row.results if result.contestant == contestant), None)
    return f"{result.down:.2f} {'':>8}" if result and result.down is not None else ""


def _cell(row: Row, contestant: Contestant) -> str:
    result = next((result for result in row.results if result.contestant == contestant), None)
    if result is None:
        return ""
    if result.seconds is None and not result.failed.startswith("over"):
        return result.failed
    times = row.times(result)
    over = ">" if result.seconds is None else ""
    ratio = f"{over}{times:.1f} x" if times else "-"
    return f"{over}{result.at_least(row.load.limit):.2f} {ratio:>8}"
