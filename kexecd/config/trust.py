# SPDX-License-Identifier: MIT
"""Whether nobody but root decides what a program is: every directory, link and file on the way to it is root's alone.

Who may write to any of them can put another program in its place, before or after we look; if nobody can, nothing has
to be looked at again. A network or FUSE filesystem is not even asked: its server, or whoever mounted it, says whose its
files are, and one that does not answer would hold us. Below another root, whoever that directory belongs to counts as
root too, so that a captured tree can be looked at.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from kexecd.config.policy import untrusted
from kexecd.kernel import mountinfo
from kexecd.kernel.files import MOST_LINKS
from kexecd.kernel.mountinfo import Kind

NEEDED = frozenset(("/", "/usr"))
"""If these are on a server that does not answer, nothing of ours runs either."""


@dataclass(frozen=True, slots=True)
class Distrust:
    """why: a sentence without a full stop, with the path. remedy: shell commands."""

    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a path leads to, from inside the root: status is that of the end of the way."""

    target: str
    status: os.stat_result
    distrust: tuple[Distrust, ...] = ()


def look(path: str, root: str = "/") -> Look:
    """Walk to `path` and judge what is on the way. Nothing is opened. Raises OSError where it leads to nothing.

    EREMOTE: to a filesystem that is not asked.
    """
    owners = {0} if root == "/" else {0, os.stat(root).st_uid}
    distrust: dict[str, Distrust] = {}
    target, status = "/", os.stat(root)
    for target, status in _walk(path, root):
        if found := _judge(target, status, owners, root):
            distrust[target] = found
    return Look(target, status, tuple(distrust.values()))


def _judge(path: str, status: os.stat_result, owners: set[int], root: str) -> Distrust | None:
    link = stat.S_ISLNK(status.st_mode)
    # A link's mode says nothing (symlink(7)); who may replace it is up to its directory.
    why = untrusted(0 if status.st_uid in owners else status.st_uid, 0 if link else status.st_mode)
    if not why:
        return None
    shown = shlex.quote(path if root == "/" else root.rstrip("/") + path)
    remedy = f"chown -h root: {shown}" if link else f"chown root: {shown}; chmod go-w {shown}"
    return Distrust(f"{path} cannot be trusted: {why}", remedy)


def _walk(path: str, root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything on the way to `path` with its status, links followed inside `root`, the end of the way last."""
    top, done, rest, links = root.rstrip("/"), "", path.split("/")[::-1], 0
    elsewhere = _elsewhere() if root == "/" else {}
    yield "/", os.stat(root)
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        done = f"{done}/{part}"
        if done in elsewhere:
            raise OSError(errno.EREMOTE, f"it is on {done}, which is {elsewhere[done]} and may not answer", path)
        status = os.lstat(top + done)
        yield done, status
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            link = os.readlink(top + done)
            done = "" if link.startswith("/") else done.rpartition("/")[0]
            rest += link.split("/")[::-1]


def _elsewhere() -> dict[str, str]:
    """Mount points whose content a server or a process keeps, with the filesystem's type."""
    foreign = (mount for mount in mountinfo.read() if mountinfo.kind(mount) in (Kind.NETWORK, Kind.FUSE))
    return {mount.point: mount.fstype for mount in foreign if mount.point not in NEEDED}
