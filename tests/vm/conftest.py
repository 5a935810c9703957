# SPDX-License-Identifier: MIT
"""Guests for the tests: booted once, saved, and started again from there in a fraction of a second."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.vm.lab.booted import booted
from tests.vm.lab.guest import Guest
from tests.vm.lab.image import build
from tests.vm.lab.recipe import DEBIAN12_SYSTEMD
from tests.vm.lab.snapshot import Snapshot


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure carries what the guest said last, also a plain `assert` outside of the lab's own methods."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Guest):
                report.sections.append((f"console of {name}", value.console_tail()))
    return report


@pytest.fixture(scope="session")
def systemd_snapshot() -> Snapshot:
    return booted(build(DEBIAN12_SYSTEMD))


@pytest.fixture
def guest(systemd_snapshot: Snapshot, tmp_path: Path) -> Iterator[Guest]:
    """A Debian 12 guest with systemd that has just booted."""
    with Guest.from_snapshot(systemd_snapshot, workdir=tmp_path) as guest:
        yield guest
