# SPDX-License-Identifier: MIT
"""When a boot had come how far, from what systemd, OpenRC and the kernel say; their words are those of real guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kexecd.init import ascent
from kexecd.init.ascent import of_openrc, of_systemd, parse_kmsg
from kexecd.kernel import spawn
from kexecd.report.up import Service

KMSG = (
    "6,1,0,-;Linux version 6.12.117+deb12-cloud-amd64",
    "6,367,1721377,-;Run /init as init process",
    "7,368,1721537,-;  with arguments:",
    "6,372,1862676,-;EXT4-fs (vda): mounted filesystem\n SUBSYSTEM=block\n DEVICE=b254:0",
)
MESSAGES = tuple(message for record in KMSG if (message := parse_kmsg(record)))
MANAGER = "UserspaceTimestampMonotonic=3730832\nFinishTimestampMonotonic=20342326\nInitRDTimestampMonotonic=0\n"
UNITS = """Id=dev-vda.device
InactiveExitTimestampMonotonic=3900000
ActiveEnterTimestampMonotonic=7393000

Id=quick.service
InactiveExitTimestampMonotonic=5000000
ActiveEnterTimestampMonotonic=5020000

Id=never-started.service
InactiveExitTimestampMonotonic=0
ActiveEnterTimestampMonotonic=0

Id=later-by-hand.service
InactiveExitTimestampMonotonic=90000000
ActiveEnterTimestampMonotonic=95000000

Id=restarted.service
InactiveExitTimestampMonotonic=9000000
ActiveEnterTimestampMonotonic=4000000
"""


def test_a_record_of_the_kernels_log_is_its_time_and_its_first_line() -> None:
    assert MESSAGES[3] == (1.862676, "EXT4-fs (vda): mounted filesystem")
    assert parse_kmsg("nonsense") is None and parse_kmsg("6,1;short") is None and parse_kmsg("6,1,x,-;y") is None


def test_systemd_tells_of_itself_and_the_kernel_of_an_initrd_without_systemd() -> None:
    marks = of_systemd(MANAGER, UNITS, MESSAGES)
    assert (marks.initrd, marks.userspace, marks.ready) == (1.721377, 3.730832, 20.342326)
    assert marks.services == (Service("dev-vda.device", 3.9, 7.393),)
    assert marks.source == "systemd and the kernel's log"


def test_a_systemd_in_the_initrd_tells_of_that_too() -> None:
    marks = of_systemd(MANAGER.replace("InitRDTimestampMonotonic=0", "InitRDTimestampMonotonic=1900000"), "", MESSAGES)
    assert marks.initrd == 1.9 and marks.source == "systemd"


def test_a_boot_that_is_not_over_is_not_ready() -> None:
    marks = of_systemd(MANAGER.replace("20342326", "0"), UNITS, ())
    assert marks.ready is None and marks.userspace == 3.730832 and marks.initrd is None


def test_a_systemd_that_says_nothing_makes_no_marks() -> None:
    assert of_systemd("", "", ()).userspace is None


def test_a_kernel_without_an_initrd_runs_the_init_of_the_root() -> None:
    assert of_systemd(MANAGER, "", ((1.5, "Run /sbin/init as init process"),)).initrd is None


STARTED = {"sysfs": 1000.9, "devfs": 1002.4, "fsck": 1004.4, "kexec": 1021.0, "local": 1013.3}


def test_openrc_tells_when_it_began_and_when_it_had_started_each_service() -> None:
    marks = of_openrc(MESSAGES, 999.75, STARTED, True, start=997.0)
    assert marks.initrd == 1.721377
    assert marks.userspace == pytest.approx(2.75) and marks.ready == pytest.approx(24.0)
    assert [service.name for service in marks.services] == ["sysfs", "devfs", "fsck", "local", "kexec"]
    last = marks.services[-1]
    assert last.begin == pytest.approx(16.3) and last.end == pytest.approx(24.0)


def test_services_that_start_side_by_side_are_not_said_to_have_begun_one_after_the_other() -> None:
    marks = of_openrc(MESSAGES, 999.75, STARTED, False, start=997.0)
    assert marks.services == () and marks.ready == pytest.approx(24.0)


def test_a_clock_that_was_set_since_makes_no_times_of_what_it_said_before() -> None:
    marks = of_openrc(MESSAGES, 999.75, STARTED, True, start=5000.0)
    assert marks.userspace is None and marks.ready is None and "the clock was set" in marks.source


def test_this_machines_own_boot_can_be_told_of_by_whichever_init_it_has() -> None:
    marks = ascent.marks("none")
    assert marks.source
    assert marks.userspace is None or marks.userspace >= 0


def test_of_a_way_down_only_what_has_stopped_since_it_began_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "Id=slow.service\nActiveExitTimestampMonotonic=60000000\nInactiveEnterTimestampMonotonic=62500000\n\n"
        "Id=earlier.service\nActiveExitTimestampMonotonic=10000000\nInactiveEnterTimestampMonotonic=30000000\n"
    )
    monkeypatch.setattr(ascent, "_show", lambda *_, **__: said)
    monkeypatch.setattr(ascent, "JOURNALCTL", ())
    monkeypatch.setattr("kexecd.init.ascent.time.clock_gettime", lambda clock: 100.0)
    monkeypatch.setattr("kexecd.init.ascent.time.monotonic", lambda: 95.0)  # it has slept for 5 s
    (slow,) = ascent.stopped("systemd", 64.0)
    assert slow == Service("slow.service", 65.0, 67.5)
    assert ascent.stopped("openrc", 0.0) == ()


# From a Debian 12 without systemd-update-utmp-runlevel.service; the times are shortened.
JOURNAL = """\
{"MESSAGE_ID":"de5b426a63be47a7b6ac3eaac82e2f6f","UNIT":"session-1.scope","__MONOTONIC_TIMESTAMP":"60000000"}
{"MESSAGE_ID":"de5b426a63be47a7b6ac3eaac82e2f6f","UNIT":"slow.service","__MONOTONIC_TIMESTAMP":"60500000"}
{"MESSAGE_ID":"de5b426a63be47a7b6ac3eaac82e2f6f","UNIT":"data.mount","__MONOTONIC_TIMESTAMP":"60500000"}
{"MESSAGE_ID":"9d1aaa27d60140bd96365438aad20286","UNIT":"data.mount","__MONOTONIC_TIMESTAMP":"61500000"}
{"MESSAGE_ID":"9d1aaa27d60140bd96365438aad20286","UNIT":"session-1.scope","__MONOTONIC_TIMESTAMP":"62000000"}
{"MESSAGE_ID":"9d1aaa27d60140bd96365438aad20286","UNIT":"begun-before.service","__MONOTONIC_TIMESTAMP":"62000000"}
{"MESSAGE_ID":"9d1aaa27d60140bd96365438aad20286","UNIT":"slow.service","__MONOTONIC_TIMESTAMP":"63000000"}
"""


def test_a_unit_that_systemd_has_forgotten_is_found_in_the_journal() -> None:
    assert [*ascent.of_journal(JOURNAL)] == [
        Service("session-1.scope", 60.0, 62.0),
        Service("slow.service", 60.5, 63.0),
    ]


@pytest.mark.parametrize(
    "line", ["", "-- No entries --", "[]", "7", '{"UNIT":"a.service"', '{"UNIT":[1],"MESSAGE_ID":"x"}', "null"]
)
def test_a_line_of_the_journal_that_says_something_else_is_passed_over(line: str) -> None:
    assert len([*ascent.of_journal(f"{line}\n{JOURNAL}{line}")]) == 2


def test_what_systemd_itself_knows_of_a_unit_is_believed_more_than_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    known = "Id=slow.service\nActiveExitTimestampMonotonic=60600000\nInactiveEnterTimestampMonotonic=62900000\n"
    monkeypatch.setattr(ascent, "_show", lambda *_, **__: known)
    monkeypatch.setattr(ascent, "_said_of_stopping", lambda _: ascent.of_journal(JOURNAL))
    monkeypatch.setattr("kexecd.init.ascent.time.clock_gettime", lambda clock: 95.0)
    monkeypatch.setattr("kexecd.init.ascent.time.monotonic", lambda: 95.0)
    assert ascent.stopped("systemd", 61.0) == (
        Service("session-1.scope", 60.0, 62.0),
        Service("slow.service", 60.6, 62.9),
    )


def test_a_journal_that_takes_all_of_the_time_does_not_cost_what_systemd_itself_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [95.0]

    def show(*_: object, seconds: float) -> str:
        known = "Id=slow.service\nActiveExitTimestampMonotonic=60600000\nInactiveEnterTimestampMonotonic=62900000\n"
        return known if seconds > 0 else ""

    def say(seconds: float) -> Iterator[Service]:
        now[0] += seconds
        return ascent.of_journal("")

    monkeypatch.setattr(ascent, "_show", show)
    monkeypatch.setattr(ascent, "_said_of_stopping", say)
    monkeypatch.setattr("kexecd.init.ascent.time.clock_gettime", lambda clock: now[0])
    monkeypatch.setattr("kexecd.init.ascent.time.monotonic", lambda: now[0])
    assert ascent.stopped("systemd", 61.0) == (Service("slow.service", 60.6, 62.9),)


# As Debian 13's journalctl writes it; systemd 252 leaves out __SEQNUM and __SEQNUM_ID.
LINE = """\
{"UNIT":"cron.service","__MONOTONIC_TIMESTAMP":"22429050","__SEQNUM_ID":"3d272daa2c7741c9b54cf86c1d7e53be",\
"__CURSOR":"s=3d272daa2c7741c9b54cf86c1d7e53be;i=20a;b=54e48355a0d2462c83dd0300ef5154cf;m=1563d7a;t=660f425c6f3f5;\
x=fe0023c940904636","__REALTIME_TIMESTAMP":"1795451582346229","__SEQNUM":"522",\
"_BOOT_ID":"54e48355a0d2462c83dd0300ef5154cf","MESSAGE_ID":"9d1aaa27d60140bd96365438aad20286"}
"""


def test_the_last_lines_of_a_long_journal_are_not_cut_off() -> None:
    """Of what a program says the first part is kept, and the way down is the last part of the journal."""
    long = LINE.replace("cron.service", f"{'x' * 120}.service")
    assert len(LINE) == 395 and ascent.LINES * len(long) <= spawn.OUTPUT_LIMIT
