# SPDX-License-Identifier: MIT
"""The record across the jump, and what the new boot makes of it."""

from __future__ import annotations

import json
import os
import re
import select
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import handoff
from kexecd.handoff import Arrival, How, PendingHandoff, Unreadable, arrival, new_nonce
from kexecd.kernel import sysfs
from kexecd.kernel.flocks import StillHeld
from kexecd.model import Way
from tests.unit.kernel_tree import BOOT_ID, KernelTree
from tests.unit.locks import locked_by_a_stopped_process
from tests.unit.power_cut import calls, cuts, nobody

PENDING = PendingHandoff(
    nonce="0123456789abcdef",
    from_boot_id="00000000-0000-4000-8000-000000000000",
    from_release="6.1.0",
    to_entry_id="linux-6.2",
    to_version="6.2.0",
    way=Way.FAST,
    requested_at=1000.0,
)


@pytest.fixture
def tree(tmp_path: Path) -> KernelTree:
    tree = KernelTree(tmp_path / "root")
    tree.write("proc/cmdline", f"ro kexecd.nonce={PENDING.nonce} quiet\n")
    return tree


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def arrived(tree: KernelTree, state: str, release: str = "6.2.0", now: float = 1060.0) -> Arrival:
    """Seen 50 seconds into the new boot."""
    return arrival(state, root=tree.root, release=release, now=lambda: now, uptime=lambda: 50.0)


def test_a_nonce_is_sixteen_hexadecimal_digits_and_never_the_same() -> None:
    assert re.fullmatch("[0-9a-f]{16}", new_nonce())
    assert len({new_nonce() for _ in range(100)}) == 100


def test_the_record_is_read_as_it_was_written(state: str) -> None:
    handoff.write(PENDING, state)
    assert handoff.read(state) == PENDING
    assert os.stat(f"{state}/pending.json").st_mode & 0o777 == 0o600
    handoff.forget(state)
    assert handoff.read(state) is None
    handoff.forget(state)


def test_forgetting_what_never_was_is_no_error(state: str) -> None:
    handoff.forget(state)


def test_the_record_of_an_older_kexecd_is_read_too(state: str) -> None:
    handoff.write(PENDING, state)
    older = json.loads(Path(state, "pending.json").read_text(encoding="utf-8"))
    for name in LATER:
        del older[name]
    Path(state, "pending.json").write_text(json.dumps(older), encoding="utf-8")
    assert handoff.read(state) == PENDING


WHOLE = replace(
    PENDING,
    machine="00112233445566ff",
    kernel_sha256="ab" * 32,
    initrd_sha256=f"{'cd' * 32}+{'ef' * 32}",
    limit=300.0,
    trial=True,
    foreign=True,
    repair=True,
    one_shot="LoaderEntryOneShot",
    plan=("load", "record", "jump"),
    arrived_in=BOOT_ID,
    arrived_at=1010.5,
    failure="it never got a network",
)


def test_every_field_survives_the_disk(state: str) -> None:
    handoff.write(WHOLE, state)
    assert handoff.read(state) == WHOLE


def test_our_nonce_on_the_command_line_means_kexec(tree: KernelTree, state: str) -> None:
    handoff.write(PENDING, state)
    seen = arrived(tree, state)
    assert (seen.how, seen.from_release, seen.seconds) == (How.KEXEC, "6.1.0", 10.0)
    assert seen.as_planned
    assert seen.sentence() == "kexec from 6.1.0, 10.0 s after it was asked for"


def test_a_kernel_other_than_the_one_that_was_asked_for_is_noticed(tree: KernelTree, state: str) -> None:
    handoff.write(PENDING, state)
    seen = arrived(tree, state, release="6.9.9")
    assert not seen.as_planned
    assert seen.sentence().endswith("though 6.2.0 was to run")


def test_a_version_that_nobody_knew_cannot_be_the_wrong_one(tree: KernelTree, state: str) -> None:
    handoff.write(replace(PENDING, to_version=""), state)
    assert arrived(tree, state, release="6.9.9").as_planned


@pytest.mark.parametrize(
    ("cmdline", "reason"),
    [
        ("ro quiet", "no nonce"),
        ("ro kexecd.nonce=ffffffffffffffff", "another nonce"),
        ("ro xkexecd.nonce=0123456789abcdef", "no nonce"),
        ("", "no nonce"),
    ],
)
def test_any_other_command_line_means_another_way(tree: KernelTree, state: str, cmdline: str, reason: str) -> None:
    handoff.write(PENDING, state)
    tree.write("proc/cmdline", cmdline)
    seen = arrived(tree, state)
    assert seen.how is How.OTHER
    assert reason in seen.reason
    assert not seen.as_planned


def test_our_nonce_beside_an_older_one_still_counts(tree: KernelTree, state: str) -> None:
    handoff.write(PENDING, state)
    tree.write("proc/cmdline", f"kexecd.nonce=ffffffffffffffff ro kexecd.nonce={PENDING.nonce}\n")
    assert arrived(tree, state).how is How.KEXEC


def test_a_request_of_this_very_boot_has_not_been_served(tree: KernelTree, state: str) -> None:
    handoff.write(replace(PENDING, from_boot_id=BOOT_ID), state)
    seen = arrived(tree, state)
    assert seen.how is How.NOT_YET
    assert seen.seconds is None


def test_a_clock_that_was_set_back_tells_no_time(tree: KernelTree, state: str) -> None:
    handoff.write(PENDING, state)
    seen = arrived(tree, state, now=500.0)
    assert (seen.how, seen.seconds) == (How.KEXEC, None)
    assert seen.sentence() == "kexec from 6.1.0"


def test_without_a_request_nothing_is_claimed(tree: KernelTree, state: str) -> None:
    assert (arrived(tree, state).how, arrived(tree, state).reason) == (How.UNKNOWN, "its record is gone")
    tree.write("proc/cmdline", "ro\n")
    assert arrived(tree, state).sentence() == "unknown: kexecd was not asked for it"


def test_why_there_was_to_be_no_kexec_is_what_the_next_boot_says(tree: KernelTree, state: str) -> None:
    handoff.write(replace(PENDING, refused="somebody wants the firmware"), state)
    tree.write("proc/cmdline", "ro\n")
    assert arrived(tree, state).sentence() == "other: there was no kexec: somebody wants the firmware"


def test_but_a_nonce_says_that_there_was_one_after_all(tree: KernelTree, state: str) -> None:
    handoff.write(replace(PENDING, refused="somebody wants the firmware"), state)
    assert arrived(tree, state).how is How.KEXEC


def test_a_refusal_keeps_what_was_asked_for_in_this_boot_and_forgets_that_of_another(state: str) -> None:
    handoff.write(PENDING, state)
    handoff.refuse("no", state, now=lambda: 7.0)
    refused = handoff.read(state)
    assert refused and (refused.nonce, refused.refused, refused.requested_at) == ("", "no", 7.0)
    here = replace(PENDING, from_boot_id=sysfs.boot_id())
    handoff.write(here, state)
    handoff.refuse("no", state)
    assert handoff.read(state) == replace(here, refused="no")


def test_a_command_line_with_an_empty_nonce_is_not_taken_for_a_record_without_one(tree: KernelTree, state: str) -> None:
    handoff.write(replace(PENDING, nonce="", refused="no"), state)
    tree.write("proc/cmdline", "ro kexecd.nonce=\n")
    assert arrived(tree, state).how is How.OTHER


def test_a_request_speaks_to_the_first_boot_that_hears_of_it_and_to_no_later_one(tree: KernelTree, state: str) -> None:
    handoff.write(replace(PENDING, seen_in=BOOT_ID), state)
    assert arrived(tree, state).how is How.KEXEC
    handoff.write(replace(PENDING, seen_in="00000000-0000-4000-8000-000000000001"), state)
    assert arrived(tree, state).how is How.UNKNOWN


def report(tree: KernelTree, state: str, now: float = 1060.0) -> PendingHandoff | None:
    return handoff.arrived(state, root=tree.root, now=lambda: now, uptime=lambda: 50.0)


def test_the_new_boot_notes_once_that_it_has_come_up(tree: KernelTree, state: str) -> None:
    handoff.write(PENDING, state)
    noted = report(tree, state)
    assert noted and (noted.arrived_in, noted.arrived_at) == (BOOT_ID, 1010.0)
    assert handoff.read(state) == noted
    assert report(tree, state, now=2000.0) == noted


@pytest.mark.parametrize(
    "pending",
    [
        None,
        replace(PENDING, from_boot_id=BOOT_ID),
        replace(PENDING, nonce="f" * 16),
        replace(PENDING, nonce=""),
        replace(PENDING, seen_in="another boot"),
        replace(PENDING, arrived_in="another boot"),
    ],
    ids=["no record", "asked for here", "another nonce", "no nonce", "settled", "arrived before"],
)
def test_no_other_boot_notes_anything(tree: KernelTree, state: str, pending: PendingHandoff | None) -> None:
    if pending:
        handoff.write(pending, state)
    assert report(tree, state) is None
    handoff.give_up("no network", state, root=tree.root)
    assert handoff.read(state) == pending


def test_a_boot_that_gives_itself_up_says_why_and_the_first_reason_stays(tree: KernelTree, state: str) -> None:
    handoff.write(PENDING, state)
    handoff.give_up("its kernel\nis another one", state, root=tree.root)
    handoff.give_up("and there is no network", state, root=tree.root)
    told = handoff.read(state)
    assert told and (told.failure, told.arrived_in) == ("its kernel is another one", BOOT_ID)


def test_a_reason_has_an_end(tree: KernelTree, state: str) -> None:
    handoff.write(PENDING, state)
    handoff.give_up("x" * 100_000, state, root=tree.root)
    told = handoff.read(state)
    assert told and told.failure == "x" * 597 + "..."


def test_a_later_boot_with_the_same_nonce_is_not_what_the_jump_led_to(tree: KernelTree, state: str) -> None:
    """A crash kernel's, or one that others have loaded with the running command line."""
    handoff.write(replace(PENDING, arrived_in="the boot before"), state)
    seen = arrived(tree, state)
    assert seen.how is How.OTHER
    assert "led to an earlier boot" in seen.reason


def test_the_boot_after_says_why_the_new_kernel_gave_itself_up(tree: KernelTree, state: str) -> None:
    handoff.write(replace(PENDING, arrived_in="the boot before", failure="no network within 300 s"), state)
    tree.write("proc/cmdline", "ro\n")
    assert arrived(tree, state).reason == ("the kexec that was asked for failed: no network within 300 s")


def test_a_power_cut_at_any_call_leaves_the_old_record_or_the_new_one(tmp_path: Path) -> None:
    state = tmp_path / "state"
    handoff.write(PENDING, str(state))
    seen = set()
    for _ in cuts(state, lambda: handoff.write(WHOLE, str(state))):
        assert (left := handoff.read(str(state))) in (PENDING, WHOLE)
        seen.add(left)
    assert seen == {PENDING, WHOLE}
    made = calls(lambda: handoff.write(PENDING, str(state)))
    assert [name for name in made if name in ("fsync", "rename")] == ["fsync", "rename", "fsync"]


def test_what_a_cut_leaves_of_the_new_record_is_never_read(tmp_path: Path) -> None:
    handoff.write(WHOLE, str(tmp_path))
    whole = Path(tmp_path, "pending.json").read_bytes()
    handoff.write(PENDING, str(tmp_path))
    for length in range(len(whole)):
        Path(tmp_path, ".pending.json.123").write_bytes(whole[:length])
        assert handoff.read(str(tmp_path)) == PENDING


def test_a_power_cut_while_it_is_forgotten_leaves_it_or_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    handoff.write(PENDING, str(state))
    for _ in cuts(state, lambda: handoff.forget(str(state))):
        assert handoff.read(str(state)) in (PENDING, None)


def test_two_who_change_the_record_wait_for_each_other(tree: KernelTree, state: str) -> None:
    handoff.write(PENDING, state)
    reader, writer = os.pipe()
    with handoff.locked(state):
        child = os.fork()
        if child == 0:
            handoff.arrived(state, root=tree.root)
            os.write(writer, b"noted")
            os._exit(0)
        os.close(writer)
        assert not select.select([reader], [], [], 0.2)[0]
        handoff.write(replace(PENDING, to_version="6.3.0"), state)
    assert os.read(reader, 10) == b"noted"
    os.waitpid(child, 0)
    os.close(reader)
    told = handoff.read(state)
    assert told and (told.to_version, told.arrived_in) == ("6.3.0", BOOT_ID)


def test_a_lock_that_is_held_for_good_is_not_waited_for_and_its_holder_is_named(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "PATIENCE", 0.2)
    handoff.write(PENDING, state)
    begin = time.monotonic()
    with locked_by_a_stopped_process(state) as holder, pytest.raises(StillHeld) as caught:
        handoff.forget(state)
    assert time.monotonic() - begin < 5
    name = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    who = f"process {holder} ({name})"
    assert str(caught.value) == f"{who} has {state} locked, and did not let go of it within 0.2 s"
    assert isinstance(caught.value, OSError), "nobody but who says more needs to know of it"
    assert handoff.read(state) == PENDING
    handoff.forget(state)
    assert handoff.read(state) is None, "the holder has ended, and the kernel has let go for it"


def test_what_writes_that_were_cut_short_have_left_is_swept_and_nothing_is_made_for_that(state: str) -> None:
    handoff.sweep(state)
    assert not os.path.exists(state)
    handoff.write(PENDING, state)
    Path(state, f".pending.json.{nobody()}").touch()
    handoff.sweep(state)
    assert os.listdir(state) == ["pending.json"]


LATER = PendingHandoff.__slots__[PendingHandoff.__slots__.index("refused") :]
"""What an older kexecd's record has not got."""


def damaged() -> list[bytes]:
    good = {name: getattr(PENDING, name) for name in PendingHandoff.__slots__}
    whole = json.dumps(good).encode()
    wrong = [{**good, name: value} for name, value in (("way", "sideways"), ("requested_at", "x"), ("nonce", 7))]
    later = LATER
    missing = [{key: value for key, value in good.items() if key != name} for name in good if name not in later]
    wrong += [{**good, name: {}} for name in later]
    cut = [whole[:length] for length in range(len(whole))]
    other = [b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"\0" * 100, b"[" * 100_000, b"{}", b" " * (2 << 20)]
    return [*cut, *other, *(json.dumps(record).encode() for record in (*wrong, *missing))]


def test_no_damage_to_the_record_is_more_than_a_reason(tree: KernelTree, state: str) -> None:
    os.mkdir(state)
    for data in damaged():
        Path(state, "pending.json").write_bytes(data)
        seen = arrived(tree, state)
        assert seen.how is How.UNKNOWN, data[:100]
        assert "pending.json cannot be read: " in seen.reason
        with pytest.raises(Unreadable):
            handoff.read(state)


def test_a_fifo_in_the_place_of_the_record_hangs_nobody(tree: KernelTree, state: str) -> None:
    os.mkdir(state)
    os.mkfifo(f"{state}/pending.json")
    assert arrived(tree, state).how is How.UNKNOWN
