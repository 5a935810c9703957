# SPDX-License-Identifier: MIT
"""What a real systemd answers without systemctl in between is what it answers with it."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from kexecd.errors import NotRestarted
from kexecd.init import systemd_units
from kexecd.init.systemd_bus import SOCKET, list_units
from kexecd.init.systemd_units import ACTIVE, UNIT_TYPES, _listed, active_units, groups_of
from kexecd.kernel import freezer, proc
from kexecd.teardown.survey import running
from tests.namespaces.little_systemd import beside_systemd

MANY = {f"one-of-many-{number}.service": "ExecStart=sleep 1000" for number in range(30)}
PATTERNS = [f"*.{kind}" for kind in UNIT_TYPES]


@beside_systemd({**MANY, "over.service": "Type=oneshot\nRemainAfterExit=yes\nExecStart=true"})
def test_the_units_that_are_active_are_those_that_systemctl_lists() -> None:
    units = list_units(ACTIVE, PATTERNS, seconds=10)
    assert sorted(units) == sorted(_listed())
    assert set(MANY) < {unit.name for unit in units}
    assert ("over.service", "active", "exited") in units
    assert "over.service" in active_units(), "its ExecStop is still to be run"


@beside_systemd({"web.service": "ExecStart=sleep 1000"})
def test_few_words_are_understood_as_well_as_many() -> None:
    assert [unit.name for unit in list_units(["active"], ["web.*"], seconds=10)] == ["web.service"]
    assert list_units(["active"], ["no-such.service"], seconds=10) == []


@beside_systemd({"web.service": "ExecStart=sleep 1000"})
def test_without_its_socket_systemd_is_asked_by_systemctl() -> None:
    before = active_units()
    os.rename(SOCKET, f"{SOCKET}-no-more")
    Path(SOCKET).touch()  # systemctl then asks over the bus, of which this machine has none
    with pytest.raises(NotRestarted, match="does not tell its units"):
        active_units()
    os.unlink(SOCKET)
    os.rename(f"{SOCKET}-no-more", SOCKET)
    patch = pytest.MonkeyPatch()
    patch.setattr(systemd_units, "list_units", partial(list_units, path="/run/no-such-socket"))
    try:
        assert sorted(active_units()) == sorted(before)
    finally:
        patch.undo()


@beside_systemd({"web.service": "ExecStart=sleep 1000"})
def test_a_systemd_that_does_not_answer_is_not_waited_for_without_end() -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(systemd_units, "ANSWERING", 0.5)
    begin = time.monotonic()
    freezer.hold()
    try:
        with pytest.raises(NotRestarted, match="did not answer within"):
            active_units()
    finally:
        freezer.release()
        patch.undo()
    assert time.monotonic() - begin < 5


@beside_systemd({**MANY, "web.service": "ExecStart=sh -c 'sleep 1000 & sleep 1000'"})
def test_the_groups_say_the_same_of_everybody_as_each_process_does() -> None:
    everybody = running()
    patch = pytest.MonkeyPatch()
    patch.setattr(systemd_units, "MANY", 1)
    try:
        found = groups_of(everybody)
    finally:
        patch.undo()
    assert found == {process: proc.cgroup(process.pid) for process in everybody}
    assert len(set(found.values())) > len(MANY)
