# SPDX-License-Identifier: MIT
"""How a report says it: durations, and a restart in one line."""

from __future__ import annotations

from kexecd.report.timeline import Gap, Part, Timeline

TITLES = {
    Part.DOWN: "way down",
    Part.GAP: "gap",
    Part.KERNEL: "kernel",
    Part.INITRD: "initrd",
    Part.USERSPACE: "userspace",
    Part.CHECKS: "checks",
}


def seconds(value: float) -> str:
    """With as many digits as a person wants: "0.012 s", "0.41 s", "8.3 s", "4 min 05 s"."""
    if value < 0.0995:
        return f"{value:.3f} s"
    if value < 9.95:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def known_by(gap: Gap) -> str:
    """"2.31 s (give or take 0.002 s)", or that nobody can tell how exact it is."""
    if gap.error is None:
        return f"{seconds(gap.span.seconds)} (nobody can tell how exact that is)"
    return f"{seconds(gap.span.seconds)} (give or take {seconds(gap.error)})"


def headline(timeline: Timeline) -> str:
    """"Linux 6.1.0 to Linux 6.12.9 by kexec, --fast"."""
    if not timeline.from_release:
        return f"Linux {timeline.release}"
    way = f", --{timeline.way}" if timeline.way in ("fast", "now") else ""
    how = "by kexec" if timeline.kexec else "through the firmware"
    return f"Linux {timeline.from_release} to Linux {timeline.release} {how}{way}"
