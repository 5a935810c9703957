# SPDX-License-Identifier: MIT
"""What is drawn and what is measured, against goldens that were looked at: tests/unit/report/sample.py makes them."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kexecd.model import Way
from kexecd.report.metrics import exposition, metrics
from kexecd.report.plot import LEFT, RIGHT, TICKS, svg, tick
from kexecd.report.timeline import Part, Span, Stage, Timeline
from tests.unit.report import sample

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", list(sample.made()))
def test_it_is_as_it_was_when_somebody_looked_at_it(name: str) -> None:
    assert sample.made()[name] == (sample.GOLDEN / name).read_text(encoding="utf-8")


def rects(picture: str) -> dict[str, tuple[float, float]]:
    """Left and right of each bar, by what it says about itself."""
    found = {}
    for rect in ElementTree.fromstring(picture).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and title.text:
            left = float(rect.attrib["x"])
            found[title.text] = (left, left + float(rect.attrib["width"]))
    return found


def test_bars_are_where_and_as_long_as_the_timeline_says() -> None:
    timeline = sample.timeline()
    found = rects(svg(timeline))
    scale = (RIGHT - LEFT) / timeline.end
    for part, span in timeline.parts[1:]:
        (left, right), *_ = [place for title, place in found.items() if title.startswith(f"{part}: ")]
        assert left == pytest.approx(LEFT + span.begin * scale, abs=0.2)
        assert right == pytest.approx(LEFT + span.end * scale, abs=0.3)
    assert [title for title in found if title.startswith("postgres (812): 2.10 s")]


def test_everything_that_is_worth_a_row_has_one() -> None:
    texts = " ".join(text.text or "" for text in ElementTree.fromstring(svg(sample.timeline())).iter(f"{SVG}text"))
    for word in (
        *("applications", "postgres (812)", "gap", "kernel", "initrd", "userspace", "checks", "confirmed"),
        *("commit point", "postgresql.service", "failed: left behind: nfsd (99)", "give or take 0.003 s"),
    ):
        assert word in texts


def test_a_picture_of_anything_is_xml_and_stays_inside_its_frame() -> None:
    nasty = '<script>&"\x00\x1b]0;x\x07\ud800 </text>'
    stage = Stage(Span(nasty * 20, 0.0, 1e6, nasty, failed=True), (Span(nasty, -5.0, 2e6),))
    for parts in ((), ((Part.DOWN, Span(nasty, 0.0, 1e6)),), ((Part.KERNEL, Span("kernel", 0.0, 0.0)),)):
        timeline = Timeline(
            from_release=nasty, release=nasty, way=Way.NOW, kexec=True, parts=parts, stages=(stage,), source=nasty
        )
        picture = svg(timeline)
        root = ElementTree.fromstring(picture)
        width = float(root.attrib["width"])
        for rect in root.iter(f"{SVG}rect"):
            assert 0 <= float(rect.get("x", "0")) <= width + 1 and float(rect.get("width", "0")) <= width
        assert "<script>" not in picture


@pytest.mark.parametrize("length", [0.001, 0.31, 1, 7.7, 22, 61, 600, 86400, 1e7])
def test_the_grid_has_a_readable_number_of_lines(length: float) -> None:
    step = tick(length)
    assert 1 <= length / step <= TICKS
    assert round(step / 10 ** math.floor(math.log10(step * 1.0000001))) in (1, 2, 5)


def test_prometheus_own_parser_reads_every_metric_with_its_help_and_type() -> None:
    past = (sample.attempt(),)
    told = exposition(sample.story(), past, denied=2)
    families = {family.name: family for family in text_string_to_metric_families(told)}
    assert set(families) == {metric.name for metric in metrics(sample.story(), past, denied=2)}
    for family in families.values():
        assert family.type == "gauge" and family.documentation.endswith(".")
    parts = {s.labels["part"]: s.value for s in families["kexecd_restart_part_seconds"].samples}
    assert parts["gap"] == pytest.approx(1.71) and set(parts) == {str(part) for part in Part}
    (info,) = families["kexecd_boot_info"].samples
    assert info.labels == {"how": "kexec", "release": sample.NEW, "way": "fast"} and info.value == 1
    assert families["kexecd_denied_kernels"].samples[0].value == 2


def test_labels_of_any_text_come_back_from_the_parser_as_they_were() -> None:
    nasty = 'a "b" \\ c\n{d="e"}'
    timeline = sample.timeline()
    stage = Stage(Span(nasty, 0.0, 1.0))
    story = sample.story()
    told = exposition(
        type(story)(
            arrival=story.arrival,
            attempt=None,
            up=story.up,
            timeline=type(timeline)(
                from_release="", release="", way=None, kexec=True, parts=timeline.parts, stages=(stage,)
            ),
            debt=0,
        ),
        (),
        denied=0,
    )
    found = [family for family in text_string_to_metric_families(told) if family.name == "kexecd_restart_phase_seconds"]
    assert found[0].samples[0].labels == {"phase": nasty}
    assert re.search(r"^kexecd_boot_confirmed 0\.0$", told, re.MULTILINE)
