# SPDX-License-Identifier: MIT
"""What a real systemd tells of its own times and its units', as PID 1 of namespaces of its own."""

from __future__ import annotations

import subprocess

import pytest

from kexecd.init import ascent
from kexecd.kernel import sysfs
from tests.namespaces.little_systemd import beside_systemd

SLOW_START = "Type=oneshot\nRemainAfterExit=yes\nExecStart=sleep 0.6\nExecStop=sleep 0.4"
QUICK = "Type=oneshot\nRemainAfterExit=yes\nExecStart=true"


def stop(unit: str) -> None:
    subprocess.run(["systemctl", "stop", unit], check=True, timeout=30)


@beside_systemd({"slow.service": SLOW_START, "quick.service": QUICK})
def test_it_tells_when_it_began_and_which_service_took_how_long_to_start() -> None:
    marks = ascent.marks("systemd")
    assert marks.source.startswith("systemd")
    now = sysfs.uptime()
    # Of the machine's clock: this systemd has begun long after the kernel.
    assert marks.userspace is not None and now - 60 < marks.userspace < now
    (slow,) = [service for service in marks.services if service.name == "slow.service"]
    assert "quick.service" not in [service.name for service in marks.services]
    assert slow.end - slow.begin == pytest.approx(0.6, abs=0.4)


@beside_systemd({"slow.service": SLOW_START, "quick.service": QUICK})
def test_it_tells_which_unit_took_how_long_to_stop_and_only_since_the_way_down_began() -> None:
    stop("slow.service")
    began = sysfs.uptime()
    assert [unit.name for unit in ascent.stopped("systemd", began)] == []
    subprocess.run(["systemctl", "start", "slow.service"], check=True, timeout=30)
    stop("slow.service")
    stop("quick.service")
    (slow,) = ascent.stopped("systemd", began)
    assert slow.name == "slow.service" and slow.end - slow.begin == pytest.approx(0.4, abs=0.3)
    assert began <= slow.begin <= slow.end <= sysfs.uptime()
