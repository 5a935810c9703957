# SPDX-License-Identifier: MIT
"""The downtime clock: two boots joined by the best clock that went on meanwhile, and how exact that is."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pytest

from kexecd.kernel import clocks, counter
from kexecd.report import clock
from kexecd.report.clock import By, Moment, join
from tests.unit.report import sample

OLD = Moment(boottime=100.0, realtime=5000.0)
NEW = Moment(boottime=10.0, realtime=5013.0)  # its kernel has started 3 s after OLD


def kept(moment: Moment, error: float) -> Moment:
    return replace(moment, wall_error=error)


def with_hardware(moment: Moment, seconds: float, error: float = 0.5) -> Moment:
    return replace(moment, hardware=seconds, hardware_error=error)


def counted(moment: Moment, seconds: float, hertz: float = 2e9) -> Moment:
    return replace(moment, cycles=round(seconds * hertz), hertz=hertz, counter_error=0.0001)


def test_a_wall_clock_that_was_kept_right_in_both_boots_is_as_exact_as_who_kept_it_says() -> None:
    joined = join(kept(OLD, 0.02), kept(NEW, 0.03), kexec=True)
    assert joined.by is By.WALL and joined.start == 103.0 and joined.error == pytest.approx(0.05)


def test_a_wall_clock_that_nobody_kept_right_is_said_to_be_of_unknown_exactness() -> None:
    joined = join(kept(OLD, 0.02), NEW, kexec=True)
    assert (joined.by, joined.start, joined.error) == (By.UNKEPT, 103.0, None)


def test_the_hardware_clock_is_exact_to_its_second_and_tells_that_the_wall_clock_was_set() -> None:
    joined = join(with_hardware(OLD, 7000.0), with_hardware(replace(NEW, realtime=9999.0), 7013.0), kexec=False)
    assert (joined.by, joined.start) == (By.HARDWARE, 103.0)
    assert joined.error == pytest.approx(1.0013)
    assert joined.stepped == pytest.approx(9999 - 5013)


def test_the_counter_is_exact_to_a_millisecond_of_a_kexec_whatever_the_wall_clock_says() -> None:
    old, new = counted(OLD, 500.0), counted(replace(NEW, realtime=1.0), 513.0)
    joined = join(old, new, kexec=True)
    assert joined.by is By.COUNTER and joined.start == pytest.approx(103.0)
    assert joined.error == pytest.approx(0.0012)


def test_the_counter_of_a_boot_that_came_through_the_firmware_has_begun_anew_and_is_not_believed() -> None:
    old, new = counted(OLD, 500.0), counted(NEW, 513.0)
    assert join(old, new, kexec=False).by is By.UNKEPT


@pytest.mark.parametrize("seconds", [12.0, 499.0, 2000.0])
def test_a_counter_that_was_set_back_or_that_the_hardware_clock_contradicts_is_not_believed(seconds: float) -> None:
    old = with_hardware(counted(OLD, 500.0), 7000.0)
    assert join(old, with_hardware(counted(NEW, seconds), 7013.0), kexec=True).by is By.HARDWARE


def test_two_kernels_that_disagree_about_the_counters_speed_make_it_less_exact() -> None:
    joined = join(counted(OLD, 500.0), replace(counted(NEW, 513.0), hertz=2.002e9), kexec=True)
    assert joined.error is not None and joined.error > 0.01


def test_a_moment_survives_being_written_down() -> None:
    moment = sample.down().moment
    assert clock.parse(moment.as_json()) == moment


def test_this_moment_is_now() -> None:
    now = clock.moment()
    assert now.realtime == pytest.approx(time.time(), abs=5)
    assert now.boottime == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)
    assert now.wall_error is None or 0 <= now.wall_error < 100


def page(*, capabilities: int, shift: int = 31, mult: int = 825961285, offset: int = 0, zero: int = 0) -> bytes:
    """The fields of struct perf_event_mmap_page that are looked at; the rest is as a guest had it."""
    return struct.pack("=40xQHHIQQ", capabilities, 0, shift, mult, offset, zero) + bytes(8)


def test_the_counters_reading_is_found_in_the_page_of_a_perf_event() -> None:
    # What an emulated guest with a processor of 2.6 GHz showed 18 s after its start.
    found = counter.parse(page(capabilities=0b11010, offset=18446744055371281378, zero=18446744073405170667))
    assert found is not None
    cycles, hertz = found
    assert cycles == 47679154197 and hertz == pytest.approx(2.599981e9)


@pytest.mark.parametrize("capabilities", [0, 0b01010])
def test_a_kernel_whose_clock_is_another_one_does_not_tell(capabilities: int) -> None:
    assert counter.parse(page(capabilities=capabilities)) is None


def test_the_counter_of_this_machine_goes_on_or_is_not_told() -> None:
    """Under a hypervisor with a clock of its own there is none to be had; what there is has to be right."""
    first, second = counter.read(), counter.read()
    if first is None or second is None:
        assert clock.moment().hertz == 0.0
    else:
        passed = (second.cycles - first.cycles) / second.hertz
        assert passed == pytest.approx(second.boottime - first.boottime, abs=first.error + second.error + 1e-4)


def test_a_hardware_clock_that_is_not_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "RTC", "/nowhere/since_epoch")
    monkeypatch.setattr(clocks, "DEVICE", "/nowhere/rtc0")
    assert clocks.hardware() is None and clocks.hardware_edge() is None
    assert clock.moment(wait=True).hardware is None
