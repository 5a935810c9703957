# SPDX-License-Identifier: MIT
"""kexecctl confirm: what it takes from the policy, a person's word, and what it writes down."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import handoff, history
from kexecd.cli import confirm
from kexecd.config.policy import Policy
from kexecd.errors import BadConfig, ExitCode, NotPermitted, Refusal
from kexecd.handoff import Arrival, How, PendingHandoff
from kexecd.history import Outcome
from kexecd.kernel import sysfs
from kexecd.model import NONCE_KEY, Way
from kexecd.wayback import oneshot, settle
from kexecd.wayback.health import Wanted
from tests.unit.locks import locked_by_a_stopped_process

PENDING = PendingHandoff(
    nonce="0123456789abcdef",
    from_boot_id="another-boot",
    from_release="6.1.0",
    to_entry_id="an-entry",
    to_version="6.12.9",
    way=Way.FAST,
    requested_at=1000.0,
    limit=60.0,
)


def test_a_command_of_the_policy_is_parted_as_a_shell_would() -> None:
    policy = Policy(confirm_commands=("/bin/check --name 'two words'",), confirm_units=("a",), confirm_reach=("b:1",))
    assert confirm._wanted(policy) == Wanted((("/bin/check", "--name", "two words"),), ("a",), ("b:1",))


def test_a_policy_that_cannot_be_taken_leaves_the_boot_watched_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Policy:
        raise BadConfig("cannot take the policy", "line 3 makes no sense")

    monkeypatch.setattr(confirm, "read_policy", broken)
    assert confirm._policy() == (Policy(), "cannot take the policy: line 3 makes no sense")


def test_nobody_but_root_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotPermitted):
        confirm.confirm(Namespace(accept=True, json=False))


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """This boot came by a kexec; the records lie in a directory of the test's."""
    state_dir = str(tmp_path)
    real = settle.confirmed
    monkeypatch.setattr(handoff, "arrival", lambda: Arrival(How.KEXEC, "", "6.12.9", handoff.read(state_dir)))
    monkeypatch.setattr(settle, "confirmed", lambda nonce, why: real(nonce, why, state_dir=state_dir))
    monkeypatch.setattr(sysfs, "running_cmdline", lambda root="/": f"{NONCE_KEY}={PENDING.nonce}")
    handoff.write(PENDING, state_dir)
    return state_dir


def accept(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert confirm.confirm(Namespace(accept=True, json=True)) is ExitCode.OK
    document: dict[str, str] = json.loads(capsys.readouterr().out)
    return document


def test_a_persons_word_is_enough_and_is_asked_for_once(arrived: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert accept(capsys) == {"schema": 1, "end": "confirmed", "reason": "somebody has said that it is good"}
    (attempt,) = history.attempts(arrived)
    assert attempt.outcome is Outcome.CONFIRMED and attempt.nonce == PENDING.nonce
    assert accept(capsys)["end"] == "nothing"
    assert len(history.attempts(arrived)) == 1


def test_what_somebody_tells_the_boot_loader_before_this_boot_is_confirmed_stays(
    arrived: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = Path(arrived, "grubenv")
    block.write_bytes(b"# GRUB Environment Block\nnext_entry=later\n".ljust(1024, b"#"))
    monkeypatch.setattr(oneshot, "GRUB_BLOCKS", (str(block),))
    handoff.write(replace(PENDING, one_shot="next_entry"), arrived)
    assert accept(capsys)["end"] == "confirmed"
    assert b"next_entry=later" in block.read_bytes()


def test_a_lock_that_nobody_lets_go_of_is_why_a_boot_is_not_confirmed(
    arrived: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "PATIENCE", 0.1)
    with locked_by_a_stopped_process(arrived) as holder, pytest.raises(Refusal, match=f"process {holder} ") as caught:
        confirm.confirm(Namespace(accept=True, json=True))
    assert caught.value.instead == "it is not confirmed"
