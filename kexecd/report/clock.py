# SPDX-License-Identifier: MIT
"""The downtime clock: how long it was from a moment of one boot to a moment of the next, and how exact that is.

Each boot's own clock (CLOCK_BOOTTIME) begins anew, so the two are joined by a clock that goes on meanwhile. In this
order: the processor's counter, which a kexec does not set back; the wall clock, where something kept it right in both
boots; the hardware clock, which counts whole seconds; and the wall clock as it was, which may be wrong by anything.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from enum import StrEnum

from kexecd.kernel import clocks, counter

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs as much as many of ours
if TYPE_CHECKING:
    from typing import Any

DRIFT = 1e-4
"""Seconds per second by which clocks of one machine differ: twice what a bad crystal does."""

ODD = 3.0
"""Seconds by which the hardware clock may contradict the counter, which it cannot follow to the second."""

STEP = 1.5
"""Seconds from which on the wall clock was set, and did not only drift; the hardware clock cannot tell less."""

EDGE_ERROR = 0.02  # seconds: an interrupt that is handled late


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One moment of a boot by every clock that there is.

    boottime: seconds since its kernel started (CLOCK_BOOTTIME). realtime: the wall clock, seconds since the epoch.
    wall_error: seconds by which that is wrong at most; None: nobody keeps it right.
    hardware: the hardware clock, the same, to hardware_error seconds; None: there is none.
    cycles, hertz: the processor's counter, to counter_error seconds; 0: this kernel does not tell.
    """

    boottime: float
    realtime: float
    wall_error: float | None = None
    hardware: float | None = None
    hardware_error: float = 0.0
    cycles: int = 0
    hertz: float = 0.0
    counter_error: float = 0.0

    @property
    def start(self) -> float:
        """When this boot's kernel started, by the wall clock as it was at this moment."""
        return self.realtime - self.boottime

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class By(StrEnum):
    """The clock that two boots are joined by."""

    COUNTER = "counter"
    WALL = "wall clock"
    HARDWARE = "hardware clock"
    UNKEPT = "unkept wall clock"

    @property
    def sentence(self) -> str:
        return {
            By.COUNTER: "by the processor's time counter, which a kexec does not set back",
            By.WALL: "by the wall clock, which was kept right in both boots",
            By.HARDWARE: "by the hardware clock, which counts whole seconds",
            By.UNKEPT: "by the wall clock, which nobody kept right: it may be wrong by anything",
        }[self]


@dataclass(frozen=True, slots=True)
class Join:
    """Where the later boot's clock begins on the clock of the earlier one.

    error: seconds by which it is wrong at most; None: nobody can tell. stepped: seconds by which the wall clock was set
    in between, 0 if it was not, or nobody can tell.
    """

    start: float
    error: float | None
    by: By
    stepped: float = 0.0


def join(old: Moment, new: Moment, *, kexec: bool) -> Join:
    """kexec: nothing but a kexec lies between the two boots, so that the counter has gone on."""
    stepped = _stepped(old, new)
    by_hardware = _by_hardware(old, new, stepped)
    if kexec and (by_counter := _by_counter(old, new, stepped)):
        likely = by_hardware.start if by_hardware else by_counter.start
        if by_counter.start >= old.boottime and abs(by_counter.start - likely) <= ODD + DRIFT * new.boottime:
            return by_counter
    by_wall = old.boottime + (new.realtime - old.realtime) - new.boottime
    if old.wall_error is not None and new.wall_error is not None:
        return Join(by_wall, old.wall_error + new.wall_error, By.WALL, stepped)
    return by_hardware or Join(by_wall, None, By.UNKEPT, stepped)


def _by_counter(old: Moment, new: Moment, stepped: float) -> Join | None:
    if not old.hertz or not new.hertz or new.cycles <= old.cycles:
        return None
    passed = (new.cycles - old.cycles) / new.hertz
    # Each kernel measures the counter's speed anew, and CLOCK_BOOTTIME is kept right since then by whoever sets it.
    wrong = abs(1 - old.hertz / new.hertz) * passed + DRIFT * new.boottime
    error = old.counter_error + new.counter_error + wrong
    return Join(old.boottime + passed - new.boottime, error, By.COUNTER, stepped)


def _by_hardware(old: Moment, new: Moment, stepped: float) -> Join | None:
    if old.hardware is None or new.hardware is None:
        return None
    passed = new.hardware - old.hardware
    error = old.hardware_error + new.hardware_error + DRIFT * abs(passed)
    return Join(old.boottime + passed - new.boottime, error, By.HARDWARE, stepped)


def _stepped(old: Moment, new: Moment) -> float:
    if old.hardware is None or new.hardware is None:
        return 0.0
    step = (new.realtime - new.hardware) - (old.realtime - old.hardware)
    return step if abs(step) >= STEP else 0.0


def moment(*, wait: bool = False) -> Moment:
    """This one. wait: up to 1.5 s, so that the hardware clock is exact, where the counter is not."""
    count = counter.read()
    edge = clocks.hardware_edge() if wait and not count else None
    second = clocks.hardware() if not edge else None
    boottime, realtime = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    return Moment(
        boottime=boottime,
        realtime=realtime,
        wall_error=clocks.wall_error(),
        hardware=edge[1] + boottime - edge[0] if edge else None if second is None else second + 0.5,
        hardware_error=EDGE_ERROR if edge else 0.5,
        cycles=count.cycles + round((boottime - count.boottime) * count.hertz) if count else 0,
        hertz=count.hertz if count else 0.0,
        counter_error=count.error if count else 0.0,
    )


def parse(fields: dict[str, Any]) -> Moment:
    """The reverse of as_json. Raises ValueError, TypeError, KeyError."""
    hardware, wall_error = fields["hardware"], fields["wall_error"]
    return Moment(
        boottime=float(fields["boottime"]),
        realtime=float(fields["realtime"]),
        wall_error=None if wall_error is None else float(wall_error),
        hardware=None if hardware is None else float(hardware),
        hardware_error=float(fields["hardware_error"]),
        cycles=int(fields["cycles"]),
        hertz=float(fields["hertz"]),
        counter_error=float(fields["counter_error"]),
    )
