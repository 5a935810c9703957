# SPDX-License-Identifier: MIT
"""When this boot had come how far, and what took long to stop at its end: from systemd where that is PID 1, else from
what the init in use leaves behind.

- The kernel says when it starts an initrd's /init (init/main.c, run_init_process), in /dev/kmsg
  (Documentation/ABI/testing/dev-kmsg); a systemd in the initrd says so too.
- systemd keeps the times of its start and of each unit (org.freedesktop.systemd1(5)), but forgets a unit that has
  stopped and that no other one refers to: every session, and a service whose target has stopped. What it has said of
  those is in the journal, under numbers of its own (src/systemd/sd-messages.h).
- OpenRC makes its directories in /run/openrc when it begins, and a link in `started` when a service has started
  (src/librc/librc.c, rc_service_mark). Those times are the wall clock's.
- Of any other init the first process that it has started and that still runs is the nearest that can be had.

Nothing here fails a boot: what nobody can tell is None.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator

from kexecd.errors import NotRestarted
from kexecd.init.systemd_units import systemctl
from kexecd.kernel import proc
from kexecd.kernel.files import read_text
from kexecd.kernel.spawn import run
from kexecd.report.up import Marks, Service

KMSG = "/dev/kmsg"
OPENRC = "/run/openrc"
RC_CONF = "/etc/rc.conf"

ASKING = 15.0  # seconds for systemd to tell of all its units
STOPPING = 3.0  # seconds for the same on the way down, the journal included
LATE = 300.0  # seconds from which on a process is no sign any more of when the init began
SLOWEST = 8  # services that are told of
SLOW = 0.1  # seconds from which on one is

_RUNS = re.compile(r"Run (\S+) as init process")
_MANAGER = ("InitRDTimestampMonotonic", "UserspaceTimestampMonotonic", "FinishTimestampMonotonic")
_STARTED = ("Id", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
_STOPPED = ("Id", "ActiveExitTimestampMonotonic", "InactiveEnterTimestampMonotonic")
_KINDS = ("*.service", "*.mount", "*.device")

JOURNALCTL = ("/usr/bin/journalctl", "/bin/journalctl")
LINES = 2000  # of the journal, the last ones of this boot: as many as spawn.OUTPUT_LIMIT has room for
UNIT_STOPPING = "de5b426a63be47a7b6ac3eaac82e2f6f"
UNIT_STOPPED = "9d1aaa27d60140bd96365438aad20286"


def marks(init: str) -> Marks:
    """init: what PID 1 is, as kexecd.init.detect names it. May take as long as PID 1 takes to answer."""
    messages = tuple(_messages())
    if init == "systemd":
        with contextlib.suppress(OSError, NotRestarted):
            return of_systemd(_show(_MANAGER), _show(_STARTED, *_KINDS), messages)
    if os.path.isdir(OPENRC):
        return of_openrc(messages, *_openrc(), start=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
    return _of_processes(messages)


def stopped(init: str, since: float) -> tuple[Service, ...]:
    """What took longest to stop on PID 1's way down, as far as it tells; all in CLOCK_BOOTTIME. since: when that began.

    To be asked when it is over; an answer that does not come soon is none.
    """
    if init != "systemd":
        return ()
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()  # which systemd's clock does not count
    until = time.monotonic() + STOPPING
    known: dict[str, Service] = {}
    for tell in (_known_of_stopping, _said_of_stopping):  # the first one is to the microsecond, and quick
        told: dict[str, Service] = {}
        with contextlib.suppress(OSError, NotRestarted):
            for unit in tell(max(0.0, until - time.monotonic())):
                if unit.end + asleep >= since:
                    told[unit.name] = Service(unit.name, unit.begin + asleep, unit.end + asleep)
        known = told | known
    return _slowest(known.values())


def _known_of_stopping(seconds: float) -> Iterator[Service]:
    """Raises OSError and NotRestarted."""
    # --all: a pattern alone finds only what still runs.
    return _units(_show(_STOPPED, "--all", "*.service", "*.scope", seconds=seconds), _STOPPED)


def _said_of_stopping(seconds: float) -> Iterator[Service]:
    """Raises OSError."""
    for path in JOURNALCTL:
        if os.access(path, os.X_OK):
            matches = ("_PID=1", f"MESSAGE_ID={UNIT_STOPPING}", f"MESSAGE_ID={UNIT_STOPPED}")
            form = ("--boot", "--quiet", f"--lines={LINES}", "--output=json", "--output-fields=UNIT,MESSAGE_ID")
            return of_journal(run([path, *form, *matches], seconds=seconds).output)
    return iter(())


def of_journal(text: str) -> Iterator[Service]:
    """text: a JSON object on each line, of what PID 1 has said of units that it stops and that have stopped; in
    CLOCK_MONOTONIC."""
    begun: dict[str, float] = {}
    for line in text.splitlines():
        try:
            said = json.loads(line)
            name, kind, at = said["UNIT"], said["MESSAGE_ID"], int(said["__MONOTONIC_TIMESTAMP"]) / 1e6
        except (ValueError, KeyError, TypeError):  # cut off, or of somebody who uses these numbers for something else
            continue
        if not isinstance(name, str):
            continue
        if kind == UNIT_STOPPING:
            begun[name] = at
        elif kind == UNIT_STOPPED and name in begun and name.endswith((".service", ".scope")):
            yield Service(name, begun.pop(name), at)


def _show(properties: Iterable[str], *words: str, seconds: float = ASKING) -> str:
    """Raises OSError, and NotRestarted where there is no systemctl."""
    return run([*systemctl(), "show", f"--property={','.join(properties)}", *words], seconds=seconds).output


def of_systemd(manager: str, units: str, messages: Iterable[tuple[float, str]]) -> Marks:
    """manager, units: what `systemctl show` says, a property on each line, and an empty line between two units."""
    told = {name: int(value) / 1e6 for name, value in _properties(manager).items() if value.isdecimal()}
    initrd = told.get(_MANAGER[0], 0.0) or _initrd(messages)
    return Marks(
        initrd=initrd or None,
        userspace=told.get(_MANAGER[1], 0.0) or None,
        ready=told.get(_MANAGER[2], 0.0) or None,
        services=_slowest(_units(units, _STARTED), until=told.get(_MANAGER[2], 0.0)),
        source="systemd" if told.get(_MANAGER[0], 0.0) or not initrd else "systemd and the kernel's log",
    )


def of_openrc(
    messages: Iterable[tuple[float, str]], began: float | None, started: dict[str, float], serial: bool, *, start: float
) -> Marks:
    """began: when OpenRC did. started: when it had started each service. By the wall clock, both, and the boot's start.

    serial: one after the other, so that each began when the one before it had started.
    """
    initrd = _initrd(messages)
    times = [began - start if began else 0.0, *sorted(at - start for at in started.values())]
    if times[0] <= (initrd or 0.0):
        return Marks(initrd=initrd, source="the kernel's log: the clock was set since OpenRC has begun")
    names = sorted(started, key=lambda name: started[name])
    rows = [Service(name, times[number], times[number + 1]) for number, name in enumerate(names)]
    return Marks(
        initrd=initrd,
        userspace=times[0],
        ready=times[-1] if started else None,
        services=_slowest(rows) if serial else (),
        source="OpenRC and the kernel's log",
    )


def parse_kmsg(record: str) -> tuple[float, str] | None:
    """(seconds since the kernel's start, text) of one record of /dev/kmsg: "6,339,5140900,-;NET: Registered ..."."""
    head, separator, text = record.partition(";")
    fields = head.split(",")
    if not separator or len(fields) < 3 or not fields[2].isdecimal():
        return None
    return int(fields[2]) / 1e6, text.partition("\n")[0]


def _messages() -> Iterator[tuple[float, str]]:
    """What the kernel's log still has of its own messages."""
    with contextlib.suppress(OSError):
        fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while True:
                try:
                    record = os.read(fd, 1 << 13).decode(errors="replace")
                except BrokenPipeError:  # it was overwritten meanwhile, and the next one is read
                    continue
                if message := parse_kmsg(record):
                    yield message
        finally:
            os.close(fd)


def _initrd(messages: Iterable[tuple[float, str]]) -> float | None:
    for at, text in messages:
        if found := _RUNS.match(text):
            return at if found[1] == "/init" else None  # else that of the root: there was no initrd
    return None


def _properties(text: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in text.splitlines())


def _units(text: str, names: tuple[str, str, str]) -> Iterator[Service]:
    """names: the properties with the unit's name, and with the begin and the end, in microseconds."""
    for block in text.split("\n\n"):
        told = _properties(block)
        name, begin, end = (told.get(one, "") for one in names)
        if begin.isdecimal() and end.isdecimal() and 0 < int(begin) <= int(end):
            yield Service(name, int(begin) / 1e6, int(end) / 1e6)


def _slowest(services: Iterable[Service], *, until: float = 0.0) -> tuple[Service, ...]:
    """until: those that began later are no part of the boot; 0: all of them are."""
    slow = [one for one in services if one.end - one.begin >= SLOW and (not until or one.begin <= until)]
    slow = sorted(slow, key=lambda one: one.begin - one.end)[:SLOWEST]
    return tuple(sorted(slow, key=lambda one: one.begin))


def _openrc() -> tuple[float | None, dict[str, float], bool]:
    """What of_openrc wants to know."""
    started: dict[str, float] = {}
    began = None
    with contextlib.suppress(OSError):
        began = min(entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(OPENRC) if entry.is_dir())
        for entry in os.scandir(os.path.join(OPENRC, "started")):
            started[entry.name] = entry.stat(follow_symlinks=False).st_mtime
    parallel = re.search(r'^\s*rc_parallel=["\']?yes', _text(RC_CONF), re.MULTILINE | re.IGNORECASE)
    return began, started, not parallel


def _of_processes(messages: Iterable[tuple[float, str]]) -> Marks:
    ticks = os.sysconf("SC_CLK_TCK")
    first = min((one.start / ticks for one in proc.scan() if one.pid > 1 and not one.kernel_thread), default=LATE)
    if first >= LATE:
        return Marks(initrd=_initrd(messages), source="the kernel's log")
    return Marks(
        initrd=_initrd(messages), userspace=first, source="the kernel's log, and the first process that still runs"
    )


def _text(path: str) -> str:
    try:
        return read_text(path) or ""
    except OSError:
        return ""
