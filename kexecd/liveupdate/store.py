# SPDX-License-Identifier: MIT
"""What is held now: named memfds, each its owner's, and how far a restart has come with them.

Knows no socket, and waits for nothing: what takes time is kexecd.liveupdate.freezing, in a child. The states are those
of a restart (kexecd.model.State): `normal`; `prepared`, everything could be carried; `frozen`, it is on its way, and
nothing is taken or dropped any more; `updated`, it has come over, and somebody has not got his back yet.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from kexecd.errors import Busy, NoMemory, NotPermitted, Unsupported
from kexecd.liveupdate import memory
from kexecd.liveupdate.index import Carrier, Entry
from kexecd.liveupdate.memory import Shape
from kexecd.model import State

Key = tuple[int, str]

MOST = 4096
"""Of everybody together: each is a descriptor of the holder's, and two while it is frozen."""

NOBODY = 65534
"""What a user is called who is none of ours: of a container, who is not told apart from any other."""


@dataclass(frozen=True, slots=True)
class Limits:
    """For each user but root. count: memfds; bytes: of all of them."""

    count: int = 256
    bytes: int = 1 << 30


@dataclass(slots=True)
class Held:
    """One memfd; `fd` is ours. tried: how many bytes of it the running kernel has taken already, -1 for none."""

    uid: int
    name: str
    fd: int
    identity: tuple[int, int]
    sha256: str = ""  # of what can no longer change
    updated: bool = False
    frozen_at: float = 0.0
    tried: int = -1

    @property
    def bytes(self) -> int:
        """As it is now: whoever has it may have let it grow."""
        return os.fstat(self.fd).st_size

    def as_json(self) -> dict[str, object]:
        shape = memory.shape(self.fd)
        return {
            "name": self.name,
            "uid": self.uid,
            "bytes": shape.bytes,
            "seals": shape.seals,
            "sha256": self.sha256,
            "state": str(State.UPDATED if self.updated else State.NORMAL),
            "frozen_at": self.frozen_at,
        }


@dataclass(slots=True)
class Store:
    """carrier, why: what will carry it, or has, once that is decided. lost: why not, of what did not come over.

    missed: those of the lost whom the application may still have: a restart would take even that.
    session: the descriptor of live update's session while that carries it, else -1.
    """

    limits: Limits = field(default_factory=Limits)
    state: State = State.NORMAL
    carrier: Carrier | None = None
    why: str = ""
    lost: dict[Key, str] = field(default_factory=dict)
    missed: set[Key] = field(default_factory=set)
    session: int = -1
    _held: dict[Key, Held] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        return sum(held.bytes for held in self._held.values())

    def everything(self) -> tuple[Held, ...]:
        return tuple(self._held[key] for key in sorted(self._held))

    def admit(self, uid: int, name: str, fd: int) -> Shape:
        """Whether a user may have this held under that name. Raises a Refusal; changes nothing."""
        what = f"cannot hold {name}"
        self._refuse_frozen(what)
        if uid == NOBODY:
            why = "it comes from the user nobody, who cannot be told apart from the users of containers"
            raise NotPermitted(what, why, errno=errno.EPERM)
        shape = memory.shape(fd)
        own, replaced = self._of(uid), self._held.get((uid, name))
        identity = memory.identity(fd)
        others = [held for held in self._held.values() if held is not replaced]
        double = next((held for held in others if held.identity == identity), None)
        if double is not None:
            why = f"it is held as {double.name} already" if double.uid == uid else "another user has it held"
            raise Busy(what, why, errno=errno.EBUSY)
        count = len(own) - (replaced is not None)
        if len(self._held) - (replaced is not None) >= MOST or (uid and count >= self.limits.count):
            why = f"{count} of {self.limits.count if uid else MOST} are held for this user already"
            raise NoMemory(what, why, errno=errno.EDQUOT, hint="drop one that is not needed")
        self._check_bytes(uid, shape.bytes + sum(held.bytes for held in own if held is not replaced), what)
        return shape

    def keep(self, uid: int, name: str, fd: int, *, updated: bool = False, frozen_at: float = 0.0) -> Held:
        """Hold it; the descriptor is ours from here on. What had this name is let go."""
        held = Held(uid, name, fd, memory.identity(fd), updated=updated, frozen_at=frozen_at)
        self._let_go((uid, name))
        self._held[uid, name] = held
        self._found((uid, name))
        return held

    def get(self, caller: int, uid: int, name: str) -> Held:
        """Raises a Refusal: errno ENOENT where there is none, ENODATA where it did not come over."""
        held = self._find(caller, uid, name, f"cannot give back {name}")
        if caller == uid:
            held.updated = False
            if self.state is State.UPDATED and not any(other.updated for other in self._held.values()):
                self.state = State.NORMAL
        return held

    def drop(self, caller: int, uid: int, name: str) -> None:
        """Raises a Refusal."""
        what = f"cannot drop {name}"
        self._refuse_frozen(what)
        if (uid, name) in self.lost and caller in (0, uid):
            self._found((uid, name))
            return
        self._find(caller, uid, name, what)
        self._let_go((uid, name))

    def page(self, caller: int, after: Key | None, most: int) -> tuple[tuple[Held, ...], bool]:
        """What the caller may see, in order, behind `after`; and whether there is more."""
        keys = sorted(key for key in self._held if caller in (0, key[0]))
        first = bisect_right(keys, after) if after else 0
        return tuple(self._held[key] for key in keys[first : first + most]), len(keys) > first + most

    def lost_of(self, caller: int) -> dict[Key, str]:
        return {key: why for key, why in self.lost.items() if caller in (0, key[0])}

    def check(self) -> tuple[Entry, ...]:
        """Everything as it is now, if it may go as it is. Raises a Refusal: somebody has let his grow."""
        what = "cannot carry what applications have handed over"
        if self.missed:
            uid, name = min(self.missed)
            more = f", and {len(self.missed) - 1} more" if len(self.missed) > 1 else ""
            why = f"{name} of user {uid}{more} is not held any more, since its holder was killed"
            hint = "start the application again, or drop it"
            raise memory.Lost(what, f"{why}: {hint}", errno=errno.ENODATA)
        for uid in {held.uid for held in self._held.values()}:
            self._check_bytes(uid, sum(held.bytes for held in self._of(uid)), what, name=f"user {uid}")
        return self.entries()

    def entries(self) -> tuple[Entry, ...]:
        """In the order of everything(). Raises a Refusal if one of them cannot be carried any more."""
        return tuple(Entry(held.uid, held.name, memory.shape(held.fd), held.sha256) for held in self.everything())

    def prepared(self, carrier: Carrier, why: str) -> None:
        self.state, self.carrier, self.why = State.PREPARED, carrier, why

    def frozen(self, carrier: Carrier, why: str, session: int = -1) -> None:
        self.state, self.carrier, self.why, self.session = State.FROZEN, carrier, why, session

    def thaw(self) -> None:
        """Back to where it can be used: sizes can change again once the session is closed."""
        if self.session >= 0:
            os.close(self.session)
        self.session, self.carrier, self.why = -1, None, ""
        updated = any(held.updated for held in self._held.values())
        self.state = State.UPDATED if updated else State.NORMAL

    def finish(self) -> None:
        """The restart that led here is over. What was not got back is held on all the same."""
        if self.state is State.UPDATED:
            self.state = State.NORMAL
        for held in self._held.values():
            held.updated = False

    def came_over(
        self, restored: Iterable[tuple[Entry, int]], lost: Iterable[tuple[Entry, str]], at: float, *, tried: bool
    ) -> None:
        """At the start: what the kernel before has left, and what did not arrive. tried: memory has carried it."""
        for entry, fd in restored:
            held = self.keep(entry.uid, entry.name, fd, updated=True, frozen_at=at)
            held.tried = entry.shape.bytes if tried else -1
            held.sha256 = entry.sha256 if entry.shape.final else ""
            self.state = State.UPDATED
        for entry, why in lost:
            self.lost[entry.uid, entry.name] = why

    def miss(self, keys: Iterable[Key]) -> None:
        """At the start: what an earlier holder of this boot had, and we have not."""
        for key in keys:
            if key not in self._held and key not in self.lost:
                self.lost[key] = "its holder was killed; whoever has it open still has it, and may put it again"
                self.missed.add(key)

    def close(self) -> None:
        for key in tuple(self._held):
            self._let_go(key)
        if self.session >= 0:
            os.close(self.session)
            self.session = -1

    def _found(self, key: Key) -> None:
        self.lost.pop(key, None)
        self.missed.discard(key)

    def _of(self, uid: int) -> list[Held]:
        return [held for held in self._held.values() if held.uid == uid]

    def _find(self, caller: int, uid: int, name: str, what: str) -> Held:
        if caller not in (0, uid):
            raise NotPermitted(what, f"it is user {uid}'s, and only root may use another's", errno=errno.EPERM)
        if (held := self._held.get((uid, name))) is not None:
            return held
        if why := self.lost.get((uid, name)):
            raise memory.Lost(what, f"it did not come over the restart: {why}", errno=errno.ENODATA)
        raise Unsupported(what, "nothing of this name is held", errno=errno.ENOENT)

    def _let_go(self, key: Key) -> None:
        if (held := self._held.pop(key, None)) is not None:
            os.close(held.fd)

    def _refuse_frozen(self, what: str) -> None:
        if self.state is State.FROZEN:
            raise Busy(what, "everything is frozen, since this machine restarts", errno=errno.EBUSY)

    def _check_bytes(self, uid: int, wanted: int, what: str, *, name: str = "this user") -> None:
        if uid and wanted > self.limits.bytes:
            why = f"{name} would have {_mib(wanted)} held, and {_mib(self.limits.bytes)} are the limit"
            raise NoMemory(what, why, errno=errno.EDQUOT, hint="state.size in kexecd.yaml is the limit")


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
