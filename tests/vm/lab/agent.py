# SPDX-License-Identifier: MIT
"""The client of the QEMU guest agent: runs commands in the guest over a virtio serial port.

The port outlives the guest's boots and the agent behind it does not. So nothing is sent to an agent that has
not just answered a guest-sync with a fresh number: what is written while nobody reads waits in QEMU, and an
exec that was meant for one boot would run in the next. Protocol:
https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.vm.lab.channel import Channel, Json
from tests.vm.lab.errors import AgentError, LabTimeout

SYNC_TIMEOUT = 3.0
"""Seconds within which a healthy agent answers a sync, emulation and a busy host included."""

POLL_FIRST, POLL_MAX = 0.02, 0.2
"""Seconds between two looks at a running command: short commands are answered soon, long ones are not
disturbed.
"""


@dataclass(frozen=True)
class Output:
    """What a command in the guest left behind."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Agent:
    """A guest agent client on a connected socket. Not for use by two threads at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._channel = Channel(sock, "agent")
        self._synced = False

    def sync(self, timeout: float = SYNC_TIMEOUT) -> None:
        """Return when the agent answers now, having dropped every older answer.

        LabTimeout when it does not.
        """
        deadline = time.monotonic() + timeout
        number = secrets.randbits(31)
        self._synced = False
        # The 0xFF byte makes the agent forget half a command that an earlier boot was sent.
        self._channel.send({"execute": "guest-sync-delimited", "arguments": {"id": number}}, prefix=b"\xff")
        while self._channel.receive(deadline).record.get("return") != number:
            pass
        self._synced = True

    def answers(self, timeout: float = SYNC_TIMEOUT) -> bool:
        """Whether the agent answers within `timeout` seconds."""
        try:
            self.sync(timeout)
        except LabTimeout:
            return False
        return True

    def call(self, command: str, arguments: Json | None = None, *, timeout: float = 10.0) -> Any:
        """Run one agent command; AgentError when the agent refuses, LabTimeout when it is silent."""
        deadline = time.monotonic() + timeout
        if not self._synced:
            self.sync(min(SYNC_TIMEOUT, timeout))
        self._synced = False
        self._channel.send({"execute": command, "arguments": arguments or {}})
        record = self._channel.receive(deadline).record
        self._synced = True
        if "error" in record:
            raise AgentError(f"{command}: {record['error'].get('desc', record['error'])}")
        return record.get("return")

    def spawn(
        self, argv: Sequence[str], data: bytes = b"", *, capture: bool = False, timeout: float = SYNC_TIMEOUT
    ) -> int:
        """Start a command, with `data` as its standard input, and return the agent's number for it.

        LabTimeout, with nothing sent, when the agent does not answer within `timeout` seconds.
        """
        self.sync(timeout)
        arguments: Json = {"path": argv[0], "arg": list(argv[1:]), "capture-output": capture}
        if data:
            arguments["input-data"] = base64.b64encode(data).decode()
        return int(self.call("guest-exec", arguments)["pid"])

    def run(self, argv: Sequence[str], data: bytes = b"", *, timeout: float = 30.0) -> Output:
        """Run a command to its end.

        One that does not end in `timeout` seconds goes on in the guest; LabTimeout says so.
        """
        deadline = time.monotonic() + timeout
        number = self.spawn(argv, data, capture=True, timeout=min(SYNC_TIMEOUT, timeout))
        pause = POLL_FIRST
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabTimeout(f"{' '.join(argv)}: still running after {timeout} s")
            try:
                status = self.call("guest-exec-status", {"pid": number}, timeout=max(left, 1.0))
            except AgentError as error:
                what = "the agent was restarted while it ran (use spawn() for what restarts the guest)"
                raise AgentError(f"{' '.join(argv)}: {what}: {error}") from None
            if status["exited"]:
                return _output(status)
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def _output(status: Json) -> Output:
    """A finished guest-exec-status; death by signal n is exit code 128 + n, as in a shell."""
    code = 128 + int(status["signal"]) if "signal" in status else int(status["exitcode"])
    return Output(
        code, base64.b64decode(status.get("out-data", "")), base64.b64decode(status.get("err-data", ""))
    )
