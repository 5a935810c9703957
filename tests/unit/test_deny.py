# SPDX-License-Identifier: MIT
"""The deny list: which kernels are on it, for which machine, and what a power cut leaves of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kexecd import deny
from kexecd.deny import Denial
from kexecd.handoff import Unreadable
from tests.unit.power_cut import calls, cuts

HERE, ELSEWHERE = "00112233445566ff", "ffeeddccbbaa9988"
DENIAL = Denial(
    machine=HERE,
    kernel_sha256="ab" * 32,
    version="6.2.0",
    entry_id="linux-6.2",
    reason="Kernel panic - not syncing: Attempted to kill init!",
    since=1030.0,
    nonce="0123456789abcdef",
)
OTHER = replace(DENIAL, kernel_sha256="cd" * 32, version="6.3.0", entry_id="linux-6.3", nonce="f" * 16)


def asked(state: Path, sha256: str, version: str = "", machine: str = HERE) -> Denial | None:
    return deny.denied(machine, digest=lambda: sha256, version=version, state_dir=str(state))


def test_nothing_is_denied_where_nothing_has_failed(tmp_path: Path) -> None:
    assert deny.denials(str(tmp_path / "none")) == ()

    def nobody() -> str:
        raise AssertionError("it takes time, and nobody needs it")

    assert deny.denied(HERE, digest=nobody, version="6.2.0", state_dir=str(tmp_path)) is None


def test_the_same_content_is_denied_whatever_it_is_called(tmp_path: Path) -> None:
    deny.add(DENIAL, str(tmp_path))
    assert asked(tmp_path, "ab" * 32, "another name") == DENIAL
    assert (tmp_path / "deny.json").stat().st_mode & 0o777 == 0o600


def test_another_build_of_the_same_version_is_another_kernel(tmp_path: Path) -> None:
    deny.add(DENIAL, str(tmp_path))
    assert asked(tmp_path, "cd" * 32, "6.2.0") is None


def test_the_version_counts_where_one_side_has_no_digest(tmp_path: Path) -> None:
    deny.add(DENIAL, str(tmp_path))
    assert asked(tmp_path, "", "6.2.0") == DENIAL
    deny.forgive_all(str(tmp_path))
    deny.add(replace(DENIAL, kernel_sha256=""), str(tmp_path))
    assert asked(tmp_path, "ab" * 32, "6.2.0")
    assert asked(tmp_path, "ab" * 32, "6.3.0") is None


def test_two_kernels_of_which_nothing_is_known_are_not_the_same(tmp_path: Path) -> None:
    deny.add(replace(DENIAL, kernel_sha256="", version=""), str(tmp_path))
    assert asked(tmp_path, "", "") is None


def test_another_machine_or_another_firmware_is_another_chance(tmp_path: Path) -> None:
    deny.add(DENIAL, str(tmp_path))
    assert asked(tmp_path, "ab" * 32, "6.2.0", ELSEWHERE) is None


def test_a_kernel_that_fails_again_is_on_the_list_once_with_the_last_reason(tmp_path: Path) -> None:
    deny.add(DENIAL, str(tmp_path))
    deny.add(OTHER, str(tmp_path))
    again = replace(DENIAL, reason="no network", nonce="1" * 16)
    deny.add(again, str(tmp_path))
    assert deny.denials(str(tmp_path)) == (OTHER, again)


@pytest.mark.parametrize("which", ["6.2.0", "linux-6.2", "0123456789abcdef", "abababab", "ab" * 32])
def test_forgiving_takes_off_what_is_called_so(tmp_path: Path, which: str) -> None:
    deny.add(DENIAL, str(tmp_path))
    deny.add(OTHER, str(tmp_path))
    assert deny.forgive(which, str(tmp_path)) == (DENIAL,)
    assert deny.denials(str(tmp_path)) == (OTHER,)


@pytest.mark.parametrize("which", ["", "6.2", "ab", "linux", "cdcdcdc"])
def test_half_a_name_forgives_nothing(tmp_path: Path, which: str) -> None:
    deny.add(DENIAL, str(tmp_path))
    assert deny.forgive(which, str(tmp_path)) == ()
    assert deny.denials(str(tmp_path)) == (DENIAL,)


def test_all_can_be_forgiven_also_from_a_list_that_is_damaged(tmp_path: Path) -> None:
    deny.add(DENIAL, str(tmp_path))
    assert deny.forgive_all(str(tmp_path)) == (DENIAL,)
    assert deny.denials(str(tmp_path)) == ()
    (tmp_path / "deny.json").write_bytes(b"\0" * 100)
    assert deny.forgive_all(str(tmp_path)) == ()
    assert deny.denials(str(tmp_path)) == ()
    assert deny.forgive_all(str(tmp_path / "none")) == ()


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"[]", b"{}", b'{"denied": [7]}', b"[" * 100_000])
def test_a_damaged_list_is_no_empty_list(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "deny.json").write_bytes(damage)
    with pytest.raises(Unreadable):
        deny.denials(str(tmp_path))
    deny.add(DENIAL, str(tmp_path))
    assert deny.denials(str(tmp_path)) == (DENIAL,)


def test_a_power_cut_at_any_call_leaves_the_old_list_or_the_new_one(tmp_path: Path) -> None:
    state = tmp_path / "state"
    deny.add(DENIAL, str(state))
    seen = set()
    for _ in cuts(state, lambda: deny.add(OTHER, str(state))):
        assert (left := deny.denials(str(state))) in ((DENIAL,), (DENIAL, OTHER))
        seen.add(left)
    assert seen == {(DENIAL,), (DENIAL, OTHER)}
    for _ in cuts(state, lambda: deny.forgive("6.2.0", str(state))):
        assert deny.denials(str(state)) in ((DENIAL, OTHER), (OTHER,))


def test_the_list_is_on_the_disk_before_its_name_is(tmp_path: Path) -> None:
    made = calls(lambda: deny.add(DENIAL, str(tmp_path)))
    assert [name for name in made if name in ("fsync", "rename")] == ["fsync", "rename", "fsync"]


def test_what_a_cut_leaves_of_the_new_list_is_never_read(tmp_path: Path) -> None:
    deny.add(DENIAL, str(tmp_path))
    whole = (tmp_path / "deny.json").read_bytes()
    for length in range(len(whole)):
        (tmp_path / ".deny.json.123").write_bytes(whole[:length])
        assert deny.denials(str(tmp_path)) == (DENIAL,)
