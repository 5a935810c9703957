# SPDX-License-Identifier: MIT
"""A timeline as a picture: SVG 1.1, complete in itself, for a browser, rsvg-convert or an issue report. Pure.

Rows from top to bottom are time from left to right: the phases of the way down with the slowest processes below each,
the gap, the kernel, the initrd, and userspace with its slowest services. A bar on top shows what the whole is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from kexecd.report.clock import By
from kexecd.report.timeline import Part, Span, Timeline
from kexecd.report.words import TITLES, headline, known_by, seconds

WIDTH, LEFT, RIGHT = 1240, 230, 1160  # pixels: of the picture, and where the axis begins and ends
TOP = 150  # where the rows begin
ROW, THIN = 24, 18  # heights of a row: of a part or a phase, and of something in it
BAR, THIN_BAR = 16, 9
LONGEST_NAME = 32  # characters of a row's name; what processes are called is anybody's
MOST_SLOW = 8  # rows for processes in a phase
LETTER = 6.6  # pixels that one takes on average at 12px

TICKS = 14  # at most
SHORT = 0.001  # seconds: an axis is never shorter

COLOURS = {
    Part.DOWN: "#c2410c",
    Part.GAP: "#6b7280",
    Part.KERNEL: "#1d4ed8",
    Part.INITRD: "#0e7490",
    Part.USERSPACE: "#15803d",
    Part.CHECKS: "#7e22ce",
}
PALE = {Part.DOWN: "#fdba74", Part.USERSPACE: "#86efac"}
FAILED = "#b91c1c"
STYLE = (
    "text{font:12px 'DejaVu Sans',Verdana,sans-serif;fill:#111827}.t{font-size:18px;font-weight:bold}"
    ".s{font-size:12px;fill:#4b5563}.p{font-weight:bold}.c{fill:#4b5563;font-size:11px}.w{fill:#fff;font-weight:bold}"
    ".g{stroke:#e5e7eb}.m{stroke-dasharray:4 3;stroke-width:1.5}.h{paint-order:stroke;stroke:#fff;stroke-width:5px}"
    ".e{text-anchor:end}.x{text-anchor:middle}"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the picture."""

    span: Span
    part: Part
    name: str
    thin: bool = False  # something in the row above
    label: str = ""


def svg(timeline: Timeline, *, title: str = "") -> str:
    """title: what happened, in a line; without one it is taken from the timeline."""
    drawing = _Drawing(timeline)
    rows = tuple(_rows(timeline))
    bottom = TOP + sum(THIN if row.thin else ROW for row in rows)
    height = bottom + 78
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
        f"<title>{_clean(title or headline(timeline))}</title>",
        f"<style>{STYLE}</style>",
        '<defs><pattern id="gap" width="8" height="8" patternTransform="rotate(45)" patternUnits="userSpaceOnUse">'
        '<rect width="8" height="8" fill="#e5e7eb"/><rect width="3" height="8" fill="#6b7280"/></pattern></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(24, 32, title or headline(timeline), "t"),
        _text(24, 54, _summary(timeline), "s"),
        *drawing.overview(),
        *drawing.marks(bottom),
        *drawing.grid(bottom + 8),
    ]
    top = TOP
    for row in rows:
        body += drawing.row(row, top)
        top += THIN if row.thin else ROW
    body += [_text(24, height - 34 + 16 * number, line, "c") for number, line in enumerate(_footnotes(timeline))]
    return "\n".join([*body, "</svg>", ""])


def _rows(timeline: Timeline) -> Iterator[Row]:
    for stage in timeline.stages:
        span = stage.span
        yield Row(span, Part.DOWN, span.name, label=_label(span))
        for slow in sorted(stage.slowest[:MOST_SLOW], key=lambda one: one.begin):
            yield Row(slow, Part.DOWN, slow.name, thin=True, label=seconds(slow.seconds))
    for part, span in timeline.parts:
        if part is Part.DOWN and timeline.stages:
            continue
        label = known_by(timeline.gap) if part is Part.GAP and timeline.gap else seconds(span.seconds)
        yield Row(span, part, TITLES[part], label=label)
        for service in timeline.services if part is Part.USERSPACE else ():
            yield Row(service, part, service.name, thin=True, label=seconds(service.seconds))


def _label(span: Span) -> str:
    return f"{seconds(span.seconds)}, failed: {span.text}" if span.failed else seconds(span.seconds)


def _summary(timeline: Timeline) -> str:
    told = [f"{TITLES[part]} {seconds(span.seconds)}" for part, span in timeline.parts]
    if timeline.downtime is not None:
        told.append(f"from the commit point to the usual services {seconds(timeline.downtime)}")
    return ", ".join(told)


def _footnotes(timeline: Timeline) -> Iterator[str]:
    if gap := timeline.gap:
        what = gap.span.text or "the disks are closed, the jump, and the new kernel until its clock starts"
        if gap.before and not gap.span.text:
            what = f"{', '.join(gap.before)}; then the jump, and the new kernel until its clock starts"
        yield f"The gap: {what}. It took {known_by(gap)}, {gap.by.sentence}."
    if timeline.source:
        yield f"The way up as {timeline.source} told it."


class _Drawing:
    """The axis of one picture, and what is drawn along it."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        ends = [span.end for _, span in timeline.parts] + [span.end for span in timeline.services]
        self._end = max([*ends, timeline.confirmed or 0.0, SHORT])

    def x(self, at: float) -> float:
        return LEFT + (RIGHT - LEFT) * min(max(at, 0.0), self._end) / self._end

    def overview(self) -> Iterator[str]:
        """One bar with all parts, each with its name and its time where there is room for them."""
        for part, span in self._timeline.parts:
            left, width = self.x(span.begin), self._width(span)
            fill = "url(#gap)" if part is Part.GAP else COLOURS[part]
            yield f'<rect x="{left:.1f}" y="72" width="{width:.1f}" height="30" fill="{fill}"/>'
            text = f"{TITLES[part]} {seconds(span.seconds)}"
            text = text if len(text) * LETTER + 8 < width else TITLES[part]
            if len(text) * LETTER + 8 < width:
                middle = left + width / 2
                if part is Part.GAP:
                    paper = len(text) * LETTER + 8
                    yield (
                        f'<rect x="{middle - paper / 2:.1f}" y="79" width="{paper:.1f}" height="17" fill="#ffffff"/>'
                    )
                yield _text(middle, 91, text, "x" if part is Part.GAP else "x w")

    def grid(self, bottom: float) -> Iterator[str]:
        step = tick(self._end)
        for number in range(int(self._end / step + 1e-6) + 1):
            at = number * step
            x = self.x(at)
            yield f'<line class="g" x1="{x:.1f}" y1="{TOP - 14}" x2="{x:.1f}" y2="{bottom:.1f}"/>'
            yield _text(x, TOP - 20, f"{at:.10g} s", "c x h")

    def row(self, row: Row, top: float) -> Iterator[str]:
        height, bar = (THIN, THIN_BAR) if row.thin else (ROW, BAR)
        left, width = self.x(row.span.begin), self._width(row.span)
        base = top + height / 2 + 4
        yield _text(LEFT - 10, base, _shortened(row.name), "c e" if row.thin else "p e")
        fill = PALE.get(row.part, COLOURS[row.part]) if row.thin else COLOURS[row.part]
        fill = "url(#gap)" if row.part is Part.GAP else FAILED if row.span.failed else fill
        y = top + (height - bar) / 2
        hint = f"{row.name}: {seconds(row.span.seconds)}{f', {row.span.text}' if row.span.text else ''}"
        yield (
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{bar}" fill="{fill}">'
            f"<title>{_clean(hint)}</title></rect>"
        )
        if row.part is Part.GAP:
            yield from self._whisker(top + height / 2)
        # Right of the bar, or left of it where that is out of the picture.
        label, style = row.label, "c h" if row.thin else "h"
        room = (WIDTH - 16 - left - width) / LETTER
        if row.part is Part.GAP:
            width += self.x(self._error()) - LEFT
        if len(label) > room and left - LEFT > (RIGHT - LEFT) / 2:
            yield _text(left - 6, base, _shortened(label, 100), f"{style} e")
        else:
            yield _text(left + width + 6, base, _shortened(label, max(8, int(room))), style)

    def marks(self, bottom: float) -> Iterator[str]:
        """Moments, as lines through all rows."""
        for at, name, colour in (
            (self._timeline.committed, "commit point", "#c2410c"),
            (self._timeline.confirmed, "confirmed", "#7e22ce"),
        ):
            if at is not None:
                x = self.x(at)
                yield f'<line class="m" stroke="{colour}" x1="{x:.1f}" y1="106" x2="{x:.1f}" y2="{bottom:.1f}"/>'
                anchor = "e" if x > WIDTH / 2 else ""
                yield _text(x - 5 if anchor else x + 5, 117, name, f"c {anchor}".strip())

    def _whisker(self, y: float) -> Iterator[str]:
        """How far the end of the gap may be off."""
        gap, error = self._timeline.gap, self._error()
        if gap and error:
            left, right = self.x(gap.span.end - error), self.x(gap.span.end + error)
            yield (
                f'<path d="M{left:.1f} {y - 5:.1f}v10M{left:.1f} {y:.1f}H{right:.1f}M{right:.1f} {y - 5:.1f}v10"'
                ' stroke="#111827" fill="none"/>'
            )

    def _error(self) -> float:
        gap = self._timeline.gap
        return gap.error or 0.0 if gap and gap.by is not By.UNKEPT else 0.0

    def _width(self, span: Span) -> float:
        return max(1.5, self.x(span.end) - self.x(span.begin))


def tick(length: float) -> float:
    """Seconds from one line of the grid to the next: 1, 2 or 5 by a power of ten."""
    step = 1e-4
    while True:
        for factor in (1, 2, 5):
            if length / (step * factor) <= TICKS:
                return step * factor
        step *= 10


def _text(x: float, y: float, text: str, style: str = "") -> str:
    classes = f' class="{style}"' if style else ""
    return f'<text{classes} x="{x:.1f}" y="{y:.1f}">{_clean(text)}</text>'


def _clean(text: str) -> str:
    """What XML may hold and a person can read: a process may call itself anything."""
    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text))


def _shortened(text: str, most: int = LONGEST_NAME) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
