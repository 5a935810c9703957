# SPDX-License-Identifier: MIT
"""What an application imports to hand memory over a restart, and to get it back: nothing of ours comes with it.

    from kexecd import client

    table = client.get("table")                       # None in the very first boot
    if table is None:
        table = os.memfd_create("table", os.MFD_CLOEXEC)
        client.put("table", table)                    # refused at once if it could not be carried

What was put stays with the holder (kexecd.liveupdate) until it is dropped, over any number of restarts. It is the same
memory on both sides: whatever is written into it until everybody has been asked to quit is there in the next kernel.
Names belong to the user who put them; nobody else but root sees them. Between the freeze and the jump the size of a
memfd cannot grow any more. How it is spoken: docs/state.md.
"""

from __future__ import annotations

import errno
import json
import os
import socket

TYPE_CHECKING = False  # what the type checker takes for true; the module of that name costs more than this one
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

SOCKET = "/run/kexecd/state"
LIMIT = 1 << 16  # bytes of a message
SECONDS = 10.0  # until the holder has to answer


class NotDone(OSError):
    """The holder said no: `errno`, and in `strerror` why, as a sentence without a full stop."""


class Held:
    """What is known of one memfd that was handed over.

    name, uid, bytes: whose, and how large. state: `normal`, or `updated` until its owner has got it in this boot.
    seals: as fcntl(F_GET_SEALS) says it. sha256: of the content, where it cannot change any more; else empty.
    frozen_at: seconds since the epoch when the last restart took it along; 0.0 if none did.
    """

    __slots__ = ("bytes", "frozen_at", "name", "seals", "sha256", "state", "uid")

    def __init__(self, told: dict[str, Any]) -> None:
        self.name, self.uid, self.bytes = str(told["name"]), int(told["uid"]), int(told["bytes"])
        self.state, self.seals, self.sha256 = str(told["state"]), int(told["seals"]), str(told["sha256"])
        self.frozen_at = float(told["frozen_at"])


class Connection:
    """A conversation with the holder. Raises OSError where none listens, NotDone where it refuses."""

    def __init__(self, path: str = SOCKET, *, seconds: float = SECONDS) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def put(self, name: str, fd: int) -> Held:
        """Hand over a memfd, in place of what has this name; the descriptor stays the caller's as well."""
        answer, _ = self.ask({"do": "put", "name": name}, fd)
        return Held(answer["held"])

    def get(self, name: str, *, uid: int | None = None) -> int | None:
        """A descriptor of it, the caller's own to close; None if nothing has this name. uid: another's, for root."""
        try:
            _, fd = self.ask({"do": "get", "name": name, **_whose(uid)})
        except NotDone as no:
            if no.errno == errno.ENOENT:
                return None
            raise
        return fd

    def drop(self, name: str, *, uid: int | None = None) -> bool:
        """Have it held no longer; False if nothing had this name."""
        try:
            self.ask({"do": "drop", "name": name, **_whose(uid)})
        except NotDone as no:
            if no.errno == errno.ENOENT:
                return False
            raise
        return True

    def list(self) -> list[Held]:
        """What the caller has handed over; for root, what everybody has."""
        found: list[Held] = []
        more = True
        while more:
            after = {"after": [found[-1].uid, found[-1].name]} if found else {}
            answer, _ = self.ask({"do": "list", **after})
            found += [Held(told) for told in answer["held"]]
            more = bool(answer["more"])
        return found

    def status(self) -> dict[str, Any]:
        """docs/state.md: the state of the whole, how much is held, what carries it, what was lost."""
        return self.ask({"do": "status"})[0]

    def ask(self, question: dict[str, Any], fd: int | None = None) -> tuple[dict[str, Any], int | None]:
        """One question of the protocol: the answer, and the descriptor that came with it."""
        message = json.dumps(question).encode()
        if len(message) > LIMIT:
            raise NotDone(errno.EMSGSIZE, "the question is too long")
        socket.send_fds(self._socket, [message], [] if fd is None else [fd])
        data, fds, flags, _ = socket.recv_fds(self._socket, LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
        try:
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the holder has hung up")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise NotDone(errno.EMFILE, "no room for the answer: too many descriptors are open here")
            answer = json.loads(data)
            if not answer["done"]:
                raise NotDone(int(answer["errno"]), str(answer["why"]))
        except BaseException:
            for one in fds:
                os.close(one)
            raise
        return answer, fds[0] if fds else None


def put(name: str, fd: int, *, path: str = SOCKET) -> Held:
    with Connection(path) as connection:
        return connection.put(name, fd)


def get(name: str, *, path: str = SOCKET) -> int | None:
    with Connection(path) as connection:
        return connection.get(name)


def drop(name: str, *, path: str = SOCKET) -> bool:
    with Connection(path) as connection:
        return connection.drop(name)


def _whose(uid: int | None) -> dict[str, int]:
    return {} if uid is None else {"uid": uid}
