# SPDX-License-Identifier: MIT
"""Whether the new boot does what it is there for: the administrator's commands, units and addresses, all at once.

A round asks everything in parallel, each with a deadline, and is good if everything in it was. What may hang runs in a
child that can be left behind: a command, the init that is asked about a service, and the name server.

A command runs as root, so nobody but root may decide what it is; one that somebody else could replace is not run.
"""

from __future__ import annotations

import contextlib
import errno
import re
import select
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kexecd.config import trust
from kexecd.kernel.spawn import Spawned, start
from kexecd.wayback.child import ENDING, Child

COMMAND = 60.0
"""Seconds for a command of the administrator's."""

SERVICES = 30.0
"""Seconds for init to say how all the services are."""

REACHING = 10.0
"""Seconds for a name to be found and a connection to be made; TCP's first repetition is after one (RFC 6298)."""

CHARACTERS = 300  # of what somebody says, in a reason

_ADDRESS = re.compile(r"\[(?P<six>[0-9A-Fa-f:.%\w]+)\]:(?P<port6>[0-9]+)|(?P<host>[^:\s\[\]]+):(?P<port>[0-9]+)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What has to be good. commands: each in words; reach: `host:port`, or `[address]:port` for IPv6."""

    commands: tuple[tuple[str, ...], ...] = ()
    units: tuple[str, ...] = ()
    reach: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.commands or self.units or self.reach)


class Address(NamedTuple):
    host: str
    port: int


def address(text: str) -> Address | None:
    """The host and the port that are meant; None for what is none."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        return None
    port = int(match["port6"] or match["port"])
    return Address(match["six"] or match["host"], port) if 0 < port < 1 << 16 else None


def ask(
    wanted: Wanted,
    active: Callable[[tuple[str, ...]], dict[str, str]],
    *,
    seconds: float,
    heard: frozenset[int] = frozenset(),
) -> tuple[str, ...]:
    """One round: what is not good, as sentences; nothing, if all is. Ends after `seconds` at the latest.

    active: asks init about units or services, and says why for those that are not good. heard: descriptors that end
    the round as soon as one can be read, since whoever waits has something else to do.
    """
    probes: list[_Probe] = [_command(words) for words in wanted.commands]
    probes += [_reach(text) for text in wanted.reach]
    if wanted.units:
        probes.append(Child("; ".join(wanted.units), SERVICES, lambda: "; ".join(active(wanted.units).values())))
    try:
        return _all(probes, seconds, heard)
    finally:
        for probe in probes:
            probe.end()


class _Probe(Protocol):
    """One question at work. answer(): None as long as there is none; what is wrong; empty if nothing is."""

    @property
    def seconds(self) -> float: ...

    @property
    def fds(self) -> frozenset[int]: ...

    def answer(self, *, late: bool) -> str | None: ...

    def end(self) -> None: ...


class _Command:
    def __init__(self, words: tuple[str, ...], spawned: Spawned) -> None:
        self._words, self._spawned, self.seconds = words, spawned, COMMAND
        self._over = False

    @property
    def fds(self) -> frozenset[int]:
        return frozenset() if self._over else self._spawned.fds

    def answer(self, *, late: bool) -> str | None:
        named = shlex.join(self._words)
        if late:
            return f"`{named}` did not end in time"
        if not self._spawned.wait(0):
            return None
        self._over = True
        try:
            finished = self._spawned.finish()
        except OSError as error:
            return f"`{named}` could not be started: {(error.strerror or str(error)).lower()}"
        if finished.exit_code == 0:
            return ""
        said = f", and said: {finished.last_line[:CHARACTERS]}" if finished.last_line else ""
        how = f"exit status {finished.exit_code}" if finished.exit_code > 0 else f"signal {-finished.exit_code}"
        return f"`{named}` ended with {how}{said}"

    def end(self) -> None:
        if not self._over:
            self._over = True
            self._spawned.kill(ENDING)


class _Known:
    """What needs no asking."""

    seconds = 0.0
    fds: frozenset[int] = frozenset()

    def __init__(self, why: str) -> None:
        self._why = why

    def answer(self, *, late: bool) -> str | None:
        del late
        return self._why

    def end(self) -> None:
        """Nothing has begun."""


def _all(probes: Sequence[_Probe], seconds: float, heard: frozenset[int]) -> tuple[str, ...]:
    begin, left, wrong = time.monotonic(), list(probes), list[str]()
    while left:
        for probe in tuple(left):
            late = time.monotonic() >= begin + min(seconds, probe.seconds)
            answer = probe.answer(late=False)
            if answer is None and late:
                answer = probe.answer(late=True)
            if answer is not None:
                left.remove(probe)
                wrong += [answer] if answer else []
        end = begin + min(seconds, *(probe.seconds for probe in left)) if left else 0.0
        if left and _wait(left, heard, end - time.monotonic()):
            return (*wrong, "the round was cut short")
    return tuple(wrong)


def _wait(probes: Iterable[_Probe], heard: frozenset[int], seconds: float) -> bool:
    """Until one of them has something to say, or so many seconds; whether somebody else has."""
    poll = select.poll()
    for fd in heard.union(*(probe.fds for probe in probes)):
        poll.register(fd, select.POLLIN)
    # Rounded up: a timeout of 0 would spin until the clock arrives.
    return any(fd in heard for fd, _ in poll.poll(max(0, int(seconds * 1000) + 1)))


def _command(words: tuple[str, ...]) -> _Probe:
    """A file that only root could have put there, and every directory on the way to it (kexecd.config.trust)."""
    named = shlex.join(words)
    try:
        seen = trust.look(words[0])
        if seen.distrust:
            return _Known(f"`{named}` is not run: {seen.distrust[0].why}")
        return _Command(words, start(words))
    except OSError as error:
        why = "there is no such file" if error.errno == errno.ENOENT else (error.strerror or str(error)).lower()
        return _Known(f"`{named}` could not be started: {why}")


def _reach(text: str) -> _Probe:
    where = address(text)
    return Child(text, REACHING, lambda: _connect(where)) if where else _Known(f"{text} is no address")


def _connect(where: Address) -> str:
    """Every address of that name, until one takes a connection."""
    why = "it has no address"
    try:
        for family, kind, protocol, _, place in socket.getaddrinfo(*where, type=socket.SOCK_STREAM):
            with contextlib.closing(socket.socket(family, kind, protocol)) as there:
                there.settimeout(REACHING)
                try:
                    there.connect(place)
                except OSError as error:
                    why = (error.strerror or str(error)).lower()
                else:
                    return ""
    except OSError as error:  # gaierror is one
        why = (error.strerror or str(error)).lower()
    return f"{where.host}:{where.port} cannot be reached: {why}"
