# SPDX-License-Identifier: MIT
"""down.json and up.json: what is written comes back, and what a power cut leaves harms nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd.kernel import sysfs
from kexecd.model import Event, EventKind, Way
from kexecd.report import down, up
from kexecd.report.events import EVENTS_FILE, as_json
from tests.unit.report import sample


def test_a_way_down_comes_back_as_it_was_written(tmp_path: Path) -> None:
    down.write(sample.down(), str(tmp_path))
    found = down.read(str(tmp_path))
    assert found is not None
    # The disk has milliseconds.
    assert [event.text for event in found.events] == [event.text for event in sample.events()]
    assert [event.at for event in found.events] == pytest.approx([event.at for event in sample.events()], abs=0.001)
    assert (found.nonce, found.boot_id, found.way) == ("84526b44a7853e1c", sample.OLD_BOOT, Way.FAST)
    assert found.moment == sample.down().moment
    assert (tmp_path / down.DOWN).stat().st_mode & 0o777 == 0o600


def test_a_way_up_comes_back_as_it_was_written_and_only_in_its_own_boot(tmp_path: Path) -> None:
    up.write(sample.up(), str(tmp_path))
    assert up.read(sample.NEW_BOOT, str(tmp_path)) == sample.up()
    assert up.read(sample.OLD_BOOT, str(tmp_path)) is None


@pytest.mark.parametrize("name", [down.DOWN, up.UP])
def test_a_record_that_was_cut_anywhere_is_no_record(tmp_path: Path, name: str) -> None:
    down.write(sample.down(), str(tmp_path))
    up.write(sample.up(), str(tmp_path))
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole) - 2, 7):
        (tmp_path / name).write_bytes(whole[:length])
        assert (down.read(str(tmp_path)) if name == down.DOWN else up.read(sample.NEW_BOOT, str(tmp_path))) is None


@pytest.mark.parametrize("text", ["", "null", "[]", "7", '{"schema": 1}', '{"schema": 99}', "[" * 100000, "\xff\0"])
def test_what_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    for name in (down.DOWN, up.UP):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert down.read(str(tmp_path)) is None and up.read(sample.NEW_BOOT, str(tmp_path)) is None


def test_an_event_of_another_kexecd_is_left_out_and_the_others_are_told(tmp_path: Path) -> None:
    down.write(sample.down(), str(tmp_path))
    record = json.loads((tmp_path / down.DOWN).read_text())
    record["events"][1]["kind"] = "invented later"
    del record["events"][2]["at"]
    (tmp_path / down.DOWN).write_text(json.dumps(record))
    found = down.read(str(tmp_path))
    assert found is not None and len(found.events) == len(sample.events()) - 2


def test_what_is_taken_down_is_what_the_events_of_this_boot_say(tmp_path: Path) -> None:
    events = (Event(EventKind.PLAN, 1.0, text="fast, 10 s"), Event(EventKind.PHASE, 2.0, "sync", text="why"))
    lines = "".join(json.dumps(as_json(event)) + "\n" for event in events)
    (tmp_path / EVENTS_FILE).write_text(lines + '{"kind": "done", "at": 3', encoding="utf-8")  # somebody is writing
    down.keep(str(tmp_path), "a nonce", Way.FAST, str(tmp_path))
    taken = down.read(str(tmp_path))
    assert taken is not None and taken.events == events and taken.nonce == "a nonce"
    assert (taken.boot_id, taken.release) == (sysfs.boot_id(), sysfs.kernel_release())


def test_of_a_way_down_without_end_the_last_events_are_kept(tmp_path: Path) -> None:
    many = tuple(Event(EventKind.NOTE, float(number)) for number in range(down.MOST + 5))
    down.write(replace(sample.down(), events=many), str(tmp_path))
    found = down.read(str(tmp_path))
    assert found is not None and len(found.events) == down.MOST and found.events[-1].at == down.MOST + 4


def test_without_events_there_is_nothing_to_take_down_but_the_moment(tmp_path: Path) -> None:
    down.keep(str(tmp_path), "", Way.ORDERLY, str(tmp_path))
    found = down.read(str(tmp_path))
    assert found is not None and found.events == ()


def test_an_event_that_a_full_disk_has_cut_takes_none_of_the_others_with_it(tmp_path: Path) -> None:
    whole = json.dumps(as_json(Event(EventKind.NOTE, 1.0, text="whole")))
    (tmp_path / EVENTS_FILE).write_text(f"{whole}\n{whole[:20]}{whole}\n{whole}\n", encoding="utf-8")
    down.keep(str(tmp_path), "", Way.FAST, str(tmp_path))
    found = down.read(str(tmp_path))
    assert found is not None and [event.text for event in found.events] == ["whole", "whole"]
