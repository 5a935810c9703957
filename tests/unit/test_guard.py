# SPDX-License-Identifier: MIT
"""The rule that keeps the tests from taking down the machine they run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from kexecd.errors import NotPermitted
from kexecd.kernel import guard
from kexecd.kernel.guard import forbid_in_tests


@pytest.fixture
def initial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that passes for the initial pid namespace, wherever these tests run."""
    namespace = tmp_path / "pid"
    namespace.touch()
    monkeypatch.setattr(guard, "PID_NAMESPACE", str(namespace))
    monkeypatch.setattr(guard, "PROC_PID_INIT_INO", namespace.stat().st_ino)
    return namespace


@pytest.mark.parametrize("variable", ["PYTEST_CURRENT_TEST", "KEXECD_UNDER_TEST"])
def test_a_test_in_the_machines_own_pid_namespace_is_refused(
    initial: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in guard.TEST_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(NotPermitted, match="refusing to restart the machine: this is a test"):
        forbid_in_tests("restart the machine")


def test_a_test_in_a_pid_namespace_of_its_own_may(initial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PROC_PID_INIT_INO", initial.stat().st_ino + 1)
    forbid_in_tests("restart the machine")


def test_what_is_no_test_may(initial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in guard.TEST_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    forbid_in_tests("restart the machine")


def test_a_test_that_cannot_see_its_namespace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PID_NAMESPACE", "/nonexistent")
    with pytest.raises(NotPermitted):
        forbid_in_tests("restart the machine")
