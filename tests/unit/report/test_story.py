# SPDX-License-Identifier: MIT
"""What `kexecctl report` says, for people and as JSON, and of which boots it says it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import handoff, history
from kexecd.cli import metrics as metrics_command
from kexecd.cli import plot as plot_command
from kexecd.cli import report as report_command
from kexecd.cli.main import main
from kexecd.config.policy import Policy
from kexecd.errors import ExitCode
from kexecd.handoff import Arrival, How
from kexecd.history import Outcome
from kexecd.kernel import sysfs
from kexecd.report import down, up
from kexecd.report.story import Story, as_json, head, lines
from kexecd.report.timeline import Part, build
from kexecd.report.words import seconds
from tests.unit.report import sample

Output = pytest.CaptureFixture[str]


def told(story: Story) -> dict[str, str]:
    return dict(head(story, lambda at: f"[{at:.0f}]"))


def test_a_kexec_that_was_confirmed_says_from_what_and_why_it_is_trusted() -> None:
    found = told(sample.story())
    assert found["this boot"] == f"Linux {sample.NEW}, systemd as PID 1, by kexec from Linux {sample.OLD}"
    assert found["asked for"] == f"Linux {sample.NEW} at [1795343177], --fast"
    assert found["outcome"] == "confirmed: graphical.target is reached"
    assert found["firmware"] == "1 kexec since it last had its turn"
    assert found["down for"] == "21.5 s, from the commit point to the usual services"


def test_a_kexec_that_failed_says_why_in_the_boot_that_the_firmware_brought() -> None:
    found = told(sample.failed())
    assert "not by a kexec of kexecd's" in found["this boot"] and "Unable to mount root fs" in found["this boot"]
    assert found["outcome"].startswith("failed: Kernel panic")
    assert "firmware" not in found
    gap = sample.failed().timeline.gap
    assert gap is not None and gap.span.seconds == pytest.approx(121.71, abs=0.6)


def test_a_kexec_that_waits_for_its_confirmation_says_so() -> None:
    story = replace(sample.story(), attempt=None)
    assert told(story)["outcome"] == "not confirmed yet"
    assert story.arrival.pending
    alone = replace(story, arrival=replace(story.arrival, pending=replace(story.arrival.pending, limit=0.0)))
    assert told(alone)["outcome"] == "nobody was asked to confirm it"


def test_the_wrong_kernel_is_said_to_be_the_wrong_one() -> None:
    story = sample.story()
    wrong = replace(story, arrival=replace(story.arrival, release="5.15.0"))
    assert told(wrong)["this boot"].endswith("which is not the kernel that was meant")


def test_the_lines_follow_the_clock_and_hold_everything() -> None:
    texts = [line.text for line in lines(sample.story())]
    order = ["way down", "record", "services", "postgres (812) quit", "sync", "kernel", "initrd", "userspace"]
    places = [texts.index(text) for text in order]
    assert places == sorted(places)
    assert "gap: 1.71 s (give or take 0.003 s)" in texts
    assert "processes: failed: left behind: nfsd (99)" in texts
    assert "sync, unmount, read-only, verdict, the jump, and the new kernel until its clock starts" in texts
    timed = [line for line in lines(sample.story()) if line.at is not None and line.depth < 2]
    assert [line.at for line in timed if line.depth == 0] == sorted(line.at or 0.0 for line in timed if line.depth == 0)


def test_a_wall_clock_that_was_set_meanwhile_is_mentioned() -> None:
    new = sample.up()
    later = replace(new, moment=replace(new.moment, realtime=new.moment.realtime + 3600))
    story = replace(sample.story(), timeline=build(sample.down(), later, kexec=True))
    assert "the wall clock was set by +3600.4 s meanwhile" in [line.text for line in lines(story)]


def test_the_json_is_json_and_says_the_same() -> None:
    document = json.loads(json.dumps(as_json(sample.story())))
    assert document["how"] == "kexec" and document["confirmed"] is True and document["kexecs_since_firmware"] == 1
    timeline = document["timeline"]
    assert [part["part"] for part in timeline["parts"]] == [str(part) for part in Part]
    assert timeline["gap"]["seconds"] == pytest.approx(1.71) and timeline["gap"]["by"] == "counter"
    applications = next(phase for phase in timeline["phases"] if phase["name"] == "applications")
    assert applications["slowest"][0]["name"] == "postgres (812)"
    assert document["attempt"]["outcome"] == "confirmed" and document["pending"]["way"] == "fast"


def test_a_boot_that_kexecd_has_nothing_to_do_with_is_told_as_far_as_it_can_be() -> None:
    arrival = Arrival(How.UNKNOWN, "kexecd was not asked for it", sample.OLD)
    here = sample.up(None)
    story = Story(arrival=arrival, attempt=None, up=here, timeline=build(None, here, kexec=False), debt=0)
    assert set(told(story)) == {"this boot"}
    assert json.loads(json.dumps(as_json(story)))["timeline"]["gap"] is None
    assert [line.text for line in lines(story)][0] == "kernel"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000 s"), (0.0123, "0.012 s"), (0.41, "0.41 s"), (9.999, "10.0 s"), (59.9, "59.9 s"),
     (125, "2 min 05 s"), (7330, "2 h 02 min")],
)  # fmt: skip
def test_durations_have_as_many_digits_as_a_person_wants(value: float, text: str) -> None:
    assert seconds(value) == text


# The records of this machine's own boot, which is the one that the commands look at


@pytest.fixture
def records(tmp_path: Path) -> str:
    """A restart that was to be a kexec and was refused: the firmware has brought this boot, a minute later."""
    here = time.time() - sysfs.uptime()
    moment = replace(sample.down().moment, realtime=here - 60, hardware=None, hertz=0.0)
    down.write(replace(sample.down(), moment=moment), str(tmp_path))
    pending = replace(sample.pending(), refused="the image is damaged", seen_in=sysfs.boot_id())
    handoff.write(pending, str(tmp_path))
    attempt = sample.attempt(Outcome.REFUSED, "the image is damaged")
    history.append(replace(attempt, settled_in=sysfs.boot_id(), boot_id=""), str(tmp_path))
    return str(tmp_path)


def test_a_refused_kexec_is_told_with_the_way_down_and_the_firmware_in_its_gap(records: str) -> None:
    story = report_command.gather(records)
    assert not story.came_by_kexec and story.attempt is not None
    assert told(story)["outcome"] == "refused: the image is damaged"
    assert "there was no kexec: the image is damaged" in told(story)["this boot"]
    gap = story.timeline.gap
    assert gap is not None and gap.span.text == "the rest of the way down, and the firmware"
    assert gap.span.seconds == pytest.approx(60.0, abs=2) or gap.error is None
    assert [stage.span.name for stage in story.timeline.stages][0] == "record"


def test_the_way_down_of_another_boot_is_not_told_as_this_ones(records: str) -> None:
    other = replace(sample.pending(), from_boot_id="another", seen_in=sysfs.boot_id())
    handoff.write(other, records)
    assert report_command.gather(records).timeline.gap is None
    handoff.forget(records)
    Path(records, history.HISTORY).unlink()
    assert report_command.gather(records).timeline.gap is None


def test_a_boot_is_told_of_when_its_record_has_given_way_to_that_of_the_next_restart(records: str) -> None:
    here = sysfs.boot_id()
    handoff.write(replace(sample.pending(), from_boot_id=here, nonce="of the next one"), records)
    story = report_command.gather(records)
    assert told(story)["outcome"] == "refused: the image is damaged"
    assert story.timeline.gap is not None and "there was to be a kexec: the image is damaged" in story.arrival.reason

    history.append(replace(sample.attempt(), nonce="later", boot_id=here, settled_in=here), records)
    story = report_command.gather(records)
    assert story.came_by_kexec and told(story)["outcome"].startswith("confirmed") and story.debt == 1


def test_commands_print_what_the_records_say(records: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    story, past = report_command.gather(records), history.attempts(records)
    for command in (report_command, plot_command, metrics_command):
        monkeypatch.setattr(command, "gather", lambda *_: story)
    monkeypatch.setattr(history, "attempts", lambda *_: past)
    assert main(["report"]) == ExitCode.OK
    assert "refused: the image is damaged" in capsys.readouterr().out
    assert main(["report", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["attempt"]["reason"] == "the image is damaged"
    assert main(["history"]) == ExitCode.OK
    assert "refused" in capsys.readouterr().out.splitlines()[1]
    assert main(["history", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["attempts"][0]["outcome"] == "refused"
    assert main(["plot"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("<svg")
    assert main(["metrics"]) == ExitCode.OK
    assert 'kexecd_attempts{outcome="refused",way="fast"} 1.0' in capsys.readouterr().out
    assert main(["metrics", "--json"]) == ExitCode.OK
    rows = json.loads(capsys.readouterr().out)["metrics"]
    assert {"name": "kexecd_attempts", "labels": {"outcome": "refused", "way": "fast"}, "value": 1.0} in rows


def test_the_picture_goes_where_it_is_told_to(
    records: str, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = report_command.gather(records)
    monkeypatch.setattr(plot_command, "gather", lambda *_: story)
    assert main(["plot", str(tmp_path / "way.svg")]) == ExitCode.OK
    assert (tmp_path / "way.svg").read_text(encoding="utf-8").startswith("<svg")
    assert main(["plot", str(tmp_path / "nowhere" / "way.svg")]) == ExitCode.FAILURE
    assert "no such file or directory" in capsys.readouterr().err


def test_publishing_keeps_the_way_up_and_writes_the_metrics_where_the_policy_says(records: str, tmp_path: Path) -> None:
    file = tmp_path / "collector" / "kexecd.prom"
    assert metrics_command.published(Policy(metrics_file=str(file)), records) == ""
    assert file.read_text(encoding="utf-8").startswith("# HELP kexecd_boot_info")
    assert file.stat().st_mode & 0o777 == 0o644
    kept = up.read(sysfs.boot_id(), records)
    assert kept is not None and kept.release == sysfs.kernel_release()
    again = report_command.look(None, records)
    assert again.moment == kept.moment  # from now on it is told from there

    here = sysfs.boot_id()
    ready = replace(kept, marks=replace(kept.marks, ready=7.0, source="kept"))
    up.write(ready, records)
    assert report_command.look(None, records) == ready
    attempt = replace(sample.attempt(), settled_in=here, settled_at=kept.moment.start + 9.0)
    assert report_command.look(attempt, records).confirmed == pytest.approx(9.0)  # later than it was kept

    file.unlink()
    assert metrics_command.published(Policy(), records) == "" and metrics_command.updated(Policy(), records) == ""
    assert not file.exists()
    assert metrics_command.updated(Policy(metrics_file=str(file)), records) == ""
    assert file.exists()


def test_a_place_that_cannot_be_written_is_said_and_raises_nothing(records: str) -> None:
    nowhere = Policy(metrics_file="/proc/nowhere/kexecd.prom")
    assert metrics_command.published(nowhere, records) and metrics_command.updated(nowhere, records)


def test_metrics_are_written_when_somebody_says_so(
    records: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter(("", "no space left on device"))
    monkeypatch.setattr(metrics_command, "published", lambda policy: next(told))
    assert main(["metrics", "--write"]) == ExitCode.OK
    assert main(["metrics", "--write"]) == ExitCode.FAILURE
    assert "no space left on device" in capsys.readouterr().err


def test_somebody_who_is_not_root_is_told_that_the_records_are_roots(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in ("report", "history", "plot", "metrics"):
        assert main([command]) == ExitCode.NOT_PERMITTED
        assert "only root may read the records" in capsys.readouterr().err
