# SPDX-License-Identifier: MIT
"""QMP, QEMU's own control socket: commands with a deadline, and events with the host's time.

Events are the part of the oracle that the guest cannot forge: RESET says that the machine was reset, SHUTDOWN
that it was powered off. Protocol: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import itertools
import socket
import time
from dataclasses import dataclass
from typing import Any

from tests.vm.lab.channel import Channel, Json, Received
from tests.vm.lab.errors import QmpError


@dataclass(frozen=True)
class Event:
    """A QMP event: its name, the host's monotonic time in seconds when it arrived, and why QEMU sent it."""

    name: str
    at: float
    reason: str = ""


class Qmp:
    """A QMP client on a connected socket."""

    def __init__(self, sock: socket.socket, timeout: float = 30.0) -> None:
        """Wait for QEMU's greeting and leave negotiation mode; `timeout` in seconds."""
        self._events: list[Event] = []
        self._ids = itertools.count(1)
        self._channel = Channel(sock, "qmp", self._keep_event)
        self._channel.receive(time.monotonic() + timeout)
        self.execute("qmp_capabilities", timeout=timeout)

    def execute(self, command: str, arguments: Json | None = None, *, timeout: float = 10.0) -> Any:
        """Run a command and return what it returns; QmpError, LabTimeout or QemuGone when it does not."""
        deadline = time.monotonic() + timeout
        ident = next(self._ids)
        self._channel.send({"execute": command, "arguments": arguments or {}, "id": ident})
        while True:
            record = self._channel.receive(deadline).record
            if record.get("id") != ident:
                continue  # the late answer to a command that ran out of time
            if "error" in record:
                raise QmpError(f"{command}: {record['error'].get('desc', record['error'])}")
            return record.get("return")

    def monitor(self, line: str, *, timeout: float = 60.0) -> None:
        """Run a command of the human monitor, whose only sign of failure is that it prints something."""
        said = self.execute("human-monitor-command", {"command-line": line}, timeout=timeout)
        if said:
            raise QmpError(f"{line}: {said.strip()}")

    def events(self, since: int = 0) -> tuple[Event, ...]:
        """Every event from number `since` on."""
        return tuple(self._events[since:])

    @property
    def event_count(self) -> int:
        """How many events came so far; a position for events()."""
        return len(self._events)

    @property
    def closed(self) -> bool:
        """Whether QEMU has hung up, which it does when it ends."""
        return self._channel.closed

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _keep_event(self, received: Received) -> bool:
        name = received.record.get("event")
        if name is None:
            return False
        reason = received.record.get("data", {}).get("reason", "")
        self._events.append(Event(str(name), received.at, str(reason)))
        return True
