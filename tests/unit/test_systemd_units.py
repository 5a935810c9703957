# SPDX-License-Identifier: MIT
"""Which unit goes with whom."""

from __future__ import annotations

import pytest

from kexecd.init.systemd_units import complaints, is_guest, jobs, sort_out
from kexecd.init.unit_files import Wishes
from kexecd.kernel.spawn import Finished
from kexecd.model import Process

ACTIVE = (
    "init.scope", "session-3.scope", "user@1000.service", "user-runtime-dir@1000.service", "sshd.service",
    "cron.service",
    "docker.service", "docker.socket", "containerd.service", "docker-4a1d2c9be01f.scope", "web.service", "dbus.service",
    "dbus.socket", "systemd-journald.service", "systemd-journald-dev-log.socket", "systemd-udevd-kernel.socket",
    "libvirt-guests.service", "libvirtd.service", "logrotate.timer",
)  # fmt: skip


def of_pid_1(unit: str) -> Wishes:
    return Wishes(pid_1=True)


def test_sessions_go_before_services_and_what_all_talk_to_goes_last() -> None:
    units = sort_out(ACTIVE, (), of_pid_1)
    assert units.guests == ()
    assert units.sessions == ("session-3.scope", "user@1000.service")
    assert units.basics == (
        "dbus.service", "dbus.socket", "systemd-journald.service", "systemd-journald-dev-log.socket",
        "systemd-udevd-kernel.socket",
    )  # fmt: skip
    going = (*units.guests, *units.sessions, *units.services, *units.direct, *units.basics, *units.ground)
    assert sorted(going) == sorted(set(ACTIVE) - {"init.scope"}), "each once"


def test_where_guests_run_their_keepers_go_first_but_not_what_these_work_with() -> None:
    with_guests = {"docker-4a1d2c9be01f.scope", "web.service", "containerd.service", "user@1000.service"}
    units = sort_out(ACTIVE, with_guests, of_pid_1)
    assert units.guests == ("docker.service", "docker.socket", "web.service", "libvirt-guests.service")
    assert {"containerd.service", "libvirtd.service", "docker-4a1d2c9be01f.scope"} <= set(units.services)
    assert "user@1000.service" in units.sessions


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("qemu-system-x86", "/system.slice/my-machine.service", True),
        ("nginx", "/system.slice/web.service/libpod-payload-4a1d", True),
        ("containerd-shim", "/system.slice/containerd.service", False),
        ("conmon", "/machine.slice/libpod-conmon-4a1d2c9be01f.scope", False),
        ("sshd", "/system.slice/sshd.service", False),
    ],
)
def test_a_unit_is_a_guests_if_the_guest_itself_is_in_it(name: str, group: str, expected: bool) -> None:
    assert is_guest(Process(812, 1, 812, 0, 0, "S", name, 1, False), group) is expected


def test_what_could_not_be_stopped_is_told_but_for_what_nobody_can() -> None:
    errors = (
        "Failed to stop docker-4a1d.scope: Unit docker-4a1d.scope not loaded.\n"
        "Failed to stop systemd-update-utmp.service: Operation refused, unit may be requested by dependency only"
        " (it is configured to refuse manual start/stop).\n"
        "Failed to stop x.service: Access denied\nSee system logs for details.\n"
    )
    assert complaints(Finished(1, "", errors)) == ("Failed to stop x.service: Access denied",)
    assert complaints(Finished(0, "", errors)) == ()


def test_the_units_that_are_still_being_stopped_are_read_from_the_jobs() -> None:
    assert jobs("711 hasty.service stop running\n712 cron.service stop waiting\n") == {"hasty.service"}
    assert jobs("No jobs running.\n") == set()


def test_pid_1_stops_what_needs_it_and_the_others_are_asked_directly() -> None:
    units = sort_out(ACTIVE, (), lambda unit: Wishes(unit in ("sshd.service", "web.service"), unit == "cron.service"))
    assert units.services == ("sshd.service", "web.service")
    assert {"containerd.service", "docker.socket", "logrotate.timer"} <= set(units.direct)
    assert units.ground == ("cron.service",)
