# SPDX-License-Identifier: MIT
"""What the D-Bus face has done, by command lines of kexecctl; and what becomes of a restart, whoever asked for it.

A restart tells what it does in files (/run/kexecd/state.json and events.jsonl), not to us: it goes on without us.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from kexecd import handoff, state
from kexecd.daemon import child
from kexecd.loop import Changes, Ended, Loop
from kexecd.model import Event, EventKind, State
from kexecd.record import RUN_DIR
from kexecd.report.events import EVENTS_FILE, parse

ERRORS_LIMIT = 1 << 20  # bytes of stderr that are kept
PAUSE = 0.25
"""Seconds from something new in a file until it is read: a restart has better things to do than to wake us each time.
"""

PIECE = 1 << 16

NEWS = frozenset((state.NAME, state.FINISHED, EVENTS_FILE))
"""What tells of a restart."""

Done = Callable[[int, bytes, bytes], None]
"""Exit status, stdout, stderr."""


class Deeds:
    """on_state: called with a state that has just been reached. on_event: with what somebody walking a plan has said.
    Neither is called for what was there before."""

    def __init__(self, loop: Loop, run_dir: str = RUN_DIR) -> None:
        """run_dir has to be there."""
        self._loop, self._run_dir = loop, run_dir
        self.on_state: Callable[[State], object] = _nothing
        self.on_event: Callable[[Event], object] = _nothing
        self.begun = 0
        self._arrived = handoff.arrival().how is handoff.How.KEXEC
        self._state = self.state
        self._events, self._read, self._rest = self._open_events(), 0, b""
        if self._events is not None:
            self._read = os.fstat(self._events).st_size
        self._news = Changes(loop, run_dir, NEWS, self._tell, pause=PAUSE)

    def run(self, argv: tuple[str, ...], done: Done, seconds: float) -> None:
        """Do what `kexecctl ARGV` does, in a child that is killed after `seconds`; never waits. Raises OSError."""
        errors = os.memfd_create("errors")

        def work(writer: int) -> int:
            null = os.open(os.devnull, os.O_RDONLY)
            for number, fd in enumerate((null, writer, errors)):
                os.dup2(fd, number)
            child.leave_daemon()
            return child.run(argv, {})

        def ended(end: Ended) -> None:
            said = os.pread(errors, ERRORS_LIMIT, 0)
            os.close(errors)
            done(end.code, end.output, said)

        try:
            self._loop.child(work, ended, seconds=seconds)
        except OSError:
            os.close(errors)
            raise
        self.begun += 1

    @property
    def state(self) -> State:
        return state.now(self._run_dir, arrived=self._arrived)

    def close(self) -> None:
        self._news.close()
        if self._events is not None:
            os.close(self._events)

    def _tell(self) -> None:
        for event in self._new_events():
            self.on_event(event)
            if event.kind is EventKind.COMMIT:
                # Whoever could hear what follows quits now, and the way down has a better use for the processor.
                self._news.close()
        if (now := self.state) is not self._state:
            self._state = now
            self.on_state(now)

    def _new_events(self) -> list[Event]:
        found = []
        there = self._open_events()
        if there is not None and self._events is not None and os.path.sameopenfile(there, self._events):
            os.close(there)
        elif there is not None:
            if self._events is not None:
                os.close(self._events)
            self._events, self._read, self._rest = there, 0, b""
        if self._events is None:
            return []
        if os.fstat(self._events).st_size < self._read:  # a new restart begins it anew
            self._read, self._rest = 0, b""
        while part := os.pread(self._events, PIECE, self._read):
            self._read += len(part)
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                try:
                    found.append(parse(json.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError):  # a line of which the beginning was lost
                    continue
        return found

    def _open_events(self) -> int | None:
        try:
            return os.open(os.path.join(self._run_dir, EVENTS_FILE), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None


def _nothing(what: object) -> None:
    del what
