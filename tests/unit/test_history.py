# SPDX-License-Identifier: MIT
"""What became of the restarts before this one, and what a power cut leaves of it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import history
from kexecd.handoff import LONGEST
from kexecd.history import Attempt, Outcome, debt
from kexecd.model import Way
from tests.unit.power_cut import calls, cuts

ATTEMPT = Attempt(
    nonce="0123456789abcdef",
    outcome=Outcome.CONFIRMED,
    reason="it reached its usual target",
    machine="00112233445566ff",
    from_release="6.1.0",
    from_boot_id="boot-0",
    to_entry_id="linux-6.2",
    to_version="6.2.0",
    kernel_sha256="ab" * 32,
    way=Way.FAST,
    trial=False,
    requested_at=1000.0,
    arrived_at=1010.5,
    settled_at=1030.0,
    settled_in="boot-1",
    boot_id="boot-1",
)
FAILED = replace(
    ATTEMPT, nonce="f" * 16, outcome=Outcome.FAILED, reason="ü: it never reported back", arrived_at=None, boot_id=""
)


def file(state: Path) -> Path:
    return state / "history.jsonl"


def test_attempts_are_read_as_they_were_written_oldest_first(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert history.attempts(str(state)) == ()
    history.append(ATTEMPT, str(state))
    history.append(FAILED, str(state))
    assert history.attempts(str(state)) == (ATTEMPT, FAILED)
    assert file(state).stat().st_mode & 0o777 == 0o600
    assert [json.loads(line)["schema"] for line in file(state).read_text().splitlines()] == [1, 1]


def test_an_attempt_is_found_by_its_nonce_and_without_one_by_the_boot_that_was_left(tmp_path: Path) -> None:
    refused = replace(ATTEMPT, nonce="", outcome=Outcome.REFUSED, from_boot_id="boot-7")
    for attempt in (ATTEMPT, refused):
        history.append(attempt, str(tmp_path))
    assert history.of(ATTEMPT.nonce, str(tmp_path)) == ATTEMPT
    assert history.of("boot-7", str(tmp_path)) == refused
    assert history.of("nobody", str(tmp_path)) is None


def test_a_later_line_about_the_same_attempt_counts(tmp_path: Path) -> None:
    history.append(replace(ATTEMPT, outcome=Outcome.UNCONFIRMED), str(tmp_path))
    history.append(FAILED, str(tmp_path))
    history.append(ATTEMPT, str(tmp_path))
    assert history.attempts(str(tmp_path)) == (ATTEMPT, FAILED)


def test_a_line_cut_at_any_byte_is_not_read_and_spoils_no_other(tmp_path: Path) -> None:
    history.append(ATTEMPT, str(tmp_path))
    old = file(tmp_path).read_bytes()
    history.append(FAILED, str(tmp_path))
    whole = file(tmp_path).read_bytes()
    third = replace(ATTEMPT, nonce="3" * 16)
    for length in range(len(old), len(whole) + 1):
        for tail in (b"", b"\0" * (len(whole) - length)):  # some filesystems have the length already, and not the data
            file(tmp_path).write_bytes(whole[:length] + tail)
            expected = [(ATTEMPT, FAILED)] if length == len(whole) else [(ATTEMPT,), (ATTEMPT, FAILED)]
            assert history.attempts(str(tmp_path)) in expected, length
            history.append(third, str(tmp_path))
            assert history.attempts(str(tmp_path))[-1] == third
            assert history.attempts(str(tmp_path))[0] == ATTEMPT


def test_a_power_cut_at_any_call_leaves_the_old_history_or_the_new_one(tmp_path: Path) -> None:
    state = tmp_path / "state"
    history.append(ATTEMPT, str(state))
    seen = set()
    for _ in cuts(state, lambda: history.append(FAILED, str(state))):
        left = history.attempts(str(state))
        assert left in ((ATTEMPT,), (ATTEMPT, FAILED))
        seen.add(len(left))
    assert history.attempts(str(state)) == (ATTEMPT, FAILED)
    assert seen == {1, 2}


def test_a_power_cut_while_the_oldest_lines_go_loses_none_of_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST", 3)
    state = tmp_path / "state"
    past = [replace(ATTEMPT, nonce=f"{number:016x}") for number in range(4)]
    for attempt in past[:3]:
        history.append(attempt, str(state))
    for _ in cuts(state, lambda: history.append(past[3], str(state))):
        left = list(history.attempts(str(state)))
        assert left in (past[:3], past, past[1:])
    assert list(history.attempts(str(state))) == past[1:]


def test_an_appended_line_is_on_the_disk_before_append_returns(tmp_path: Path) -> None:
    made = calls(lambda: history.append(ATTEMPT, str(tmp_path)))
    assert made.index("fsync") > made.index("write")
    assert made.count("fsync") == 2, "the file's, and its directory's as the file is new"
    assert calls(lambda: history.append(FAILED, str(tmp_path))).count("fsync") == 1


def test_a_thousand_lines_are_kept_and_the_oldest_go(tmp_path: Path) -> None:
    line = json.dumps({"schema": 1, **{name: getattr(ATTEMPT, name) for name in Attempt.__slots__}})
    lines = [line.replace(ATTEMPT.nonce, f"{number:016x}").replace("usual", "x" * LONGEST) for number in range(1000)]
    file(tmp_path).write_text("\n".join(lines) + "\n")
    began = time.process_time()
    assert len(history.attempts(str(tmp_path))) == 1000
    assert time.process_time() - began < 0.2
    history.append(FAILED, str(tmp_path))
    kept = history.attempts(str(tmp_path))
    assert len(kept) == 1000
    assert (kept[0].nonce, kept[-1]) == (f"{1:016x}", FAILED)
    assert [name for name in os.listdir(tmp_path) if name != "history.jsonl"] == []


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xfe\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n", b'{"schema": 2}\n', b"\n\n\n", b"\0" * 5000 + b"\n"],
)
def test_what_is_not_understood_is_left_out(tmp_path: Path, garbage: bytes) -> None:
    history.append(ATTEMPT, str(tmp_path))
    with open(file(tmp_path), "ab") as lines:
        lines.write(garbage)
    history.append(FAILED, str(tmp_path))
    assert history.attempts(str(tmp_path)) == (ATTEMPT, FAILED)


def test_a_fifo_in_its_place_hangs_nobody_and_is_not_written_to(tmp_path: Path) -> None:
    os.mkfifo(file(tmp_path))
    assert history.attempts(str(tmp_path)) == ()
    with pytest.raises(OSError, match="Invalid argument"):
        history.append(ATTEMPT, str(tmp_path))


def chain(*outcomes: Outcome) -> list[Attempt]:
    """Each from the boot that the one before led to."""
    return [
        replace(ATTEMPT, nonce=f"{n:016x}", outcome=outcome, from_boot_id=f"boot-{n}", boot_id=f"boot-{n + 1}")
        for n, outcome in enumerate(outcomes)
    ]


def test_the_debt_is_the_chain_of_kexecs_that_led_to_this_boot() -> None:
    good = Outcome.CONFIRMED
    past = chain(good, Outcome.UNCONFIRMED, good)
    assert debt(past, "boot-3") == 3
    assert debt(past, "boot-1") == 1
    assert debt([], "boot-1") == 0


def test_a_boot_through_the_firmware_owes_nothing() -> None:
    past = chain(Outcome.CONFIRMED, Outcome.CONFIRMED)
    assert debt(past, "a boot that no kexec led to") == 0
    later = replace(ATTEMPT, nonce="9" * 16, from_boot_id="a boot that no kexec led to", boot_id="boot-9")
    assert debt([*past, later], "boot-9") == 1


def test_a_kexec_that_failed_or_was_refused_is_no_link_of_it() -> None:
    assert debt(chain(Outcome.CONFIRMED, Outcome.FAILED), "boot-2") == 0
    assert debt(chain(Outcome.CONFIRMED, Outcome.REFUSED), "boot-2") == 0


def test_a_history_that_bites_its_own_tail_ends_the_count() -> None:
    circle = [replace(ATTEMPT, from_boot_id="boot-1", boot_id="boot-1")]
    assert debt(circle, "boot-1") == 1
