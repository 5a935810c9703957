# SPDX-License-Identifier: MIT
"""The log, read back from a real journald: of its own, started in a namespace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kexecd.model import Cleanliness, Event, EventKind, Left, Verdict
from kexecd.report.events import A_WHILE
from kexecd.report.log import JOURNAL, Format, Log, as_fields, as_line, open_log
from kexecd.report.messages import ROWS, Kind, message
from tests.namespaces.isolated import isolated
from tests.namespaces.stage import eventually

JOURNALD = "/usr/lib/systemd/systemd-journald"
DEV_LOG = "/run/systemd/journal/dev-log"
# In memory, and neither the kernel's log nor its audit is this one's business.
SETTINGS = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\nRateLimitIntervalSec=0\n"
MANY = 20_000
DEBIANS_PYTHON = "/usr/bin/python3"  # has systemd-python, where the package python3-systemd is installed
TOP = Path(__file__).parents[2]


class Journald:
    def __init__(self) -> None:
        for point in ("/run", "/etc/systemd"):
            subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True, timeout=10)
        Path("/etc/systemd/journald.conf").write_text(SETTINGS, encoding="ascii")
        Path("/run/systemd/journal").mkdir(parents=True)
        self.process = subprocess.Popen([JOURNALD], stdin=subprocess.DEVNULL)
        eventually(lambda: os.path.exists(JOURNAL) and os.path.exists(DEV_LOG))

    def entries(self, *matches: str) -> list[dict[str, str]]:
        # Whatever was sent before the sync is in the file after it.
        subprocess.run(["journalctl", "--sync"], check=True, timeout=30, capture_output=True)
        words = ["journalctl", "--directory=/run/log/journal", "--output=json", "--quiet", *matches]
        done = subprocess.run(words, check=True, timeout=30, capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]


def ours(entry: dict[str, str]) -> dict[str, str]:
    names = ("MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "SYSLOG_FACILITY")
    return {name: value for name, value in entry.items() if name in names or name.startswith("KEXECD_")}


@isolated
def test_an_event_comes_back_with_its_fields() -> None:
    journald = Journald()
    open_log()(Event(EventKind.FAILED, 12.5, "unmount", "unmount /data", "it is busy", seconds=1.25))
    (entry,) = journald.entries("SYSLOG_IDENTIFIER=kexecd")
    assert ours(entry) == {
        "MESSAGE": "unmount /data: failed after 1.25 s: it is busy",
        "MESSAGE_ID": ROWS[Kind.FAILED].id,
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "kexecd",
        "SYSLOG_FACILITY": "3",
        "KEXECD_EVENT": "failed",
        "KEXECD_PHASE": "unmount",
        "KEXECD_STEP": "unmount /data",
        "KEXECD_SECONDS": "1.250",
    }, ours(entry)
    journald.process.kill()


@isolated
def test_each_kind_of_event_can_be_asked_for_by_its_id() -> None:
    journald, log = Journald(), open_log()
    dirty = Verdict(dirt=(Left("/data", "is still writable"),))
    for kind in EventKind:
        verdict = dirty if kind is EventKind.VERDICT else None
        log(Event(kind, 1.0, "phase", "", f"text of {kind}", seconds=A_WHILE, verdict=verdict))
    for kind in set(EventKind) - {EventKind.PHASE, EventKind.QUIT}:
        entries = journald.entries(f"MESSAGE_ID={ROWS[Kind(kind)].id}")
        assert [entry["KEXECD_EVENT"] for entry in entries] == [kind], (kind, entries)
    (told,) = journald.entries("KEXECD_EVENT=verdict")
    assert (told["PRIORITY"], told["KEXECD_CLEANLINESS"]) == ("3", Cleanliness.DIRTY), told
    journald.process.kill()


@isolated
def test_what_looks_like_a_field_is_text() -> None:
    journald = Journald()
    text = "a name\nPRIORITY=0\nMESSAGE_ID=00000000000000000000000000000000\nwith \u00fcmlauts and \t"
    open_log().tell(message(Kind.NOTE, text, step="one\ntwo"))
    (entry,) = journald.entries("SYSLOG_IDENTIFIER=kexecd")
    assert (entry["MESSAGE"], entry["PRIORITY"], entry["KEXECD_STEP"]) == (text, "6", "one\ntwo"), entry
    journald.process.kill()


@isolated
def test_a_line_to_syslog_is_what_a_syslogd_takes_for_one() -> None:
    journald = Journald()
    open_log(journal="/run/nowhere", syslog=DEV_LOG).tell(message(Kind.COMMIT, "from here on:\nthe machine goes down"))
    (entry,) = journald.entries("SYSLOG_IDENTIFIER=kexecd")
    told = [entry[name] for name in ("MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_PID")]
    assert told == ["from here on: the machine goes down", "5", "3", str(os.getpid())], entry
    when = time.strptime(f"{time.localtime().tm_year} {entry['SYSLOG_TIMESTAMP'].strip()}", "%Y %b %d %H:%M:%S")
    assert abs(time.mktime(when) - time.time()) < 60, entry
    journald.process.kill()


@isolated
def test_a_journald_that_stands_still_holds_nobody_and_later_hears_how_much_it_missed() -> None:
    journald, log = Journald(), open_log()
    log.tell(message(Kind.NOTE, "before"))
    eventually(lambda: len(journald.entries("MESSAGE=before")) == 1)
    os.kill(journald.process.pid, signal.SIGSTOP)
    begin = time.monotonic()
    for number in range(MANY):
        log.tell(message(Kind.NOTE, f"number {number}"))
    seconds = time.monotonic() - begin
    assert seconds < 5, f"{MANY} messages took {seconds:.2f} s"
    os.kill(journald.process.pid, signal.SIGCONT)
    eventually(lambda: _gets_through(log))
    kept = len(journald.entries("KEXECD_EVENT=note")) - 1
    (after, *_) = journald.entries("KEXECD_EVENT=commit")
    assert 0 < kept < MANY
    assert int(after["KEXECD_LOST"]) >= MANY - kept, (after, kept)
    journald.process.kill()


def _gets_through(log: Log) -> bool:
    log.tell(message(Kind.COMMIT, "after"))
    return log.lost == 0


@isolated
def test_a_journald_that_has_died_holds_nobody_and_its_successor_is_found() -> None:
    journald, log = Journald(), open_log()
    journald.process.kill()
    journald.process.wait()
    log.tell(message(Kind.NOTE, "to nobody"))
    assert log.lost == 1
    again = subprocess.Popen([JOURNALD], stdin=subprocess.DEVNULL)
    eventually(lambda: _gets_through(log))
    assert [entry["KEXECD_LOST"] for entry in journald.entries("MESSAGE=after") if "KEXECD_LOST" in entry]
    again.kill()


@isolated
def test_where_nobody_waits_systemd_python_does_it() -> None:
    journald = Journald()
    call = "from kexecd.report import log, messages as m; log.say(m.message(m.Kind.ARRIVED, 'kexec', how='kexec'))"
    source = f"import sys; sys.path.insert(0, {str(TOP)!r}); {call}; assert 'systemd.journal' in sys.modules"
    done = subprocess.run([DEBIANS_PYTHON, "-I", "-c", source], check=False, timeout=30, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (entry,) = journald.entries("SYSLOG_IDENTIFIER=kexecd")
    told = ours(entry)
    assert told["MESSAGE_ID"] == ROWS[Kind.ARRIVED].id and told["KEXECD_HOW"] == "kexec", told
    journald.process.kill()


@pytest.mark.parametrize("form", [as_fields, as_line])
def test_however_long_a_message_is_it_is_one_datagram(form: Format, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        log = Log(str(tmp_path / "socket"), form)
        log.tell(message(Kind.NOTE, "long " * 100_000))
        assert log.lost == 0
        assert 1000 < len(listener.recv(1 << 20)) < 1 << 17


def test_nobody_at_all_who_listens_is_no_reason_for_anything() -> None:
    log = open_log(journal="/nowhere", syslog="/nowhere")
    log.tell(message(Kind.NOTE, "to nobody"))
    assert log.lost == 1


if not os.path.exists(JOURNALD):
    sys.exit("tests/namespaces/test_log.py needs systemd-journald")
