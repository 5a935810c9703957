# SPDX-License-Identifier: MIT
"""The story and the history as Prometheus' text exposition format 0.0.4, for the node exporter's textfile collector.
Pure.

All are gauges: what is counted is what the history still has, of which the oldest goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kexecd.history import Attempt, Outcome
from kexecd.report.story import Story

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One gauge and its samples."""

    name: str
    help: str
    samples: tuple[tuple[Labels, float], ...]


def exposition(story: Story, past: Sequence[Attempt], *, denied: int) -> str:
    """The whole file. denied: kernels on the deny list."""
    return "".join(line + "\n" for metric in metrics(story, past, denied=denied) for line in _lines(metric))


def metrics(story: Story, past: Sequence[Attempt], *, denied: int) -> tuple[Metric, ...]:
    """Those of which nobody knows anything are left out."""
    timeline, arrival = story.timeline, story.arrival
    way = str(arrival.pending.way) if arrival.pending and arrival.pending.nonce else ""
    confirmed = story.attempt is not None and story.attempt.outcome is Outcome.CONFIRMED
    counted = Counter((attempt.outcome, attempt.way) for attempt in past)
    newest = {attempt.outcome: attempt.settled_at for attempt in past}
    gap = timeline.gap
    made = (
        Metric(
            "kexecd_boot_info",
            "How this boot came about; always 1.",
            (((("how", str(arrival.how)), ("release", story.up.release), ("way", way)), 1.0),),
        ),
        _one("kexecd_boot_time_seconds", "When this boot's kernel started, since the epoch.", story.up.moment.start),
        _one("kexecd_boot_by_kexec", "Whether a kexec of kexecd's led to this boot.", float(story.came_by_kexec)),
        _one("kexecd_boot_confirmed", "Whether that kexec has been confirmed.", float(confirmed)),
        Metric(
            "kexecd_restart_part_seconds",
            "How long each part of the restart that led to this boot took.",
            tuple(((("part", str(part)),), span.seconds) for part, span in timeline.parts),
        ),
        Metric(
            "kexecd_restart_phase_seconds",
            "How long each phase of the way down to it took.",
            tuple(((("phase", name),), took) for name, took in _phases(story).items()),
        ),
        _one("kexecd_restart_gap_error_seconds", "By how much its gap may be wrong.", gap.error if gap else None),
        _one(
            "kexecd_restart_downtime_seconds",
            "From its commit point until the usual services were there.",
            timeline.downtime,
        ),
        Metric(
            "kexecd_attempts",
            "Restarts that were to be a kexec, as far as the history goes back.",
            tuple(
                ((("outcome", str(outcome)), ("way", str(way))), float(number))
                for (outcome, way), number in sorted(counted.items())
            ),
        ),
        Metric(
            "kexecd_last_attempt_time_seconds",
            "When the last one of each outcome was settled, since the epoch.",
            tuple(((("outcome", str(outcome)),), at) for outcome, at in sorted(newest.items())),
        ),
        _one("kexecd_kexecs_since_firmware", "Kexecs since the firmware last had its turn.", float(story.debt)),
        _one("kexecd_denied_kernels", "Kernels on the deny list.", float(denied)),
    )
    return tuple(metric for metric in made if metric.samples)


def _one(name: str, help: str, value: float | None) -> Metric:
    return Metric(name, help, () if value is None else (((), value),))


def _phases(story: Story) -> dict[str, float]:
    """By name: one that was walked twice counts as one."""
    took: dict[str, float] = {}
    for stage in story.timeline.stages:
        took[stage.span.name] = took.get(stage.span.name, 0.0) + stage.span.seconds
    return took


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} gauge"
    for labels, value in metric.samples:
        told = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
        yield f"{metric.name}{{{told}}} {round(value, 6)!r}" if told else f"{metric.name} {round(value, 6)!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
