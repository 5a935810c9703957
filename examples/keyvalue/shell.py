# SPDX-License-Identifier: MIT
"""shell.py SOCKET fill COUNT | sum | set KEY VALUE | get KEY: a client of server.py that reconnects.

What was not acknowledged is said again, to whatever server is there next: a restart is a pause, and no error.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterable

PATIENCE = 120.0  # seconds without a server: a restart
AGAIN = 0.1
WINDOW = 256  # questions on their way


class Client:
    def __init__(self, path: str, *, patience: float = PATIENCE) -> None:
        self._path, self._patience = path, patience
        self._socket: socket.socket | None = None

    def ask(self, question: bytes) -> bytes:
        return next(iter(self.ask_all([question])))

    def ask_all(self, questions: Iterable[bytes]) -> list[bytes]:
        """The answers, in order."""
        waiting, answers = list(questions), list[bytes]()
        until = time.monotonic() + self._patience
        while waiting:
            try:
                answers += self._some(waiting[:WINDOW])
                waiting = waiting[WINDOW:]
                until = time.monotonic() + self._patience
            except (OSError, EOFError):
                self._socket = None
                if time.monotonic() > until:
                    raise
                time.sleep(AGAIN)  # nothing tells when another machine's kernel is up, and this may be one
        return answers

    def _some(self, questions: list[bytes]) -> list[bytes]:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(self._patience)
            self._socket.connect(self._path)
        self._socket.sendall(b"".join(question + b"\n" for question in questions))
        data = b""
        while data.count(b"\n") < len(questions):
            part = self._socket.recv(1 << 16)
            if not part:
                raise EOFError
            data += part
        answers = data.splitlines()
        if b"FROZEN" in answers:
            raise EOFError
        return answers


def main(words: list[str]) -> int:
    client = Client(words[0])
    match words[1:]:
        case ["fill", count]:
            client.ask_all(f"SET key-{number} value-of-{number * 7919}".encode() for number in range(int(count)))
            print(f"{count} acknowledged")
        case ["sum"]:
            _, keys, writes, checksum = client.ask(b"SUM").decode().split()
            print(f"{keys} keys, {writes} writes, {checksum}")
        case ["set", key, value]:
            print(client.ask(f"SET {key} {value}".encode()).decode())
        case ["get", key]:
            print(client.ask(f"GET {key}".encode()).decode())
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
